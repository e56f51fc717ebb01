"""When a first provisioning is taken back, and when a Tenant may take over what another UID left."""

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from tenantry import adoption
from tenantry import status as statuses
from tenantry.api import Reason, Tenant
from tenantry.api.conditions import ROLLED_BACK, STALLING, Type
from tenantry.deletion import Deletion
from tenantry.resolve import Problem
from tenantry.rollback import Rollback
from tenantry.status import Outcome, Report
from tenantry.subsystems import Subsystems
from tests import samples

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


class Store:
    """Stands for `Deletion`: says whether anything was stored."""

    def __init__(self, used: bool = False) -> None:
        self.holds = used

    async def used(self, tenant: Tenant) -> bool:
        return self.holds


def claimed(**status: Any) -> Tenant:
    made = samples.tenant(status=status or {"tier": "free"})
    return made.model_copy(
        update={"metadata": made.metadata.model_copy(update={"finalizers": ("tenantry.dev/cleanup",)})}
    )


def failing(reason: Reason = Reason.FOREIGN_OBJECT) -> Report:
    made = Report(resolved=samples.resolved())
    for kind in statuses.SUBSYSTEMS:
        made.add(Outcome(kind, "True", Reason.IN_FORCE, "was seen"))
    made.add(Outcome(Type.DATABASE, "False", reason, "Role tenant_acme is in the way"))
    return made


async def judged(tenant: Tenant, report: Report, used: bool = False) -> str:
    rollback = Rollback(cast(Deletion, Store(used)), cast(Subsystems, None), 300)
    await rollback.judge(tenant, report)
    return report.rolled_back.state if report.rolled_back else ""


@pytest.mark.parametrize("reason", sorted(Reason))
async def test_only_what_no_retry_mends_takes_anything_back(reason: Reason) -> None:
    assert await judged(claimed(), failing(reason)) == ("Removing" if reason in ROLLED_BACK else "")
    assert ROLLED_BACK < STALLING


async def test_a_spec_that_became_wrong_takes_back_what_was_made() -> None:
    report = Report(problems=(Problem(Reason.UNKNOWN_TIER, "no such tier"),))
    assert await judged(claimed(), report) == "Removing"
    assert await judged(samples.tenant(), Report(problems=report.problems)) == "", "nothing was made"


@pytest.mark.parametrize(
    "status",
    [
        {"firstReadyAt": "2026-11-02T08:00:00Z"},
        {"adoptedUid": samples.uid("before")},
        {
            "conditions": [
                {"type": "RuntimeReady", "status": "True", "reason": "InForce", "message": "",
                 "lastTransitionTime": "2026-11-02T08:00:00Z"}
            ]
        },
    ],
)  # fmt: skip
async def test_what_served_or_was_adopted_is_kept(status: dict[str, Any]) -> None:
    assert await judged(claimed(**status), failing()) == ""


async def test_a_status_older_than_the_tenant_is_another_ones() -> None:
    tenant = claimed(firstReadyAt="2026-10-01T08:00:00Z")
    assert not tenant.was_ready
    assert await judged(tenant, failing()) == "Removing"
    assert "firstReadyAt" not in statuses.build(tenant, failing(), NOW)


async def test_what_holds_data_is_kept_and_said() -> None:
    report = failing()
    assert await judged(claimed(), report, used=True) == ""
    assert "is kept" in statuses.build(claimed(), report, NOW)["conditions"][0]["message"]


async def test_the_message_ends_with_what_became_of_it() -> None:
    report = failing()
    await judged(claimed(), report)
    built = statuses.build(claimed(), report, NOW)
    assert built["conditions"][0]["message"].endswith("What had been made is being removed")
    tenant = claimed(**built)
    later = Report()
    done = Rollback(cast(Deletion, Undone()), cast(Subsystems, None), 300)
    await done.go_on(tenant, later)
    built = statuses.build(tenant, later, NOW + timedelta(minutes=1))
    for condition in built["conditions"]:
        if condition["type"] in ("Ready", "Stalled"):
            assert condition["message"] == "Role tenant_acme is in the way. What had been made was removed"
    assert built["rolledBack"] == {"state": "Removed", "failed": ["DatabaseReady"]}
    assert not {"endpoint", "namespaces", "pinned", "secrets"} & built.keys()
    assert claimed(**built).pinned is None


class Undone:
    async def undo(self, tenant: Tenant) -> None:
        return None


UID = samples.uid("before")


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ({}, "nothing that carries it"),
        ({"Namespace tenant-acme": UID, "Role tenant_acme": ""}, "Role tenant_acme carries no UID"),
        ({"Namespace tenant-acme": UID, "Schema tenant_acme": "x"}, "Schema tenant_acme carries the UID x"),
        ({"Namespace tenant-acme": UID, f"Schema retained_{UID}": UID}, "a deletion retained its data"),
    ],
)
def test_what_speaks_against_an_adoption(found: dict[str, str], why: str) -> None:
    assert why in adoption.contradiction(found, UID)


def test_nothing_speaks_against_what_carries_the_uid() -> None:
    assert adoption.contradiction({"Namespace tenant-acme": UID, "Role tenant_acme": UID}, UID) == ""
