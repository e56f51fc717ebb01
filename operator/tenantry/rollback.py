"""A first provisioning that failed for good takes back what it made, and does not make it again and again.

Three states, kept in the Tenant's status so that a crash at any point goes on: `Removing`; `Removed`, in which what
failed is looked at without a write; and `Trying`, in which what failed is made first, the rest once that holds.
"""

import hashlib
import logging
import time
from dataclasses import dataclass, replace

from tenantry import names
from tenantry.api import Reason, Tenant
from tenantry.api.conditions import ROLLED_BACK, Type
from tenantry.api.tenant import RolledBack
from tenantry.backends.connection import ApiError
from tenantry.backends.errors import BackendError
from tenantry.deletion import Deletion
from tenantry.outcomes import failed
from tenantry.resolve import Resolved
from tenantry.status import SUBSYSTEMS, Outcome, Report, known
from tenantry.subsystems import Subsystems
from tenantry.work import Work

logger = logging.getLogger(__name__)


@dataclass
class _Attempt:
    """The last one of a tenant."""

    digest: str
    when: float
    blocked: bool = False
    """Whether a look since then saw what is in the way."""


class Rollback:
    """`seconds`: how long what no look can tell (a server that was full) is left before it is tried again."""

    def __init__(self, deletion: Deletion, subsystems: Subsystems, seconds: float) -> None:
        self._deletion = deletion
        self._subsystems = subsystems
        self._seconds = seconds
        self._attempts: dict[str, _Attempt] = {}

    def forget(self, uid: str) -> None:
        self._attempts.pop(uid, None)

    async def judge(self, tenant: Tenant, report: Report) -> None:
        """After a reconcile: whether what was made is to be taken back, in `report.rolled_back`."""
        before = tenant.rolled_back
        what = _failed(tenant, report)
        if what is None:
            if report.ready or not before:
                self.forget(tenant.uid)
            return
        if before and before.state == "Removed":
            report.rolled_back = before
            return
        try:
            if await self._deletion.used(tenant):
                report.remark = "What was made is kept, since something was stored in it already"
                return
        except (BackendError, ApiError) as error:
            report.remark = f"What was made can't be removed yet: {error.message}"
            return
        report.rolled_back = RolledBack(state="Removing", failed=what)
        if report.resolved:
            self._attempts[tenant.uid] = _Attempt(_digest(report.resolved), time.monotonic())

    async def go_on(self, tenant: Tenant, report: Report) -> None:
        """One more step of a removal that was begun."""
        before = tenant.rolled_back
        assert before is not None
        recall(tenant, report, before)
        try:
            left = await self._deletion.undo(tenant)
        except (BackendError, ApiError) as error:
            left = failed(Type.READY, error)
        if left:
            report.rolled_back = before
            report.remark = f"What had been made is being removed. {left.message}"
            return
        logger.info("The first provisioning failed for good; what it had made was removed")
        report.rolled_back = before.model_copy(update={"state": "Removed"})

    async def may_try(self, work: Work) -> bool:
        """Whether to begin again; if not, `work.report` says what is still in the way.  Changes nothing."""
        tenant, report = work.tenant, work.report
        before = tenant.rolled_back
        assert before is not None
        digest = _digest(work.resolved)
        last = self._attempts.get(tenant.uid)
        recall(tenant, report, before)
        report.rolled_back = before
        seen = await self._subsystems.look(work, before.failed)
        if seen:
            for outcome in seen:
                report.add(outcome)
            self._attempts[tenant.uid] = _Attempt(digest, time.monotonic(), blocked=True)
            return False
        waited = last is not None and time.monotonic() - last.when >= self._seconds
        if last is None or last.blocked or last.digest != digest or (waited and Type.RUNTIME not in before.failed):
            self._attempts[tenant.uid] = _Attempt(digest, time.monotonic())
            report.outcomes.clear()
            report.rolled_back = None
            return True
        return False


def _digest(resolved: Resolved) -> str:
    """Of what a person asked for; where things were put before is not part of it."""
    return hashlib.sha256(repr(replace(resolved, collection="", notes=())).encode()).hexdigest()


def recall(tenant: Tenant, report: Report, rolled_back: RolledBack) -> None:
    """What was said of each part, for as long as it is not known better."""
    said = {c.type: c for c in tenant.conditions}
    for kind in SUBSYSTEMS:
        old = said.get(kind)
        if kind in rolled_back.failed and old and old.status != "True":
            report.add(Outcome(kind, "False", known(old.reason), old.message))
        elif kind is not Type.COMPLIANT:
            what = ", ".join(rolled_back.failed) or "the spec"
            report.add(Outcome(kind, "False", Reason.WAITING, f"Is made once {what} is in order"))


def _failed(tenant: Tenant, report: Report) -> tuple[str, ...] | None:
    """What failed for good in a first provisioning, none where the spec itself did; None: nothing is taken back."""
    if tenant.was_ready or tenant.identity != tenant.uid or names.FINALIZER not in tenant.metadata.finalizers:
        return None
    if report.problems:
        return () if report.problems[0].reason in ROLLED_BACK else None
    found = (report.outcomes.get(kind) for kind in SUBSYSTEMS)
    return tuple(str(o.type) for o in found if o and not o.good and o.reason in ROLLED_BACK) or None
