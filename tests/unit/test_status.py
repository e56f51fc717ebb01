from datetime import UTC, datetime, timedelta

import pytest

from tenantry import status
from tenantry.api import Reason, Tenant
from tenantry.api.conditions import STALLING, Type
from tenantry.resolve import Problem
from tenantry.status import Outcome, Report
from tests import samples

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def report(**changed: Outcome) -> Report:
    made = Report(resolved=samples.resolved())
    for kind in status.SUBSYSTEMS:
        made.add(Outcome(kind, "True", Reason.IN_FORCE, "was seen"))
    for outcome in changed.values():
        made.add(outcome)
    return made


def by_type(built):
    return {c["type"]: c for c in built["conditions"]}


def stored(built, **spec) -> Tenant:
    """The Tenant with this status, as the API server would return it."""
    return samples.tenant(status=built, **spec)


def test_ready_needs_every_subsystem():
    conditions = by_type(status.build(samples.tenant(), report(), NOW))
    assert conditions["Ready"]["status"] == "True"
    assert conditions["Reconciling"]["status"] == conditions["Stalled"]["status"] == "False"
    for kind in status.SUBSYSTEMS:
        partial = report()
        del partial.outcomes[kind]
        assert by_type(status.build(samples.tenant(), partial, NOW))["Ready"]["status"] == "False"


def test_what_is_retried_is_reconciling_and_never_stalled():
    away = Outcome(Type.DATABASE, "False", Reason.DATABASE_UNAVAILABLE, "PostgreSQL does not answer")
    conditions = by_type(status.build(samples.tenant(), report(away=away), NOW))
    assert conditions["Ready"] | {"lastTransitionTime": ""} == {
        "type": "Ready",
        "status": "False",
        "reason": "DatabaseUnavailable",
        "message": "PostgreSQL does not answer",
        "observedGeneration": 1,
        "lastTransitionTime": "",
    }
    assert conditions["Reconciling"]["status"] == "True"
    assert conditions["Stalled"]["status"] == "False"


@pytest.mark.parametrize("reason", sorted(STALLING))
def test_what_no_retry_mends_is_stalled(reason):
    made = report()
    made.problems = (Problem(reason, "do this"), Problem(reason, "and that"))
    conditions = by_type(status.build(samples.tenant(), made, NOW))
    assert conditions["Stalled"]["status"] == "True"
    assert conditions["Reconciling"]["status"] == "False"
    assert conditions["Ready"]["message"] == "do this Also: and that."


def test_a_stalling_reason_of_a_subsystem_comes_before_one_that_is_retried():
    made = report(
        a=Outcome(Type.DATABASE, "False", Reason.DATABASE_UNAVAILABLE, "away"),
        b=Outcome(Type.VECTORS, "False", Reason.CAPACITY_EXHAUSTED, "raise proxy.maxRoleNum"),
    )
    assert by_type(status.build(samples.tenant(), made, NOW))["Ready"]["reason"] == "CapacityExhausted"


def test_the_transition_time_moves_only_with_the_status():
    first = status.build(samples.tenant(), report(), NOW)
    later = NOW + timedelta(minutes=5)
    again = status.build(stored(first), report(), later)
    assert again == first
    broken = report(x=Outcome(Type.RUNTIME, "False", Reason.ROLLING_OUT, "1 of 2"))
    conditions = by_type(status.build(stored(first), broken, later))
    assert conditions["RuntimeReady"]["lastTransitionTime"] == "2026-11-22T12:05:00Z"
    assert conditions["DatabaseReady"]["lastTransitionTime"] == "2026-11-22T12:00:00Z"


def test_a_steady_tenant_is_not_written():
    first = status.build(samples.tenant(), report(), NOW)
    tenant = stored(first)
    assert status.patch(status.current(tenant), status.build(tenant, report(), NOW + timedelta(hours=1))) is None


def test_a_problem_leaves_what_was_provisioned_in_the_status():
    first = status.build(samples.tenant(), report(), NOW)
    made = Report(problems=(Problem(Reason.UNKNOWN_TIER, "there is no tier"),))
    after = status.build(stored(first), made, NOW)
    assert after["endpoint"] == first["endpoint"] == "http://runtime.runtime-acme.svc:8000/v1"
    assert by_type(after)["DatabaseReady"]["status"] == "True"


def test_a_patch_takes_away_what_is_no_longer_said():
    assert status.patch({"a": 1, "b": 2}, {"a": 1, "c": 3}) == {"b": None, "c": 3}


def test_suspension_shows_in_the_reason():
    made = report()
    made.resolved = samples.resolved(suspended=True)
    assert by_type(status.build(samples.tenant(), made, NOW))["Ready"]["reason"] == "Suspended"


def test_long_messages_fit_the_schema():
    made = report(x=Outcome(Type.DATABASE, "False", Reason.RETRYING, "x" * 5000))
    assert len(by_type(status.build(samples.tenant(), made, NOW))["DatabaseReady"]["message"]) == 2048


def test_first_ready_is_set_once_and_kept():
    built = status.build(samples.tenant(), report(), NOW)
    assert built["firstReadyAt"] == "2026-11-22T12:00:00Z"
    tenant = stored(built)
    assert tenant.was_ready
    assert status.patch(status.current(tenant), status.build(tenant, report(), NOW + timedelta(days=1))) is None
    away = Outcome(Type.DATABASE, "False", Reason.DATABASE_UNAVAILABLE, "PostgreSQL does not answer")
    assert status.build(tenant, report(away=away), NOW)["firstReadyAt"] == "2026-11-22T12:00:00Z"
    assert "firstReadyAt" not in status.build(samples.tenant(), report(away=away), NOW)


def test_what_was_adopted_stays_in_the_status():
    tenant = samples.tenant(status={"adoptedUid": samples.uid("before")})
    assert tenant.identity == samples.uid("before") != tenant.uid
    assert status.build(tenant, report(), NOW)["adoptedUid"] == tenant.identity
    assert samples.tenant().identity == samples.tenant().uid
