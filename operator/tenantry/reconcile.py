"""One tenant, level-triggered: look, compare, apply, report.  Any step may have been done before."""

import logging
import random
import time
import uuid
from dataclasses import replace
from datetime import UTC, datetime

from tenantry import log, names, rotation
from tenantry import status as statuses
from tenantry.adoption import Adoption
from tenantry.api import Reason, Tenant
from tenantry.api.conditions import Type
from tenantry.api.tenant import Pinned, RolledBack, RotatedCredentials
from tenantry.backends.connection import ApiError, Json
from tenantry.backends.errors import BackendError
from tenantry.backends.kinds import REGION, TENANT, TIER
from tenantry.backends.kubernetes import KubernetesBackend
from tenantry.deletion import Deletion
from tenantry.events import Events
from tenantry.metrics import Metrics
from tenantry.queue import Queue
from tenantry.resolve import Problem, Resolved, resolve
from tenantry.rollback import Rollback, recall
from tenantry.status import Report
from tenantry.subsystems import Subsystems, Work, failed
from tenantry.view import Unreadable, View
from tenantry_runtime.prompt import PromptError, try_out

logger = logging.getLogger(__name__)

STALLED_SECONDS = 30
"""How soon a stalled tenant is looked at again: what a person mends outside of Kubernetes sends no event."""

DELETING_SECONDS = 2
AT_ONCE = 0.01

REAPPLY = "it was stored before the schema had its rules, or by another version; correct the field and apply it again"

PASSING = frozenset({Reason.ROLLING_OUT, Reason.WAITING})
PASSING_SECONDS = 5.0
"""How long a new tenant may wait for its Pods before the status says so."""


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
        self.events = events
        self.metrics = metrics
        self.resync_seconds = resync_seconds
        self.queue: Queue | None = None
        self._prompts: dict[tuple[str, str, str, str], str] = {}
        """What is wrong with a template for a name, a tier and instructions; empty if nothing is."""
        self._spend: dict[str, float] = {}
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
                return await self._say_unreadable(name, stored)
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
        rolled_back = tenant.status.rolled_back if tenant.status else None
        found = resolve(tenant, self.view.tiers, self.view.regions)
        if isinstance(found, Resolved):
            found = self._prompt(found) or found
        if not isinstance(found, Resolved):
            report.problems = tuple(self._explained(problem, tenant) for problem in found)
        if rolled_back and rolled_back.state == "Removing":
            self._forget(tenant)
            await self.rollback.go_on(tenant, report)
            return await self._finish(tenant, report)
        if not isinstance(found, Resolved):
            return await self._judge(tenant, report)
        report.resolved = found
        work = Work(
            tenant,
            found,
            self.view.regions[found.region],
            report,
            lambda pinned: self._pin(tenant, report, pinned),
        )
        if tenant.asks_for:
            return await self._adopt(work)
        if rolled_back and rolled_back.state == "Removed":
            if not await self.rollback.may_try(work):
                return await self._finish(tenant, report)
            await self._claim(work)
            await self._say(tenant, {"rolledBack": {"state": "Trying", "failed": list(rolled_back.failed)}})
        elif names.FINALIZER not in tenant.metadata.finalizers or tenant.noted is None:
            await self._claim(work)
        work.turn = await self._turn(tenant, found)
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

    def _explained(self, problem: Problem, tenant: Tenant) -> Problem:
        """A tier or a region that is there, and can't be read, is not one that does not exist."""
        pinned = tenant.pinned
        kind, name = {
            Reason.UNKNOWN_TIER: (TIER.kind, tenant.spec.tier),
            Reason.UNKNOWN_REGION: (REGION.kind, (pinned.region if pinned else tenant.spec.region) or ""),
        }.get(problem.reason, ("", ""))
        stored = self.view.unreadable.get((kind, "", name))
        if stored is None:
            return problem
        return Problem(problem.reason, f"{kind} {name!r} can't be read ({stored.message}); {REAPPLY}")

    async def _say_unreadable(self, name: str, stored: Unreadable) -> float | None:
        """What was provisioned is left as it is, and a deletion waits too: nobody knows what is asked for."""
        report = Report(
            problems=(Problem(Reason.INVALID_SPEC, f"The stored Tenant can't be read ({stored.message}); {REAPPLY}"),)
        )
        made = statuses.conditions(report, stored.conditions, stored.generation, datetime.now(UTC))
        before = [c.model_dump(mode="json", by_alias=True, exclude_none=True) for c in stored.conditions]
        told = {c["type"]: (c["reason"], c["message"], c["observedGeneration"]) for c in made}
        if told == {c["type"]: (c["reason"], c["message"], c.get("observedGeneration", 0)) for c in before}:
            return None
        assert self.queue is not None
        try:
            who: Json = {"metadata": {"name": name, "uid": stored.uid}}
            answer = await self.kubernetes.merge(TENANT, who, {"status": {"conditions": made}}, "status")
        except ApiError as error:
            logger.warning("That the Tenant can't be read could not be said: %s", error.message)
            return self.queue.backoff(name)
        self.view.put(TENANT, answer)
        self.metrics.reconciles.labels("stalled").inc()
        self.queue.succeeded(name)
        return None

    async def _adopt(self, work: Work) -> float | None:
        """Take over what another UID left under this name, where a person asks for it and nothing speaks against it."""
        tenant, report = work.tenant, work.report
        report.resolved = None
        report.rolled_back = tenant.status.rolled_back if tenant.status else None
        try:
            problem = await self.adoption.refused(tenant, work.resolved, work.region)
            claimed = names.FINALIZER in tenant.metadata.finalizers
            removed = report.rolled_back is not None and report.rolled_back.state == "Removed"
            if problem is None and claimed and not removed:
                # What was made under its own UID goes first.
                if await self.deletion.used(tenant):
                    problem = self.adoption.own_data(tenant)
                else:
                    report.rolled_back = RolledBack(state="Removing")
                    recall(tenant, report, report.rolled_back)
        except (BackendError, ApiError) as error:
            report.add(failed(Type.DATABASE, error))
            return await self._finish(tenant, report)
        if problem or (report.rolled_back and report.rolled_back.state == "Removing"):
            report.problems = (problem,) if problem else ()
            return await self._finish(tenant, report)
        logger.info("The tenant takes over what UID %s left under its name", tenant.asks_for)
        await self._say(tenant, {"adoptedUid": tenant.asks_for, "rolledBack": None})
        return AT_ONCE

    async def _say(self, tenant: Tenant, status: Json) -> None:
        """A part of the status that must be stored before what comes next."""
        answer = await self.kubernetes.merge(TENANT, _reference(tenant), {"status": status}, "status")
        self.view.learn(TENANT, answer)

    def _prompt(self, resolved: Resolved) -> tuple[Problem, ...] | None:
        """The template is tried before it is handed on: a bad one leaves the old prompt serving."""
        prompt = (resolved.template, resolved.display_name, resolved.tier, resolved.custom_instructions)
        if prompt not in self._prompts:
            if len(self._prompts) > 1000:
                self._prompts.clear()
            try:
                try_out(*prompt)
                self._prompts[prompt] = ""
            except PromptError as error:
                self._prompts[prompt] = str(error)
        if message := self._prompts[prompt]:
            return (Problem(Reason.INVALID_TEMPLATE, f"The system prompt template can't be used: {message}"),)
        return None

    async def _claim(self, work: Work) -> None:
        """The finalizer and the pins in one write, before anything is made: what is made is also found again."""
        tenant, report = work.tenant, work.report
        if report.pinned is None:
            work.resolved = replace(work.resolved, collection=await self.subsystems.collection(work))
            report.pinned = pins(work.resolved)
        rest = [f for f in tenant.metadata.finalizers if f != names.FINALIZER]
        patch: Json = {
            "metadata": {
                "annotations": {names.PINNED_ANNOTATION: report.pinned.model_dump_json(by_alias=True)},
                "finalizers": [*rest, names.FINALIZER],
                "resourceVersion": tenant.metadata.resource_version,
            }
        }
        await self.kubernetes.merge(TENANT, _reference(tenant), patch)

    async def _pin(self, tenant: Tenant, report: Report, pinned: Pinned) -> None:
        patch: Json = {"metadata": {"annotations": {names.PINNED_ANNOTATION: pinned.model_dump_json(by_alias=True)}}}
        report.pinned = pinned
        await self.kubernetes.merge(TENANT, _reference(tenant), patch)

    async def _turn(self, tenant: Tenant, resolved: Resolved) -> RotatedCredentials:
        """Whose turn it is among the tenant's logins; a rotation that begins is stored before anything is made."""
        rotations = self.subsystems.rotations
        begun = rotations.next(tenant, resolved.uid, rotation.clock(), self.view.tenants.each())
        if begun is None:
            return rotations.state(tenant, resolved.uid)
        patch = {"status": {"credentials": begun.model_dump(mode="json", by_alias=True)}}
        await self.kubernetes.merge(TENANT, _reference(tenant), patch, "status")
        rotations.note(resolved.uid, begun)
        logger.info("The credentials are rotated: generation %d begins", begun.generation)
        return begun

    async def _finish(self, tenant: Tenant, report: Report) -> float | None:
        result = "ready" if report.ready else "stalled" if report.stalled else "waiting"
        passes = (
            result == "waiting"
            and not report.rolled_back
            and {o.reason for o in report.outcomes.values() if not o.good} <= PASSING
        )
        self.metrics.reconciles.labels(result).inc()
        assert self.queue is not None
        if passes and (rest := self._passing_for(tenant)) > 0:
            return rest
        await self._write(tenant, report)
        self._passing.pop(tenant.uid, None)
        if passes:
            self._passing_for(tenant)
            return 5.0
        if report.rolled_back and report.rolled_back.state == "Removing":
            return DELETING_SECONDS
        if result == "waiting":
            return self.queue.backoff(tenant.name)
        self.queue.succeeded(tenant.name)
        later = self._later()
        if result == "stalled":
            return min(later, STALLED_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
        expiry = self.subsystems.keys.due(report.resolved) if report.resolved else None
        if expiry is not None:
            later = min(later, expiry + 0.05)
        if report.resolved:
            stored = self.view.tenants.get(tenant.name, tenant)
            look = self.subsystems.rotations.look(stored, report.resolved.uid, rotation.clock())
            later = min(later, look) if look is not None else later
        return later

    def _passing_for(self, tenant: Tenant) -> float:
        """Seconds for which what passes by itself is not worth a write: most tenants are Ready before they end."""
        stored = self.view.tenants.get(tenant.name)
        if (
            stored
            and stored.status
            and any(c.type == Type.READY and c.status == "True" for c in stored.status.conditions)
        ):
            return 0
        since = self._passing.setdefault(tenant.uid, time.monotonic())
        return since + PASSING_SECONDS - time.monotonic()

    def _later(self) -> float:
        """The resync, spread so that a thousand tenants don't come at once."""
        return self.resync_seconds * random.uniform(0.8, 1.2)  # noqa: S311 - jitter

    async def _write(self, tenant: Tenant, report: Report) -> None:
        now = datetime.now(UTC)
        stored = self.view.tenants.get(tenant.name)
        if stored is None or stored.uid != tenant.uid:
            return
        old = stored.status.spend if stored.status else None
        if report.spend and old and report.spend != old:
            if time.monotonic() - self._spend.get(tenant.uid, -1e9) < statuses.SPEND_SECONDS:
                report.spend = old
            else:
                self._spend[tenant.uid] = time.monotonic()
        after = statuses.build(tenant, report, now)
        before = statuses.current(stored)
        patch = statuses.patch(before, after)
        self.metrics.conditions[tenant.name] = ()
        if patch is not None:
            try:
                await self.kubernetes.merge(TENANT, _reference(tenant), {"status": patch}, "status")
            except ApiError as error:
                if error.status == 404:
                    return
                raise
            await self._tell(stored, after)
        current = self.view.tenants.get(tenant.name)
        if current and current.status:
            self.metrics.tell(tenant.name, current.status.conditions)

    async def _tell(self, tenant: Tenant, after: Json) -> None:
        before = tenant.status.conditions if tenant.status else ()
        for c in statuses.transitions(before, after["conditions"]):
            if c["type"] == Type.READY and c["status"] == "True":
                await self.events.tell("Tenant", tenant.name, tenant.uid, "Normal", c["reason"], c["message"])
                logger.info("Ready")
            elif c["type"] == Type.STALLED and c["status"] == "True":
                await self.events.tell("Tenant", tenant.name, tenant.uid, "Warning", c["reason"], c["message"])
                logger.warning("Stalled: %s: %s", c["reason"], c["message"])
            elif c["type"] in statuses.SUBSYSTEMS and c["status"] == "False":
                logger.info("%s: %s: %s", c["type"], c["reason"], c["message"])

    # -- ceasing to be ------------------------------------------------------------------

    async def _delete(self, tenant: Tenant) -> float | None:
        assert self.queue is not None
        if names.FINALIZER not in tenant.metadata.finalizers:
            return None
        self._forget(tenant)
        self.rollback.forget(tenant.uid)
        try:
            left = await self.deletion.run(tenant)
        except (BackendError, ApiError) as error:
            left = failed(Type.READY, error)
            await self._write_ending(tenant, left)
            return self.queue.backoff(tenant.name)
        if left is None:
            self.metrics.conditions.pop(tenant.name, None)
            self.queue.succeeded(tenant.name)
            return None
        await self._write_ending(tenant, left)
        return STALLED_SECONDS if left.stalls else DELETING_SECONDS

    def _forget(self, tenant: Tenant) -> None:
        """What was seen and done is not so for long."""
        for uid in (tenant.uid, tenant.identity):
            self.subsystems.verified.forget(uid)
            self.subsystems.keys.forget(uid)
            self.subsystems.rotations.forget(uid)
        self._passing.pop(tenant.uid, None)
        self._spend.pop(tenant.uid, None)
        self.kubernetes.forget(tenant.name)

    async def _write_ending(self, tenant: Tenant, left: statuses.Outcome) -> None:
        """Only Ready, Reconciling and Stalled speak of the deletion."""
        stored = self.view.tenants.get(tenant.name) or tenant
        before = stored.status.conditions if stored.status else ()
        report = Report()
        if left.stalls:
            report.problems = (Problem(left.reason, left.message),)
        else:
            report.add(replace(left, type=Type.NAMESPACES))  # as what Ready takes its reason from
        told = ("Ready", "Reconciling", "Stalled")
        made = statuses.conditions(report, before, tenant.metadata.generation, datetime.now(UTC))
        stored_conditions = statuses.current(stored).get("conditions", [])
        conditions = [
            *(c for c in made if c["type"] in told),
            *(c for c in stored_conditions if c["type"] in statuses.SUBSYSTEMS),
        ]
        if conditions != stored_conditions:
            try:
                patch = {"status": {"conditions": conditions}}
                await self.kubernetes.merge(TENANT, _reference(tenant), patch, "status")
            except ApiError as error:
                if error.status != 404:
                    raise


def pins(resolved: Resolved) -> Pinned:
    """What a later change of tier leaves as it is."""
    return Pinned(
        region=resolved.region,
        database_isolation=resolved.database_isolation,
        vector_isolation=resolved.vectors.isolation,
        embedding_model=resolved.vectors.embedding_model,
        dimension=resolved.vectors.dimension,
        metric=resolved.vectors.metric,
        collection=resolved.collection,
    )


def _reference(tenant: Tenant) -> Json:
    return {"metadata": {"name": tenant.name, "uid": tenant.uid}}
