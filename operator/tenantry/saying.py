"""What a reconcile found, written where people look: the status, events, metrics and the log."""

import logging
import time
from dataclasses import replace
from datetime import UTC, datetime

from tenantry import names, spending
from tenantry import status as statuses
from tenantry.api import Reason, Tenant
from tenantry.api.conditions import Type
from tenantry.backends.apiserver import ApiServer
from tenantry.backends.connection import ApiError, Json
from tenantry.backends.kinds import TENANT
from tenantry.events import Events
from tenantry.metrics import Metrics
from tenantry.resolve import Problem
from tenantry.status import Report
from tenantry.view import Unreadable, View

logger = logging.getLogger(__name__)

REAPPLY = "it was stored before the schema had its rules, or by another version; correct the field and apply it again"


class Teller:
    """Every method raises ApiError where the API server did not take what was said."""

    def __init__(self, view: View, kubernetes: ApiServer, events: Events, metrics: Metrics) -> None:
        self._view = view
        self._kubernetes = kubernetes
        self._events = events
        self._metrics = metrics
        self._spend: dict[str, float] = {}
        """UID -> when (monotonic) its spend was last written."""

    def forget(self, uid: str) -> None:
        self._spend.pop(uid, None)

    async def say(self, tenant: Tenant, status: Json) -> None:
        """A part of the status that must be stored before what comes next."""
        await self._kubernetes.merge(TENANT, tenant.reference, {"status": status}, "status")

    async def report(self, tenant: Tenant, report: Report) -> None:
        now = datetime.now(UTC)
        stored = self._view.tenants.get(tenant.name)
        if stored is None or stored.uid != tenant.uid:
            return
        await self._money(stored, report)
        after = statuses.build(tenant, report, now)
        before = statuses.current(stored)
        patch = statuses.patch(before, after)
        self._metrics.conditions[tenant.name] = ()
        if patch is not None:
            try:
                await self._kubernetes.merge(TENANT, tenant.reference, {"status": patch}, "status")
            except ApiError as error:
                if error.status == 404:
                    return
                raise
            await self._tell(stored, after)
        current = self._view.tenants.get(tenant.name)
        if current and current.status:
            self._metrics.tell(tenant.name, current.status.conditions)

    async def _money(self, tenant: Tenant, report: Report) -> None:
        """The spend, where it is time to write it, and what it means for the budget.

        A percent counts as told only once its Event is stored, which has a name of its own: who comes back to it
        after a crash finds the Event there.
        """
        old = tenant.status.spend if tenant.status else None
        new = report.spend or old
        if new and old and new.month == old.month:
            new = new.model_copy(update={"alerted": old.alerted})
        budget = report.resolved.budget if report.resolved else None
        reached = spending.due(budget, new)
        if new and new != old:
            news = old is None or reached or spending.judge(budget, new) != spending.judge(budget, old)
            if not news and time.monotonic() - self._spend.get(tenant.uid, -1e9) < statuses.SPEND_SECONDS:
                new = old
            else:
                self._spend[tenant.uid] = time.monotonic()
        if budget and new:
            told = [p for p in reached if await self._alert(tenant, spending.alert(budget, new, p), new.month, p)]
            new = new.model_copy(update={"alerted": tuple(sorted({*new.alerted, *told}))})
        report.spend = new
        if report.resolved:
            report.add(spending.judge(budget, new))

    async def _alert(self, tenant: Tenant, text: str, month: str, percent: int) -> bool:
        """Whether the Event is there."""
        name = f"{tenant.name}.budget-{month}-{percent}.{names.short(tenant.uid)}"
        reason = str(Reason.BUDGET_ALERT)
        return await self._events.tell("Tenant", tenant.name, tenant.uid, "Warning", reason, text, once=name)

    async def _tell(self, tenant: Tenant, after: Json) -> None:
        before = tenant.conditions
        for c in statuses.transitions(before, after["conditions"]):
            if c["type"] == Type.READY and c["status"] == "True":
                await self._events.tell("Tenant", tenant.name, tenant.uid, "Normal", c["reason"], c["message"])
                logger.info("Ready")
            elif c["type"] == Type.STALLED and c["status"] == "True":
                await self._events.tell("Tenant", tenant.name, tenant.uid, "Warning", c["reason"], c["message"])
                logger.warning("Stalled: %s: %s", c["reason"], c["message"])
            elif c["type"] == Type.VECTORS and c["reason"] == Reason.ROTATION_WAITS:
                await self._events.tell("Tenant", tenant.name, tenant.uid, "Warning", c["reason"], c["message"])
            elif c["type"] in statuses.SUBSYSTEMS and c["status"] == "False":
                logger.info("%s: %s: %s", c["type"], c["reason"], c["message"])

    async def ending(self, tenant: Tenant, left: statuses.Outcome) -> None:
        """Only Ready, Reconciling and Stalled speak of the deletion."""
        stored = self._view.tenants.get(tenant.name) or tenant
        before = stored.conditions
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
            *(c for c in stored_conditions if c["type"] in statuses.SAID),
        ]
        if conditions != stored_conditions:
            try:
                patch = {"status": {"conditions": conditions}}
                await self._kubernetes.merge(TENANT, tenant.reference, patch, "status")
            except ApiError as error:
                if error.status != 404:
                    raise

    async def unreadable(self, name: str, stored: Unreadable) -> bool:
        """Whether it had to be said; False where the status says so already."""
        report = Report(
            problems=(Problem(Reason.INVALID_SPEC, f"The stored Tenant can't be read ({stored.message}); {REAPPLY}"),)
        )
        made = statuses.conditions(report, stored.conditions, stored.generation, datetime.now(UTC))
        before = [c.model_dump(mode="json", by_alias=True, exclude_none=True) for c in stored.conditions]
        told = {c["type"]: (c["reason"], c["message"], c["observedGeneration"]) for c in made}
        if told == {c["type"]: (c["reason"], c["message"], c.get("observedGeneration", 0)) for c in before}:
            return False
        who: Json = {"metadata": {"name": name, "uid": stored.uid}}
        await self._kubernetes.merge(TENANT, who, {"status": {"conditions": made}}, "status")
        return True
