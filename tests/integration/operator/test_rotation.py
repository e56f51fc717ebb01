"""Rotation of the runtime's logins: whatever a replica holds is accepted, and what nobody holds any more is not."""

import base64
import json
import random
import threading
from typing import Any

import psycopg
from pymilvus import MilvusClient

from tests.integration.operator.world import GROUP, Json, World, until

SEED = 20261122
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


class Replica(threading.Thread):
    """One replica of a runtime: a session that stays, and new ones; replaced as its Deployment says."""

    def __init__(self, world: World, tenant: str) -> None:
        super().__init__(daemon=True)
        self._world, self._tenant = world, tenant
        self._client = world.plane.client()
        self._end = threading.Event()
        self.failures: list[str] = []
        self.held = held(world, tenant)
        self.used: list[str] = []

    def _template(self) -> str:
        path = f"/apis/apps/v1/namespaces/runtime-{self._tenant}/deployments/runtime"
        found = self._client.get(path).json()
        return str(found["spec"]["template"]["metadata"]["annotations"]["tenantry.dev/credentials-digest"])

    def _mounted(self) -> Json:
        path = f"/api/v1/namespaces/runtime-{self._tenant}/secrets/runtime"
        return dict(json.loads(base64.b64decode(self._client.get(path).json()["data"]["credentials.json"])))

    def run(self) -> None:
        template = self._template()
        try:
            pool = connect(self.held)
            while not self._end.wait(0.1):
                connect(self.held).execute("SELECT count(*) FROM configuration").connection.close()
                pool.execute("SELECT 1")
                if (now := self._template()) != template:
                    # The new Pod is there before the one before it ends.
                    fresh = self._mounted()
                    following = connect(fresh)
                    self._end.wait(0.5)
                    pool.execute("SELECT 1")
                    pool.close()
                    self.held, pool, template = fresh, following, now
                    self.used.append(fresh["postgres"]["user"])
            pool.close()
        except Exception as error:
            self.failures.append(f"{type(error).__name__}: {error}")

    def stop(self) -> None:
        self._end.set()
        self.join(30)
        assert self.failures == []


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


def test_killed_in_the_midst_of_rotations_no_replica_is_refused(operator):
    world = operator
    rng = random.Random(SEED)
    print("seed", SEED)
    names = ("spun", "spun-own")
    world.tenant("spun")
    world.tenant("spun-own", "enterprise")
    for name in names:
        world.ready(name)
    first = {name: held(world, name) for name in names}
    replicas = {name: Replica(world, name) for name in names}
    for replica in replicas.values():
        replica.start()
    try:
        for step in range(1, 4):
            for name in names:
                ask(world, name, str(step))
            for _ in range(2):
                threading.Event().wait(rng.uniform(0.05, 1.2))
                world.replicas[-1].kill()
                world.start()
            for name in names:
                until(lambda n=name, s=step: state(world, n).get("requested") == str(s), f"{name} heard {step}", 90)
                until(lambda n=name: state(world, n).get("rolledOutAt"), f"{name} is rolled out", 90)
                end_overlap(world, name)
        for name in names:
            assert state(world, name)["generation"] == 3
            until(lambda n=name: len(replicas[n].used) >= 3, "the replica was replaced each time")
    finally:
        for replica in replicas.values():
            replica.stop()
    for name in names:
        world.ready(name)
        assert accepted(held(world, name))
        assert not accepted(first[name])
        schema = f"tenant_{name.replace('-', '_')}"
        logins = "SELECT rolname FROM pg_roles WHERE rolcanlogin AND rolname IN (%s, %s)"
        slots = [f"{schema}__runtime_{slot}" for slot in "ab"]
        assert world.rows(logins, *slots) == [(slots[1],)], "generation 3 alone"
    assert vectors_accepted(held(world, "spun-own"))
    assert not vectors_accepted(first["spun-own"])


def test_by_age(world: World):
    world.start(rotate_after_days=2 / 86400)
    try:
        world.tenant("aged")
        world.ready("aged")
        until(lambda: state(world, "aged").get("generation", 0) >= 1, "the first generation is old")
        until(lambda: state(world, "aged").get("rolledOutAt"), "and replaced")
        assert accepted(held(world, "aged"))
    finally:
        world.deleted("aged")
        world.stop()
