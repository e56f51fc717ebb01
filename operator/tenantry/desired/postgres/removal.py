"""Statements that take a tenant's things away, or keep its data out of everybody's reach."""

from collections.abc import Collection, Iterable, Sequence

from psycopg import sql

from tenantry.desired.postgres.seen import Inside, SeenThing, Shared
from tenantry.desired.postgres.shared import owns_database
from tenantry.desired.postgres.statements import Correction, Statement, comment, statement
from tenantry.desired.postgres.things import CONNECT_COMMENT, Policy, Things


def roles(things: Things, seen: Shared) -> list[str]:
    """Those of the tenant's roles that are there and its own."""
    return [name for name in things.roles if name in seen.roles and things.owns(seen.roles[name].comment)]


def databases(things: Things, seen: Shared) -> list[str]:
    """The tenant's own database, in use or retained."""
    return [
        name
        for name in (things.database, things.retained_database)
        if name in seen.databases and owns_database(things, seen.databases[name])
    ]


def lock_out(things: Things, own: Collection[str], seen: Shared) -> Correction | None:
    """Nobody logs in as the tenant or its runtime any more; the admin may end their sessions."""
    found: list[Statement] = []
    unusable = [name for name in own if not seen.roles[name].usable]
    if unusable:
        maker = seen.roles.get(things.maker)
        if maker and maker.comment == CONNECT_COMMENT and not maker.usable:
            found.append(statement("GRANT {} TO CURRENT_USER", things.maker))
        found.append(statement("GRANT {roles} TO CURRENT_USER", roles=_list(unusable)))
    found += [statement("ALTER ROLE {} WITH NOLOGIN", name) for name in own if "login" in seen.roles[name].flags]
    return Correction(f"the logins of {things.schema}", tuple(found)) if found else None


SESSIONS = sql.SQL(
    "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE usename = ANY(%(roles)s)"
    " OR (usename = current_user AND datname = ANY(%(databases)s) AND pid <> pg_backend_pid())"
)
"""Ends the roles' sessions, and the admin's that a crash left in the tenant's own database, and waits for it, at
most 5 s each; how many there were."""

ELSEWHERE = sql.SQL(
    "SELECT DISTINCT d.datname FROM pg_shdepend s JOIN pg_database d ON d.oid = s.dbid"
    " WHERE s.refclassid = 'pg_authid'::regclass"
    " AND s.refobjid IN (SELECT oid FROM pg_roles WHERE rolname = ANY(%(roles)s))"
)
"""Databases that hold something of the roles, or a grant to them."""


AWAY = sql.SQL(
    "SELECT EXISTS (SELECT FROM pg_database WHERE datname = %(application)s),"
    " ARRAY(SELECT DISTINCT d.datname::text FROM pg_shdepend s JOIN pg_database d ON d.oid = s.dbid"
    " WHERE s.refclassid = 'pg_authid'::regclass AND s.deptype = 'o' AND d.datname <> ALL(%(own)s)"
    " AND s.refobjid IN (SELECT oid FROM pg_roles WHERE rolname = ANY(%(roles)s)) ORDER BY 1),"
    " EXISTS (SELECT FROM pg_roles WHERE rolname = %(connect)s)"
)
"""Whether the application database is there, in which databases that are not the tenant's own (`own`) the roles own
something, and whether tenants were ever made on this server."""


def schemas(things: Things, seen: Inside, policy: Policy) -> list[Statement]:
    """Before `owned`, for what is kept."""
    found: list[Statement] = []
    if policy == "Delete":
        for name in (*things.schemas, *things.retained):
            if _ours(things, seen, name):
                found.append(statement("DROP SCHEMA {} CASCADE", name))
        return found
    for name, kept in zip(things.schemas, things.retained, strict=True):
        if _ours(things, seen, name):
            found.append(statement("ALTER SCHEMA {} RENAME TO {}", name, kept))
            found.append(comment("SCHEMA", kept, retained_comment(things)))
    return found


def _ours(things: Things, seen: Inside, schema: str) -> bool:
    return schema in seen.schemas and things.owns(seen.schemas[schema].comment)


def retained_comment(things: Things) -> str:
    """For the person who looks for a tenant's data: whose it was."""
    return f"{things.comment} tenant={things.tenant}"


def owned(own: Sequence[str], policy: Policy) -> list[Statement]:
    """What is left of the roles in the session's database; grants to them are theirs too.

    One role at a time, logins before owners: PostgreSQL fails on a default privilege of one role for another
    when both are named in one DROP OWNED ("could not find tuple for default ACL").
    """
    one_by_one = list(reversed(own))
    if policy == "Delete":
        return [statement("DROP OWNED BY {} CASCADE", name) for name in one_by_one]
    keep = [statement("REASSIGN OWNED BY {roles} TO CURRENT_USER", roles=_list(own))] if own else []
    return [*keep, *(statement("DROP OWNED BY {}", name) for name in one_by_one)]


def drop_roles(own: Sequence[str]) -> list[Statement]:
    return [statement("DROP ROLE {roles}", roles=_list(own))] if own else []


def drop_database(name: str) -> Correction:
    """Not WITH (FORCE): that ends autovacuum like any session, which only a superuser may, and so fails at times."""
    return Correction(f"the end of database {name}", (statement("DROP DATABASE {}", name),), alone=True)


def adopt_database(things: Things, database: SeenThing) -> list[Statement]:
    """One that a crash left before it had its comment, or closed; its owner, who says whose it is, will change."""
    name = things.database
    marked = () if things.owns(database.comment) else (comment("DATABASE", name, things.comment),)
    shut = (
        statement("REVOKE ALL ON DATABASE {} FROM PUBLIC", name),
        statement("ALTER DATABASE {} WITH ALLOW_CONNECTIONS true", name),
    )
    return [*marked, *(() if database.open else shut)]


def rename_database(things: Things) -> list[Statement]:
    return [
        statement("ALTER DATABASE {} RENAME TO {}", things.database, things.retained_database),
        comment("DATABASE", things.retained_database, retained_comment(things)),
    ]


def together(what: str, statements: Iterable[Statement]) -> list[Correction]:
    """One correction, or none."""
    found = tuple(statements)
    return [Correction(what, found)] if found else []


def _list(names: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, names))
