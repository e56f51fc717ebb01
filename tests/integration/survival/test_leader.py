"""Two replicas: one leads at any time, nothing is done twice and nothing is missed, whatever happens to the leader."""

from __future__ import annotations

import signal
import time
from datetime import datetime

import pytest

from tenantry.settings import Settings
from tests.apiproxy import ApiProxy
from tests.integration.operator.world import NAMESPACE, Json, Replica, World, until
from tests.integration.survival.faults import unforeseen

LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/tenantry"
DEFAULT_SECONDS = Settings(runtime_image="x").lease_seconds
HANDED_OVER_SECONDS = 15


def lease(world: World) -> Json:
    return (world.get(LEASE) or {"spec": {}})["spec"]


def leads(replica: Replica) -> bool:
    try:
        return replica.value("tenantry_leader") == 1
    except Exception:
        return False  # it does not serve yet, or no longer


def serves(replica: Replica) -> bool:
    """Its probes and metrics; before that it would not end on SIGTERM in good order."""
    try:
        replica.value("tenantry_leader")
    except Exception:
        return False
    return True


def alone(world: World) -> World:
    """Without the operator that the fixture has started."""
    until(lambda: leads(world.replicas[-1]), "the first operator leads", 60)
    world.stop()
    return world


def holder(world: World) -> str:
    return str(lease(world).get("holderIdentity", ""))


def versions(world: World, tenant: str) -> dict[str, str]:
    """Everything of the tenant's, with the version that each write makes anew."""
    found = {}
    for namespace in (f"tenant-{tenant}", f"runtime-{tenant}"):
        for path in (
            "api/v1/namespaces/{}/secrets", "api/v1/namespaces/{}/resourcequotas", "api/v1/namespaces/{}/limitranges",
            "api/v1/namespaces/{}/serviceaccounts", "apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
            "apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings",
            "apis/tenantry.dev/v1alpha1/namespaces/{}/accesskeys",
        ):  # fmt: skip
            for item in (world.get("/" + path.format(namespace)) or {"items": []})["items"]:
                if path.endswith("resourcequotas"):
                    item["metadata"]["resourceVersion"] = item["metadata"].get("generation")  # its status counts Pods
                found[f"{namespace} {path} {item['metadata']['name']}"] = str(item["metadata"]["resourceVersion"])
    return found


def ready_events(world: World, tenant: str) -> int:
    """How often it was said to become Ready; repeats count, and no earlier tenant of its name does."""
    uid = world.seen(tenant)["metadata"]["uid"]
    events = (world.get("/api/v1/namespaces/default/events") or {"items": []})["items"]
    # Not every event names a UID: the API server's own about a ServiceCIDR that it could not make yet has none.
    about = [e for e in events if e["involvedObject"].get("uid") == uid and e.get("reason") == "Ready"]
    return sum(e.get("count") or 1 for e in about)


def said_once(world: World, tenant: str) -> None:
    """The Event is written after the status."""
    until(lambda: ready_events(world, tenant), f"an Event says that {tenant} is Ready")
    assert ready_events(world, tenant) == 1


@pytest.fixture
def pair(operator: World) -> tuple[World, Replica, Replica]:
    """The leader of every test, and a standby; both with the Lease that the chart has."""
    world = alone(operator)
    leader = world.start("leader", lease_seconds=DEFAULT_SECONDS)
    until(lambda: leads(leader), "the first replica leads", 60)
    standby = world.start("standby", lease_seconds=DEFAULT_SECONDS)
    until(lambda: serves(standby), "the standby serves its metrics", 60)
    return world, leader, standby


def test_the_leader_is_killed(pair: tuple[World, Replica, Replica]) -> None:
    world, leader, standby = pair
    world.tenant("handed")
    world.ready("handed")
    before = versions(world, "handed")
    assert len(before) > 5
    identity = holder(world)
    killed = time.time()
    leader.kill()
    # What happens while nobody leads is not missed.
    world.change("handed", displayName="Handed Over")
    world.tenant("between")
    until(lambda: holder(world) not in ("", identity), "the standby holds the Lease", 60)
    taken = datetime.fromisoformat(lease(world)["acquireTime"]).timestamp()
    assert taken - killed <= HANDED_OVER_SECONDS
    until(lambda: leads(standby), "the standby leads", 60)
    world.ready("between")
    world.ready("handed")
    document = world.rows("SELECT document::text FROM tenant_handed__runtime.configuration")[0][0]
    assert "Handed Over" in document
    # Nothing is done twice.
    for name in ("between", "handed"):
        said_once(world, name)
    assert versions(world, "handed") == before
    assert not unforeseen(standby)


def test_a_leader_that_was_stopped_does_nothing_when_it_wakes_up(operator: World) -> None:
    """SIGSTOP in the middle of its work, SIGCONT after another one has taken over."""
    world = alone(operator)
    api = ApiProxy(world.plane)
    api.start()
    try:
        way = str(api.kubeconfig(world.folder / "stopped.kubeconfig"))
        old = world.start("stopped", KUBECONFIG=way)
        until(lambda: leads(old), "the first replica leads", 60)
        new = world.start("woken")
        for number in range(4):
            world.tenant(f"halfway-{number}")
        until(lambda: api.writes > 15, "it is at work", 60)
        old.process.send_signal(signal.SIGSTOP)
        try:
            written = -1
            while written != api.writes:  # until what it had sent has arrived
                written = api.writes
                time.sleep(1)
            until(lambda: leads(new), "the other one leads", 60)
            for number in range(4):
                world.ready(f"halfway-{number}")
            assert api.writes == written
        finally:
            old.process.send_signal(signal.SIGCONT)
        until(lambda: old.value("tenantry_leader") == 0, "the old one has noticed", 60)
        world.change("halfway-0", displayName="By the new one")
        world.ready("halfway-0")
        assert api.writes == written, "a replica that no longer leads has written"
        assert leads(new)
        for number in range(4):
            said_once(world, f"halfway-{number}")
        # It is a standby like any other now.
        new.stop()
        until(lambda: leads(old), "it leads again", 60)
        world.change("halfway-1", displayName="By the old one")
        world.ready("halfway-1")
        for replica in (old, new):
            assert not unforeseen(replica), unforeseen(replica)
        old.stop()
    finally:
        last = world.start()
        until(lambda: serves(last), "an operator is there", 60)
        world.deleted(*(f"halfway-{n}" for n in range(4)))
        api.stop()


def test_a_lease_deleted_by_hand_makes_no_second_leader(pair: tuple[World, Replica, Replica]) -> None:
    world, leader, standby = pair
    identity = holder(world)
    for _ in range(3):
        world.remove(LEASE)
        until(lambda: holder(world), "there is a Lease again", 60)
        assert holder(world) == identity
        assert not leads(standby)
    assert leads(leader)
    leader.stop()  # gives it back
    until(lambda: leads(standby), "the standby leads", 60)
