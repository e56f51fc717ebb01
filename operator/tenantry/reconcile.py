"""One tenant, level-triggered: look, compare, apply, report.  Any step may have been done before."""

import logging
import time
import uuid

from tenantry import log, names, pauses, rotation
from tenantry.adoption import Adoption
from tenantry.api import Reason, Tenant
from tenantry.api.conditions import Type
from tenantry.asked import Asked
from tenantry.backends.connection import ApiError
from tenantry.backends.errors import BackendError
from tenantry.backends.kinds import TENANT
from tenantry.backends.kubernetes import KubernetesBackend
from tenantry.claims import Claims
from tenantry.deletion import Deletion
from tenantry.events import Events
from tenantry.metrics import Metrics
from tenantry.outcomes import failed
from tenantry.queue import Queue
from tenantry.resolve import Resolved
from tenantry.rollback import Rollback
from tenantry.saying import Teller
from tenantry.status import Report
from tenantry.subsystems import Subsystems
from tenantry.view import Unreadable, View
from tenantry.work import Work

logger = logging.getLogger(__name__)

STALLED_SECONDS = 30
"""How soon a stalled tenant is looked at again: what a person mends outside of Kubernetes sends no event."""

DELETING_SECONDS = 2
AT_ONCE = 0.01

PASSING = frozenset({Reason.ROLLING_OUT, Reason.WAITING})
PASSING_SECONDS = 5.0
"""How long a new tenant may wait for its Pods before the status says so."""
CROWDED_SECONDS = 120.0
"""The same while others wait in line: a burst is over sooner where nobody writes what passes."""
ROLLOUT_SECONDS = 30.0
"""How soon a rollout is looked at again without news: a watch tells of the Deployment at once."""


class Reconciler:
    def __init__(
        self,
        view: View,
        kubernetes: KubernetesBackend,
        subsystems: Subsystems,
        deletion: Deletion,
        adoption: Adoption,
        events: Events,
        metrics: Metrics,
        resync_seconds: float,
    ) -> None:
        self.view = view
        self.kubernetes = kubernetes
        self.subsystems = subsystems
        self.deletion = deletion
        self.adoption = adoption
        self.rollback = Rollback(deletion, subsystems, resync_seconds)
        self.teller = Teller(view, kubernetes, events, metrics)
        self.asked = Asked(view)
        self.claims = Claims(kubernetes, subsystems)
        self.metrics = metrics
        self.resync_seconds = resync_seconds
        self.queue: Queue | None = None
        self._passing: dict[str, float] = {}
        """UID -> since when (monotonic) it waits for what passes, or was last said to."""

    async def __call__(self, name: str) -> float | None:
        """Reconcile one tenant by name; the seconds after which to look again."""
        log.tenant.set(name)
        log.reconcile_id.set(uuid.uuid4().hex[:12])
        tenant = self.view.tenants.get(name)
        assert self.queue is not None
        if tenant is None:
            self.metrics.conditions.pop(name, None)
            if stored := self.view.unreadable.get((TENANT.kind, "", name)):
                return await self._unreadable(name, stored)
            self.queue.succeeded(name)
            return None
        with self.metrics.reconcile_seconds.time():
            try:
                if tenant.metadata.deletion_timestamp:
                    return await self._delete(tenant)
                return await self._provision(tenant)
            except ApiError as error:
                # What was to be said could not be written: it is found out and said again.
                logger.warning("The API server said %s: %s", error.status or "nothing", error.message)
                self.metrics.reconciles.labels("waiting").inc()
                return self.queue.backoff(name)

    # -- being there ------------------------------------------------------------------

    async def _provision(self, tenant: Tenant) -> float | None:
        report = Report(pinned=tenant.pinned)
        rolled_back = tenant.rolled_back
        found = self.asked.resolve(tenant)
        if not isinstance(found, Resolved):
            report.problems = found
        if rolled_back and rolled_back.state == "Removing":
            self._forget(tenant)
            await self.rollback.go_on(tenant, report)
            return await self._finish(tenant, report)
        if not isinstance(found, Resolved):
            return await self._judge(tenant, report)
        report.resolved = found
        region = self.view.regions[found.region]
        work = Work(tenant, found, region, report, lambda pinned: self.claims.pin(work, pinned))
        if tenant.asks_for:
            return await self._adopt(work)
        if rolled_back and rolled_back.state == "Removed":
            if not await self.rollback.may_try(work):
                return await self._finish(tenant, report)
            await self.claims.claim(work)
            await self.teller.say(tenant, {"rolledBack": {"state": "Trying", "failed": list(rolled_back.failed)}})
        elif names.FINALIZER not in tenant.metadata.finalizers or tenant.noted is None:
            await self.claims.claim(work)
        work.turn = await self.claims.turn(work)
        if rolled_back and rolled_back.failed:
            await self.subsystems.only(work, rolled_back.failed)
            if not all(report.outcomes[Type(k)].good for k in rolled_back.failed if k != Type.RUNTIME):
                report.rolled_back = rolled_back.model_copy(update={"state": "Trying"})
                return await self._judge(tenant, report)
        await self.subsystems.run(work)
        report.resolved = work.resolved
        return await self._judge(tenant, report)

    async def _judge(self, tenant: Tenant, report: Report) -> float | None:
        """A first provisioning that failed for good is taken back."""
        await self.rollback.judge(self.view.tenants.get(tenant.name, tenant), report)
        return await self._finish(tenant, report)

    async def _unreadable(self, name: str, stored: Unreadable) -> float | None:
        """What was provisioned is left as it is, and a deletion waits too: nobody knows what is asked for."""
        assert self.queue is not None
        try:
            said = await self.teller.unreadable(name, stored)
        except ApiError as error:
            logger.warning("That the Tenant can't be read could not be said: %s", error.message)
            return self.queue.backoff(name)
        if said:
            self.metrics.reconciles.labels("stalled").inc()
            self.queue.succeeded(name)
        return None

    async def _adopt(self, work: Work) -> float | None:
        """Take over what another UID left under this name, where a person asks for it and nothing speaks against it."""
        tenant = work.tenant
        if not await self.adoption.may_take(work):
            return await self._finish(tenant, work.report)
        logger.info("The tenant takes over what UID %s left under its name", tenant.asks_for)
        await self.teller.say(tenant, {"adoptedUid": tenant.asks_for, "rolledBack": None})
        return AT_ONCE

    async def _finish(self, tenant: Tenant, report: Report) -> float | None:
        result = "ready" if report.ready else "stalled" if report.stalled else "waiting"
        reasons = {o.reason for o in report.outcomes.values() if not o.good}
        passes = result == "waiting" and not report.rolled_back and reasons <= PASSING
        look = PASSING_SECONDS if Reason.WAITING in reasons else ROLLOUT_SECONDS
        self.metrics.reconciles.labels(result).inc()
        assert self.queue is not None
        if passes and (rest := self._passing_for(tenant)) > 0:
            return min(rest, look)
        await self.teller.report(tenant, report)
        self._passing.pop(tenant.uid, None)
        if passes:
            return look
        if report.rolled_back and report.rolled_back.state == "Removing":
            return DELETING_SECONDS
        if result == "waiting":
            return self.queue.backoff(tenant.name)
        self.queue.succeeded(tenant.name)
        if result == "stalled" or report.resolved is None:
            return min(pauses.about(self.resync_seconds), pauses.about(STALLED_SECONDS))
        return self._next(tenant, report.resolved)

    def _next(self, tenant: Tenant, resolved: Resolved) -> float:
        """Seconds until the resync, or until a key or a rotation comes to its next step."""
        stored = self.view.tenants.get(tenant.name, tenant)
        key = self.subsystems.keys.due(resolved)
        login = self.subsystems.rotations.look(stored, resolved.uid, rotation.clock())
        steps = (pauses.about(self.resync_seconds), None if key is None else key + 0.05, login)
        return min(step for step in steps if step is not None)

    def _passing_for(self, tenant: Tenant) -> float:
        """Seconds for which what passes by itself is not worth a write: most tenants are Ready before they end."""
        stored = self.view.tenants.get(tenant.name)
        if stored and stored.holds(Type.READY):
            return 0
        since = self._passing.setdefault(tenant.uid, time.monotonic())
        crowded = self.queue is not None and self.queue.crowded
        return since + (CROWDED_SECONDS if crowded else PASSING_SECONDS) - time.monotonic()

    # -- ceasing to be ------------------------------------------------------------------

    async def _delete(self, tenant: Tenant) -> float | None:
        assert self.queue is not None
        self._forget(tenant)
        self.rollback.forget(tenant.uid)
        if names.FINALIZER not in tenant.metadata.finalizers:
            return None
        try:
            left = await self.deletion.run(tenant)
        except (BackendError, ApiError) as error:
            left = failed(Type.READY, error)
            await self.teller.ending(tenant, left)
            return self.queue.backoff(tenant.name)
        if left is None:
            self.metrics.conditions.pop(tenant.name, None)
            self.queue.succeeded(tenant.name)
            return None
        await self.teller.ending(tenant, left)
        return STALLED_SECONDS if left.stalls else DELETING_SECONDS

    def _forget(self, tenant: Tenant) -> None:
        """What was seen and done is not so for long."""
        self.subsystems.forget(tenant)
        self._passing.pop(tenant.uid, None)
        self.teller.forget(tenant.uid)
        self.kubernetes.forget(tenant.name)
