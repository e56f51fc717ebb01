"""How a backend says that it could not do what was asked."""

from tenantry import names
from tenantry.api.conditions import STALLING, Reason


class BackendError(Exception):
    """One failure, as a condition will show it.

    `message` is a sentence that says what to do; it names no other tenant, no admin and no secret.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.corrected: tuple[str, ...] = ()
        """What had been put back before the failure."""
        self.own = False
        """It lies in this tenant's own things: the server is well for all others."""

    @property
    def final(self) -> bool:
        """No retry mends it: a person must."""
        return self.reason in STALLING


def foreign(what: str, uid: str = "") -> BackendError:
    """Something carries a name of ours and is not ours: it is left alone.  `uid`: whose its mark says it is."""
    if uid:
        return BackendError(
            Reason.FOREIGN_OBJECT,
            f"{what} was made for a Tenant of UID {uid}, which is not this one's, so it is left alone. If this Tenant "
            f"is that one, restored or made again, let it take over what it had: kubectl annotate tenant NAME "
            f"{names.ADOPT_ANNOTATION}={uid} (docs/restore.md); else remove what is left, or use another name",
        )
    return BackendError(
        Reason.FOREIGN_OBJECT,
        f"{what} exists and was not made for this Tenant, so it is left alone; remove or rename it, "
        "or give the Tenant another name",
    )
