"""Rotation of the runtime's logins, over every order of steps, crashes, lost states and slow Pods."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest

from tenantry import names, rotation
from tenantry.api import Tenant
from tenantry.api.tenant import RotatedCredentials as State
from tenantry.credentials import Logins
from tenantry.desired.vectors import VectorPlan
from tenantry.rotation import DRAIN, Rotations
from tenantry.sharedlogins import MOST, SharedLogins, placed
from tests import samples
from tests.unit.rotation.fakes import REPLICAS, Crash, FakeMilvus, Fleet, operator, reconcile

NOW = datetime(2026, 11, 22, 8, tzinfo=UTC)
HOUR = timedelta(hours=1)


SHARING = {"acme": "free", "beta": "free", "gamma": "free"}
"""Tenants of one shared collection."""


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("tiers", [SHARING, {"acme": "enterprise"}], ids=["shared", "own"])
async def test_whatever_a_pod_holds_is_accepted(
    tiers: dict[str, str], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Fleet.check` looks after every single effect; here are the orders."""
    print("seed", seed)
    rng = random.Random(f"{tiers}/{seed}")
    fleet = Fleet(rng, tiers)
    worlds = list(fleet.worlds.values())
    monkeypatch.setattr(rotation, "clock", lambda: fleet.now.replace(microsecond=0))
    process = operator(fleet)
    for _ in range(3):
        await reconcile(fleet, process, *tiers)
        for world in worlds:
            while len(world.live()) < REPLICAS:
                world.roll()
    crashes, generations = 0, set()
    for _ in range(150 * len(tiers)):
        step, world = rng.random(), rng.choice(worlds)
        if step < 0.45:
            fleet.effects_left = rng.randint(1, 6) if rng.random() < 0.4 else None
            try:
                await reconcile(fleet, process, *rng.sample(list(tiers), rng.randint(1, len(tiers))))
            except Crash:
                crashes += 1
                process = operator(fleet)
        elif step < 0.65:
            world.roll()
        elif step < 0.8:
            fleet.wait(rng.choice((1, 20, 300, 4000)))
        elif step < 0.9:
            world.ask()
        elif step < 0.93:
            world.restart()
        elif step < 0.945:
            fleet.full = not fleet.full
        elif step < 0.96:
            world.back_up()
        else:
            world.restore()
            if rng.random() < 0.7:
                process = operator(fleet)
        fleet.effects_left = None
        generations |= set(fleet.users)
        assert len(fleet.shared) <= MOST
    assert crashes > 1
    fleet.full = False
    for _ in range(400):
        await reconcile(fleet, process, *tiers)
        for world in worlds:
            world.roll()
        fleet.wait(600)
        if all(world.at_rest for world in worlds):
            break
    assert all(world.at_rest for world in worlds), "it ends"
    for _ in range(2):
        await reconcile(fleet, process, *tiers)
    for world in worlds:
        logins = [name for name, role in world.roles.items() if "login" in role.flags and "__runtime_" in name]
        assert logins == [world.pods[0].held["postgres"]["user"]], "one login is left, which the Pods hold"
        state = world.stored()
        assert state["generation"] > 1
        assert logins[0].endswith("ab"[state["generation"] % 2])
    assert [*fleet.users] == [worlds[0].pods[0].held["milvus"]["user"]], "one user is left, which all Pods hold"
    assert len(generations) > (2 if len(tiers) > 1 else 1), "it was rotated"


@pytest.mark.parametrize("tiers", [SHARING, {"acme": "enterprise"}], ids=["shared", "own"])
async def test_a_full_milvus_leaves_tenants_ready_and_is_tried_again(
    tiers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(random.Random(0), tiers)
    world = fleet.worlds["acme"]
    monkeypatch.setattr(rotation, "clock", lambda: fleet.now.replace(microsecond=0))
    process = operator(fleet)
    tries = 0

    reserve = FakeMilvus.reserve

    async def counted(self: FakeMilvus, plan: VectorPlan) -> None:
        nonlocal tries
        tries += 1
        await reserve(self, plan)

    monkeypatch.setattr(FakeMilvus, "reserve", counted)

    async def go_on(times: int) -> None:
        for _ in range(times):
            await reconcile(fleet, process, *tiers)
            for each in fleet.worlds.values():
                each.roll()
            fleet.wait(10)

    await go_on(6)
    held, users = dict(world.pods[0].held), dict(fleet.users)
    fleet.full = True
    for each in fleet.worlds.values():
        each.ask()
    await go_on(60)  # ten minutes
    assert 9 <= tries <= 25, f"{tries} tries: of the whole region one at a time, more and more slowly"
    for each in fleet.worlds.values():
        assert each.stored().get("generation", 0) == 0, "nothing was begun"
        conditions = {c["type"]: c for c in each.tenant["status"]["conditions"]}
        assert conditions["Ready"]["status"] == conditions["VectorsReady"]["status"] == "True"
        assert conditions["VectorsReady"]["reason"] == "RotationWaits"
        assert conditions["Stalled"]["status"] == "False"
        for kind in ("Ready", "VectorsReady"):
            assert "proxy.maxUserNum; raise it" in conditions[kind]["message"]
    assert world.pods[0].held == held
    assert fleet.users == users
    fleet.full = False
    for _ in range(400):
        await go_on(1)
        if all(each.at_rest for each in fleet.worlds.values()):
            break
    await go_on(2)
    for each in fleet.worlds.values():
        assert each.at_rest
        conditions = {c["type"]: c for c in each.tenant["status"]["conditions"]}
        assert conditions["VectorsReady"]["reason"] == "InForce"
        assert "maxUserNum" not in conditions["Ready"]["message"]
    assert not fleet.users.keys() & users.keys(), "all of them go with the next one now"


def tenant(status: State | None = None, *, ready: bool = True, asks: str = "") -> Tenant:
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    stored = {"credentials": status.model_dump(mode="json", by_alias=True)} if status else {}
    made = samples.tenant("acme", status={"conditions": conditions, **stored})
    annotations = {names.ROTATE_ANNOTATION: asks} if asks else {}
    meta = made.metadata.model_copy(update={"annotations": annotations, "creation_timestamp": NOW - 80 * 24 * HOUR})
    return made.model_copy(update={"metadata": meta})


def rotations(days: float | None = 90, others: tuple[Tenant, ...] = ()) -> Rotations:
    standing = {str(number): placed(other) for number, other in enumerate(others)}
    made = Rotations(timedelta(days=days) if days else None, HOUR, SharedLogins(standing, list))
    made.note(samples.uid("tenant/acme"), State())
    return made


def begins(asked: Tenant, days: float | None = 90, now: datetime = NOW, others: tuple[Tenant, ...] = ()) -> int | None:
    found = rotations(days, others).next(asked, asked.uid, now)
    return found.generation if found else None


def test_a_rotation_begins_on_request_and_by_age() -> None:
    assert begins(tenant()) is None, "80 days are no 90, whatever the jitter"
    assert begins(tenant(), now=NOW + 20 * 24 * HOUR) == 1
    assert begins(tenant(), days=None, now=NOW + 1000 * 24 * HOUR) is None
    assert begins(tenant(asks="now"), days=None) == 1
    old = State(generation=4, rotated_at=NOW - HOUR, rolled_out_at=NOW - HOUR, requested="now")
    assert begins(tenant(old, asks="now")) is None, "heard already"
    assert begins(tenant(old, asks="again")) == 5
    assert begins(tenant(asks="now", ready=False)) is None, "not on top of other trouble"


def test_a_request_waits_for_the_end_of_the_rotation_before() -> None:
    rolling = State(generation=1, rotated_at=NOW, requested="1")
    draining = rotation.rolled_out(rolling, NOW, HOUR)
    assert begins(tenant(rolling, asks="2")) is None
    assert begins(tenant(draining, asks="2")) is None
    assert begins(tenant(rotation.closed(draining), asks="2")) == 2


def test_the_generation_must_be_known() -> None:
    asked = tenant(asks="1")
    claimed = asked.model_copy(
        update={"metadata": asked.metadata.model_copy(update={"finalizers": (names.FINALIZER,)})}
    )
    fresh = Rotations(None, HOUR, SharedLogins({}, list))
    assert fresh.next(claimed, claimed.uid, NOW) is None, "a status may be older than what the stores hold"
    fresh.note(claimed.uid, State())
    assert fresh.next(claimed, claimed.uid, NOW) is not None


def test_not_all_tenants_roll_at_once() -> None:
    others = tuple(tenant(State(generation=1, rotated_at=NOW)) for _ in range(rotation.ROLLING_AT_ONCE))
    late = NOW + 30 * 24 * HOUR
    assert begins(tenant(), now=late, others=others) is None
    assert begins(tenant(), now=late, others=others[1:]) == 1
    assert begins(tenant(asks="now"), now=late, others=others) == 1, "a person is not held back"
    spread = [rotation.jitter(samples.uid(str(n))) for n in range(1000)]
    assert 0.9 <= min(spread) < 0.91
    assert 1.09 < max(spread) < 1.1


def test_what_is_accepted() -> None:
    rolling = State(generation=3, rotated_at=NOW)
    assert rotation.logins(State(), NOW, in_use=True) == Logins()
    assert rotation.logins(rolling, NOW + 100 * HOUR, in_use=False) == Logins(3, True, True)
    draining = rotation.rolled_out(rolling, NOW, HOUR)
    assert rotation.logins(draining, NOW, in_use=True) == Logins(3, True, True)
    assert rotation.logins(draining, NOW, in_use=False) == Logins(3, False, True)
    assert rotation.logins(draining, NOW + DRAIN, in_use=True) == Logins(3, False, True), "a leaked login ends too"
    assert rotation.logins(draining, NOW + HOUR, in_use=True) == Logins(3)
    assert rotation.logins(rotation.closed(draining), NOW, in_use=True) == Logins(3)


def test_a_very_long_request_is_kept_as_its_digest() -> None:
    one, other = (rotation.request(tenant(asks="x" * 5000 + end)) for end in "ab")
    assert one != other
    assert len(one) <= rotation.LONGEST_REQUEST
