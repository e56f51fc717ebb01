"""PostgreSQL and Milvus away, hung, slow, full or read-only: said in their own conditions, waited for, healed from."""

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest

from dev.cluster import postgres
from tests.integration.operator.world import ADMIN_PASSWORD, GROUP, MERGE, World, until
from tests.integration.survival.faults import FAR, NEAR, Faults, faulty


@pytest.fixture(scope="module")
def shared(world: World) -> Iterator[Faults]:
    with faulty(world) as made:
        yield made


@pytest.fixture
def faults(shared: Faults) -> Iterator[Faults]:
    yield shared
    shared.heal()


def say(faults: Faults, kind: str, reason: str, *words: str) -> None:
    """Every tenant of the region says it, with what to do, and the rest of the tenant goes on."""
    world = faults.world
    for name in FAR:
        message = world.says(name, reason, kind)
        for word in words:
            assert word in message
        for secret in (ADMIN_PASSWORD, postgres.ADMIN):
            assert secret not in message
        assert world.condition(name, "Stalled")["status"] == "False", "a retry mends it"
        assert world.condition(name, "Ready")["status"] == "False"
        assert world.condition(name, "NamespacesReady")["status"] == "True"
        runtime = world.condition(name, "RuntimeReady")
        assert "go on" in runtime["message"], runtime


@pytest.mark.parametrize(
    ("mode", "words"),
    [("refuse", "check that it runs"), ("hang", "answer")],
)
def test_stores_that_are_away(faults: Faults, mode: str, words: str) -> None:
    for proxy in faults.stores:
        proxy.set(mode)  # type: ignore[arg-type]
    started = time.monotonic()
    before = [proxy.accepted for proxy in faults.stores]
    faults.touch(*FAR)
    faults.others_go_on()
    say(faults, "DatabaseReady", "DatabaseUnavailable", words, "tries again")
    say(faults, "VectorsReady", "VectorsUnavailable", "Milvus does not answer", "spec.milvus.uri")
    time.sleep(max(0.0, 10 - (time.monotonic() - started)))
    lasted = time.monotonic() - started
    for proxy, count in zip(faults.stores, before, strict=True):
        # Three tenants that fail, and one at a time that tries again, more and more slowly.
        assert proxy.accepted - count <= 6 + 2 * lasted, f"hammered over {lasted:.0f} s"
    faults.healed()


def test_slow_stores(faults: Faults) -> None:
    """300 ms for each round trip."""
    for proxy in faults.stores:
        proxy.latency = 0.15
        proxy.cut()
    faults.touch(*FAR)
    faults.others_go_on()
    for name in FAR:
        faults.world.ready(name, 90)
    faults.healed()


def test_postgresql_is_read_only(faults: Faults) -> None:
    world = faults.world
    world.rows(f"ALTER ROLE {postgres.ADMIN} SET default_transaction_read_only = on")
    try:
        faults.postgres.cut()
        faults.touch(*FAR)
        say(faults, "DatabaseReady", "DatabaseUnavailable", "read-only", "point the DataRegion's spec.postgres.host")
    finally:
        world.rows(f"ALTER ROLE {postgres.ADMIN} RESET default_transaction_read_only")
        faults.postgres.cut()  # a failover ends the connections too
    faults.healed()


def test_postgresql_has_no_connection_left(faults: Faults) -> None:
    with contextlib.ExitStack() as held:
        with contextlib.suppress(psycopg.OperationalError):
            for _ in range(1000):
                held.enter_context(faults.world.postgres.connect())
        faults.postgres.cut()
        faults.touch(*FAR)
        say(faults, "DatabaseReady", "DatabaseUnavailable", "no free connection", "raise its max_connections")
    faults.healed()


def test_restarts_while_nobody_looks_and_while_everybody_works(faults: Faults) -> None:
    world = faults.world
    world.postgres.stop()
    world.milvus.stop()
    try:
        faults.touch(*FAR)
        say(faults, "DatabaseReady", "DatabaseUnavailable")
        say(faults, "VectorsReady", "VectorsUnavailable")
    finally:
        world.postgres.start()
        world.milvus.start()
    faults.healed()
    world.postgres.stop()
    world.postgres.start()
    faults.touch(*FAR)
    faults.healed()


# -- the API server --------------------------------------------------------------------


def watches(faults: Faults) -> int:
    return faults.api.requests["GET", "watch"]


def test_watches_that_are_cut(faults: Faults) -> None:
    faults.api.away = True
    faults.api.cut()
    faults.touch(*FAR, NEAR)
    time.sleep(1)
    faults.healed()


@pytest.mark.parametrize("answer", ["expired", "gone", "broken"])
def test_watches_that_are_refused(faults: Faults, answer: str) -> None:
    """410 in the stream or instead of it, and an error that no watch should have."""
    faults.api.watches = answer
    faults.api.cut()
    before, began = watches(faults), time.monotonic()
    faults.touch(FAR[0])
    until(lambda: watches(faults) - before > 30, "the watches were refused", 60)
    time.sleep(3)
    kinds = 20
    assert watches(faults) - before < kinds * (5 + 3 * (time.monotonic() - began)), "hammered"
    faults.api.watches = ""
    faults.touch(FAR[1])
    faults.healed()
    # Watched again: a change is seen at once, not at the next resync.
    quota = "/api/v1/namespaces/tenant-near/resourcequotas/tenantry"
    wanted = (faults.world.get(quota) or {})["spec"]
    faults.world.patch(quota, {"spec": {"hard": {"pods": "99"}}})
    until(lambda: (faults.world.get(quota) or {})["spec"] == wanted, "the quota is put back", 60)


def test_the_api_server_is_away_for_longer_than_the_lease(faults: Faults) -> None:
    """The operator can't lead, so it does nothing; it does not end, and goes on when it leads again."""
    faults.api.away = True
    faults.api.cut()
    faults.touch(*FAR, NEAR)
    until(lambda: faults.replica.value("tenantry_leader") == 0, "it no longer leads", 60)
    asked = faults.api.requests.total()
    time.sleep(3)
    assert faults.api.requests.total() - asked < 60, "hammered"
    faults.healed()
    assert faults.replica.value("tenantry_leader") == 1


def test_the_api_server_restarts(faults: Faults) -> None:
    faults.touch(FAR[0])
    faults.world.plane.restart()
    faults.touch(*FAR, NEAR)
    faults.healed()


def test_a_storm_of_conflicts(faults: Faults) -> None:
    """Somebody writes the Tenant and its objects all the time; each of our writes may meet one of theirs."""
    world, end = faults.world, threading.Event()
    paths = (
        f"{GROUP}/tenants/far-0",
        "/api/v1/namespaces/tenant-far-0",
        "/api/v1/namespaces/tenant-far-0/secrets/postgres",
    )

    def storm() -> None:
        client = world.plane.client()
        for number in itertools.count():
            if end.is_set():
                return
            for path in paths:
                client.patch(
                    path, json={"metadata": {"annotations": {"example.org/storm": str(number)}}}, headers=MERGE
                )

    threads = [threading.Thread(target=storm, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            faults.touch(FAR[0])
            world.change(FAR[0], namespaces=[{"suffix": "dev"}])
            faults.others_go_on()
            world.ready(FAR[0], 60)
            world.change(FAR[0], namespaces=None)
            world.ready(FAR[0], 60)
    finally:
        end.set()
        for thread in threads:
            thread.join(10)
    faults.healed()
    assert world.condition(FAR[0], "Stalled")["status"] == "False"
