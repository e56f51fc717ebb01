"""What PostgreSQL or the way to it said, as a `BackendError` that says what to do.

PostgreSQL's own primary message is passed on where it can hold nothing but names of this tenant's things.
"""

import psycopg
from psycopg import errors

from tenantry.api.conditions import Reason
from tenantry.backends.errors import BackendError
from tenantry.desired.postgres.things import CONNECT_ROLE, MAKER

_SEE = "docs/postgres.md shows what the admin needs"


class Busy(BackendError):
    """Another session holds a lock that was wanted."""


class NoDatabase(BackendError):
    """The server answers, and says that it has no such database."""


def connecting(error: Exception) -> BackendError:
    """A connection that could not be made.  libpq gives no SQLSTATE here, so the text has to tell."""
    text = str(error).lower()
    if "password" in text or "authentication" in text or ("role" in text and "does not exist" in text):
        return BackendError(
            Reason.CREDENTIALS_MISSING,
            "PostgreSQL refused the operator's user name or password; correct the Secret that the DataRegion's "
            "spec.postgres.credentialsSecret names",
        )
    if "no pg_hba.conf entry" in text:
        return BackendError(
            Reason.DATABASE_REFUSED,
            "PostgreSQL's pg_hba.conf does not let the operator in; add its address, or set the DataRegion's "
            "spec.postgres.sslmode to what the server demands",
        )
    if "database" in text and ("does not exist" in text or "permission denied" in text):
        kind = NoDatabase if "does not exist" in text else BackendError
        return kind(
            Reason.DATABASE_REFUSED,
            f"PostgreSQL has no application database that the operator may use; create it ({_SEE}) or correct "
            "the DataRegion's spec.postgres.database",
        )
    if "too many" in text or "connection slots" in text:
        return out_of_connections()
    if "certificate" in text or "ssl" in text:
        return BackendError(
            Reason.DATABASE_UNAVAILABLE,
            "PostgreSQL's TLS could not be agreed on or verified; check its certificate and the DataRegion's "
            "spec.postgres.sslmode",
        )
    return unavailable("does not answer")


def unavailable(what: str) -> BackendError:
    return BackendError(
        Reason.DATABASE_UNAVAILABLE,
        f"PostgreSQL {what}; check that it runs and that the DataRegion's spec.postgres.host and port are right. "
        "The operator tries again",
    )


def out_of_connections() -> BackendError:
    return BackendError(
        Reason.DATABASE_UNAVAILABLE,
        "PostgreSQL has no free connection; raise its max_connections or end idle sessions. The operator tries again",
    )


def slow(seconds: float) -> BackendError:
    return BackendError(
        Reason.DATABASE_UNAVAILABLE,
        f"PostgreSQL did not answer within {seconds:.0f} s; check its load and its network. The operator tries again",
    )


def running(error: psycopg.Error, what: str) -> BackendError:
    """A statement that failed; `what` names what was wanted, such as "grants on schema tenant_acme"."""
    said = error.diag.message_primary or "the connection was lost"
    hint = error.diag.message_hint or ""
    group = (error.sqlstate or "")[:2]
    if isinstance(error, errors.InsufficientPrivilege):
        if f'"{CONNECT_ROLE}"' in said or f'"{MAKER}' in said:
            return BackendError(
                Reason.DATABASE_REFUSED,
                f"Another admin made the roles of this PostgreSQL that all tenants share ({said}); let spec.postgres."
                f"credentialsSecret of all DataRegions on one server name the same admin ({_SEE})",
            )
        return BackendError(
            Reason.DATABASE_REFUSED, f"PostgreSQL does not let the operator's admin set {what} ({said}); {_SEE}"
        )
    if isinstance(error, errors.ReadOnlySqlTransaction):
        return BackendError(
            Reason.DATABASE_UNAVAILABLE,
            "PostgreSQL is read-only; point the DataRegion's spec.postgres.host at the primary, or end its "
            "read-only mode. The operator tries again",
        )
    if isinstance(error, errors.TooManyConnections):
        return out_of_connections()
    if isinstance(error, errors.OutOfMemory) and "max_locks_per_transaction" in said + hint:
        return BackendError(
            Reason.CAPACITY_EXHAUSTED,
            f"PostgreSQL can't lock as many objects at once as {what} needs; raise its max_locks_per_transaction",
        )
    if group == "53":
        return BackendError(
            Reason.DATABASE_UNAVAILABLE, f"PostgreSQL is out of disk or memory ({said}); the operator tries again"
        )
    if isinstance(error, errors.QueryCanceled):
        return BackendError(
            Reason.DATABASE_UNAVAILABLE, f"PostgreSQL is slow: {what} took too long; the operator tries again"
        )
    if isinstance(error, errors.LockNotAvailable):
        locked = Busy(
            Reason.DATABASE_UNAVAILABLE,
            f"Another session of PostgreSQL holds a lock on {what}; end it if it lasts. The operator tries again",
        )
        locked.own = True  # a tenant may lock its own tables for as long as it likes
        return locked
    if isinstance(error, errors.ObjectInUse):
        return BackendError(
            Reason.DATABASE_REFUSED,
            f"PostgreSQL can't set {what}: somebody else is connected ({said}); end those sessions",
        )
    if group in ("", "08", "57"):
        return unavailable("ended the connection")
    if group == "40" or isinstance(
        error, (errors.UniqueViolation, errors.DuplicateObject, errors.DuplicateSchema, errors.DuplicateDatabase)
    ):
        return retrying(what)
    if isinstance(error, errors.InternalError_) and "concurrently" in said:
        return retrying(what)
    return BackendError(Reason.DATABASE_REFUSED, f"PostgreSQL refused {what}: {said}; {_SEE}")


def unseen(application: str, place: str) -> BackendError:
    """At a deletion: the application database is said not to be there, and nobody could make sure."""
    return BackendError(
        Reason.DATABASE_REFUSED,
        f"PostgreSQL says that it has no database {application}, so what the tenant had in it can't be dealt with, and "
        f"the operator's admin may not connect to database {place} to make sure. If it was dropped for good: GRANT "
        f"CONNECT ON DATABASE {place} TO the admin, or create an empty database {application} that the admin owns. If "
        "not, restore it or correct the DataRegion's spec.postgres",
    )


def moved(application: str, databases: str) -> BackendError:
    """At a deletion: what the tenant has lies elsewhere."""
    return BackendError(
        Reason.DATABASE_REFUSED,
        f"PostgreSQL has no database {application}, but the tenant's roles own things in {databases}: was it renamed? "
        "Name the one with the tenant's data in the DataRegion's spec.postgres.database",
    )


def retrying(what: str) -> BackendError:
    return BackendError(
        Reason.RETRYING, f"Somebody else changed {what} in PostgreSQL at the same moment; the operator tries again"
    )


def warned(what: str, warning: str) -> BackendError:
    """PostgreSQL only warns where it leaves a privilege as it was; for a wall that is an error."""
    return BackendError(
        Reason.DATABASE_REFUSED,
        f"PostgreSQL did not let the operator's admin set {what} ({warning}); {_SEE}, else a superuser must do it",
    )


def unmended(what: str) -> BackendError:
    return BackendError(
        Reason.DATABASE_REFUSED,
        f"PostgreSQL accepted {what}, but it does not hold: another program or a superuser's grant is in the way; "
        f"find it and end it ({_SEE})",
    )
