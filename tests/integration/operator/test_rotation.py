"""Rotation of the runtime's logins: whatever a replica holds is accepted, and what nobody holds any more is not."""

import json
from typing import Any

import psycopg
from pymilvus import MilvusClient

from tests.integration.operator.world import GROUP, Json, World, until

ROTATE = "tenantry.dev/rotate"


def ask(world: World, tenant: str, value: str) -> None:
    world.patch(f"{GROUP}/tenants/{tenant}", {"metadata": {"annotations": {ROTATE: value}}})


def state(world: World, tenant: str) -> Json:
    return dict(world.seen(tenant).get("status", {}).get("credentials", {}))


def end_overlap(world: World, tenant: str) -> None:
    """As if its time had come; a reconcile under way may put the time back once."""

    def ended() -> bool:
        if not state(world, tenant).get("previousUntil"):
            return True
        past = {"previousUntil": "2026-01-01T00:00:00Z"}
        world.patch(f"{GROUP}/tenants/{tenant}/status", {"status": {"credentials": past}})
        return False

    until(ended, f"the rotation of {tenant} has ended", 90)


def held(world: World, tenant: str) -> Json:
    """What a Pod that starts now mounts."""
    secret = world.secret(f"runtime-{tenant}", "runtime")
    assert secret is not None
    return dict(json.loads(secret["credentials.json"]))


def connect(credentials: Json) -> psycopg.Connection[Any]:
    """As the runtime does."""
    told = credentials["postgres"]
    return psycopg.connect(
        host=told["host"], port=told["port"], dbname=told["database"], user=told["user"], password=told["password"],
        connect_timeout=20, autocommit=True,
    )  # fmt: skip


def accepted(credentials: Json) -> bool:
    try:
        connect(credentials).close()
    except psycopg.OperationalError as error:
        if "not permitted to log in" in str(error) or "password authentication failed" in str(error):
            return False
        raise
    return True


def vectors_accepted(credentials: Json) -> bool:
    told = credentials["milvus"]
    try:
        client = MilvusClient(uri=told["uri"], user=told["user"], password=told["password"], db_name=told["database"])
    except Exception:
        return False
    try:
        client.describe_collection(told["collection"])
    except Exception:
        return False
    finally:
        client.close()
    return True


def test_both_logins_work_until_nobody_uses_the_one_before(operator):
    world = operator
    world.tenant("turn", "enterprise")
    world.ready("turn")
    first = held(world, "turn")
    assert state(world, "turn") == {}, "a tenant that was never rotated costs no status for it"
    with connect(first) as replica:
        ask(world, "turn", "1")
        until(lambda: state(world, "turn").get("rolledOutAt"), "every replica is new")
        second = held(world, "turn")
        assert second["postgres"]["user"].endswith("_b")
        assert second["milvus"]["user"].endswith("_b")
        shown = state(world, "turn")
        assert (shown["generation"], shown["requested"]) == (1, "1")
        for credentials in (first, second):
            assert accepted(credentials)
            assert vectors_accepted(credentials)
        own = world.secret("tenant-turn", "milvus")
        assert own is not None
        assert own["password"] == second["milvus"]["password"]
        assert replica.execute("SELECT count(*) FROM configuration").fetchone() == (1,)
    until(lambda: not accepted(first), "the login before is closed when its last session has ended")
    assert accepted(second)
    assert vectors_accepted(first), "programs of the tenant's have an hour to read their Secret again"
    end_overlap(world, "turn")
    until(lambda: not vectors_accepted(first), "the user before is gone")
    assert vectors_accepted(second)
    world.ready("turn")

    # Forgotten, also by the process: no login whose time is over comes back.
    world.stop()
    world.patch(f"{GROUP}/tenants/turn/status", {"status": {"credentials": None}})
    world.start()
    until(lambda: state(world, "turn").get("generation") == 1, "it is found again")
    world.ready("turn")
    assert held(world, "turn") == second
    assert accepted(second)
    assert vectors_accepted(second)
    assert not accepted(first)
    assert not vectors_accepted(first)
    assert world.replicas[-1].value("tenantry_drift_corrections_total", subsystem="database") == 0
