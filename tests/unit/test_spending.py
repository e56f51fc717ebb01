"""The month's spend against the budget: what is said of it, when, and how often."""

from __future__ import annotations

from typing import Any

import pytest

from tenantry import spending
from tenantry import status as statuses
from tenantry.api import Reason
from tenantry.api.conditions import Type
from tenantry.api.tenant import Spend
from tenantry.api.tier import Budget
from tenantry.backends.connection import ApiError
from tenantry.backends.kinds import NAMESPACE, TENANT
from tenantry.backends.kubernetes import KubernetesBackend
from tenantry.backends.observed import Observed
from tenantry.events import Events
from tenantry.metrics import Metrics
from tenantry.saying import Teller
from tenantry.status import Outcome, Report
from tenantry.view import View
from tests import samples
from tests.unit.lasting.memory_api import MemoryApi


def budget(monthly: str = "10", *alert_at: int, **more: Any) -> Budget:
    return Budget(monthly=monthly, alert_at=alert_at, **more)


def spend(amount: str, *alerted: int, month: str = "2026-11") -> Spend:
    return Spend(month=month, amount=amount, alerted=alerted)


@pytest.mark.parametrize(
    ("amount", "reason", "status", "says"),
    [
        ("0.00", "InForce", "True", "Less than 50 % of the month's budget of 10 US dollars is spent"),
        ("4.999999999", "InForce", "True", "Less than 50 %"),
        ("5.00", "BudgetAlert", "True", "50 % of the month's budget of 10 US dollars is spent"),
        ("9.99", "BudgetAlert", "True", "80 % of the month's budget"),
        ("10.00", "BudgetExceeded", "False", "calls to models are refused until the next month"),
        ("11.00", "BudgetExceeded", "False", "The month's budget of 10 US dollars is spent"),
    ],
)
def test_the_condition_says_what_was_reached(amount: str, reason: str, status: str, says: str) -> None:
    found = spending.judge(budget("10", 80, 50), spend(amount))
    assert (found.type, found.reason, found.status) == (Type.WITHIN_BUDGET, reason, status)
    assert says in found.message


def test_the_condition_without_a_budget_a_percent_or_a_call() -> None:
    assert spending.judge(None, spend("5")).message == "No budget is set"
    assert spending.judge(budget(), None).message.startswith("Less than 100 %")
    assert spending.judge(budget("0", 80), None).reason is Reason.BUDGET_EXCEEDED
    assert "calls go on" in spending.judge(budget("1", on_exceeded="AlertOnly"), spend("2")).message


def test_each_percent_is_due_once_a_month() -> None:
    wanted = budget("10", 80, 50, 120)
    assert spending.due(wanted, spend("4.99")) == ()
    assert spending.due(wanted, spend("8.00")) == (50, 80)
    assert spending.due(wanted, spend("8.00", 50)) == (80,)
    assert spending.due(wanted, spend("12.00", 50, 80)) == (120,)
    assert spending.due(budget("100", 80), spend("12.00", 80)) == ()
    assert spending.due(budget("0", 80), spend("0.00")) == ()
    assert spending.due(None, spend("12.00")) == spending.due(wanted, None) == ()


class World:
    """What tells of a tenant, over an API server in memory."""

    def __init__(self, **ai: Any) -> None:
        self.api: Any = MemoryApi()
        self.view = View()
        self.api.put(NAMESPACE.path("", "default"), {"metadata": {"name": "default"}})
        self.path = TENANT.path("", "acme")
        self.api.put(self.path, samples.manifest("acme", ai=ai))
        self.restart()

    def restart(self) -> None:
        """A new process knows what the API server has."""
        self.view.put(TENANT, self.api.objects[self.path])
        kubernetes = KubernetesBackend(self.api, Observed())
        kubernetes.learn = self.view.put
        self.teller = Teller(self.view, kubernetes, Events(kubernetes, "test"), Metrics())

    async def saw(self, amount: str | None, month: str = "2026-11") -> dict[str, Any]:
        tenant = self.view.tenants.get("acme")
        assert tenant is not None
        report = Report(resolved=samples.resolved("acme", ai=tenant.spec.ai.model_dump(by_alias=True)))
        for kind in statuses.SUBSYSTEMS:
            report.add(Outcome(kind, "True", Reason.IN_FORCE, "was seen"))
        report.spend = Spend(month=month, amount=amount) if amount else None
        await self.teller.report(tenant, report)
        return dict(self.api.objects[self.path]["status"])

    @property
    def alerts(self) -> list[str]:
        events = [o for o in self.api.objects.values() if o["kind"] == "Event" and o["reason"] == "BudgetAlert"]
        assert all(e["involvedObject"]["name"] == "acme" and e["type"] == "Warning" for e in events)
        return [e["message"] for e in events]


async def test_a_percent_is_told_once_by_event_status_and_condition() -> None:
    world = World(budget={"monthly": "1", "alertAt": [50, 80]})
    status = await world.saw("0.10")
    assert (status["spend"]["alerted"], world.alerts) == ([], [])
    status = await world.saw("0.85")
    assert status["spend"] == {"month": "2026-11", "amount": "0.85", "alerted": [50, 80]}
    assert world.alerts == [
        "50 % of the month's budget of 1 US dollars is spent (0.85 in 2026-11)",
        "80 % of the month's budget of 1 US dollars is spent (0.85 in 2026-11)",
    ]
    condition = next(c for c in status["conditions"] if c["type"] == "WithinBudget")
    assert (condition["status"], condition["reason"]) == ("True", "BudgetAlert")
    assert next(c for c in status["conditions"] if c["type"] == "Ready")["status"] == "True"
    version = world.api.objects[world.path]["metadata"]["resourceVersion"]
    for seen in (None, "0.85", "0.86"):  # the last is not yet due: the spend was written a moment ago
        await world.saw(seen)
    world.restart()
    await world.saw("0.85")
    assert world.api.objects[world.path]["metadata"]["resourceVersion"] == version
    assert len(world.alerts) == 2
    status = await world.saw("0.60", month="2026-12")
    assert status["spend"] == {"month": "2026-12", "amount": "0.60", "alerted": [50]}
    assert len(world.alerts) == 3


async def test_a_crash_between_event_and_status_tells_nobody_twice() -> None:
    world = World(budget={"monthly": "1", "alertAt": [80]})
    await world.saw("0.10")
    request = world.api.request

    async def dying(verb: str, path: str, **more: Any) -> Any:
        if verb == "patch":
            raise ApiError(503, "ServiceUnavailable", "the API server went away")
        return await request(verb, path, **more)

    world.api.request = dying
    with pytest.raises(ApiError):
        await world.saw("0.90")
    assert len(world.alerts) == 1
    world.api.request = request
    world.restart()
    assert (await world.saw("0.90"))["spend"]["alerted"] == [80]
    assert len(world.alerts) == 1


async def test_an_event_that_could_not_be_written_is_written_later() -> None:
    world = World(budget={"monthly": "1", "alertAt": [80]})
    request = world.api.request

    async def refusing(verb: str, path: str, **more: Any) -> Any:
        if verb == "create":
            raise ApiError(403, "Forbidden", "no events today")
        return await request(verb, path, **more)

    world.api.request = refusing
    assert (await world.saw("0.90"))["spend"]["alerted"] == []
    world.api.request = request
    assert (await world.saw("0.90"))["spend"]["alerted"] == [80]
    assert len(world.alerts) == 1
