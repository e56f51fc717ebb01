"""One reconcile of one tenant under way."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from tenantry import memo
from tenantry.api import DataRegion, Tenant
from tenantry.api.tenant import Pinned, RotatedCredentials
from tenantry.backends.connection import Json
from tenantry.credentials import Logins
from tenantry.desired.database import DatabasePlan
from tenantry.desired.postgres.seen import Removal
from tenantry.desired.vectors import VectorPlan
from tenantry.regions import Backends
from tenantry.resolve import Resolved
from tenantry.status import Report


@dataclass
class Work:
    """One reconcile of one tenant."""

    tenant: Tenant
    resolved: Resolved
    region: DataRegion
    report: Report
    pin: Callable[[Pinned], Awaitable[None]]
    spaces: list[Json] | None = None
    """The namespaces and what is in them but for the runtime, once they were asked for."""
    later: list[Json] = field(default_factory=list)
    """Of those, what a new tenant gets once its Secrets are there."""
    changes: int = 0
    """How many of the tenant's Kubernetes objects had changed when this began."""
    vectors: VectorPlan | None = None
    """Set once the vectors were seen to hold."""
    removal: tuple[DatabasePlan, Removal] | None = None
    """Vectors were deleted, and Milvus was not asked for their space since."""
    turn: RotatedCredentials = field(default_factory=RotatedCredentials)
    """Whose turn it is among the tenant's logins."""
    logins: Logins | None = None
    """Set once PostgreSQL was seen to accept these, and no others."""
    _digested: tuple[Resolved, str] | None = None
    """The digest of `resolved`, whose text is long and asked for at each step."""

    @property
    def rotating(self) -> bool:
        """Then logins come and go on purpose: that is no drift."""
        return self.turn.rolling or self.turn.draining

    @property
    def first(self) -> bool:
        """Not yet seen Ready: what nobody watches is likely not there yet."""
        return not self.tenant.was_ready

    def digest(self, *more: object) -> str:
        if self._digested is None or self._digested[0] is not self.resolved:
            self._digested = self.resolved, memo.digest(self.resolved)
        return memo.digest(self._digested[1], *more)


def memory(backends: Backends) -> tuple[int, int]:
    """Tells two sets of backends apart: a changed region is looked at anew."""
    return id(backends.postgres), id(backends.milvus)
