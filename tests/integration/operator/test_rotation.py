"""Rotation of the runtime's logins: whatever a replica holds is accepted, and what nobody holds any more is not."""

import contextlib
import threading

from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException

from tests.integration.operator.logins import (
    accepted,
    ask,
    connect,
    end_overlap,
    held,
    state,
    users,
    vectors,
    vectors_accepted,
)
from tests.integration.operator.world import GROUP, Json, World, until


class Replica(threading.Thread):
    """Stands in for a runtime: searches all the time with the logins of one version of its Secret, then with the next.

    As a runtime does, it holds a session in PostgreSQL for as long as it uses them.
    """

    def __init__(self, world: World, tenant: str) -> None:
        super().__init__(daemon=True)
        self._world, self._tenant = world, tenant
        self._end = threading.Event()
        self.done: dict[str, int] = {}
        """Searches by Milvus user."""
        self.failed: list[str] = []

    def run(self) -> None:
        while not self._end.is_set():
            credentials = held(self._world, self._tenant)
            try:
                with connect(credentials), contextlib.closing(vectors(credentials)) as client:
                    self._search(credentials, client)
            except Exception as error:
                self.failed.append(f"{credentials['milvus']['user']}: {type(error).__name__}: {error}")
                return

    def _search(self, credentials: Json, client: MilvusClient) -> None:
        told, count = credentials["milvus"], 0
        inside = [told["partition"]] if told["partition"] else None
        while not self._end.wait(0.05):
            client.search(
                told["collection"], [[0.5] * 8], limit=1, partition_names=inside,
                filter=f'tenant == "{told["tag"]}"', timeout=60,
            )  # fmt: skip
            self.done[told["user"]] = self.done.get(told["user"], 0) + 1
            count += 1
            if count % 10 == 0 and held(self._world, self._tenant) != credentials:
                return

    def stop(self) -> None:
        self._end.set()
        self.join(90)


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


def test_the_user_of_a_shared_collection(operator):
    """One tenant asks, and both of the collection get the next user, without one failed search."""
    world, tenants = operator, ("turn-one", "turn-two")
    for name in tenants:
        world.tenant(name)
    for name in tenants:
        world.ready(name)
    first = {name: held(world, name) for name in tenants}
    collection = first["turn-one"]["milvus"]["collection"]
    assert len({h["milvus"]["user"] for h in first.values()}) == 1
    before = first["turn-one"]["milvus"]["user"]
    replicas = {name: Replica(world, name) for name in tenants}
    try:
        for replica in replicas.values():
            replica.start()
        until(lambda: all(r.done.get(before) for r in replicas.values()), "both search")
        ask(world, "turn-one", "1")
        for name in tenants:
            until(lambda n=name: held(world, n)["milvus"]["user"] != before, f"{name} has the next user", 90)
        second = {name: held(world, name) for name in tenants}
        after = second["turn-one"]["milvus"]["user"]
        until(lambda: all(r.done.get(after, 0) > 5 or r.failed for r in replicas.values()), "both use it")
        until(lambda: not vectors_accepted(first["turn-one"]), "the user before is refused", 90)
        until(lambda: all(r.done[after] > 30 or r.failed for r in replicas.values()), "they search on")
    finally:
        for replica in replicas.values():
            replica.stop()
    for name, replica in replicas.items():
        print(f"{name}: {replica.done}")
        assert not replica.failed, f"{name} was refused: {replica.failed}"
        assert not accepted(first[name]), "its login in PostgreSQL was replaced with it"
        assert second[name]["milvus"]["password"] == second["turn-one"]["milvus"]["password"]
        until(lambda n=name: vectors_accepted(second[n]), f"the next user works for {name}")
    assert state(world, "turn-two")["sharedUser"] == state(world, "turn-one")["sharedUser"]
    assert state(world, "turn-two").get("requested", "") == ""
    assert users(world, before) == {after}
    assert world.replicas[-1].value("tenantry_drift_corrections_total", subsystem="vectors") == 0

    # One more tenant gets the newest; and what all statuses have forgotten is not begun anew.
    world.tenant("turn-three")
    world.ready("turn-three")
    third = held(world, "turn-three")
    assert third["milvus"]["collection"] == collection
    assert third["milvus"]["user"] == after
    world.stop()
    for name in (*tenants, "turn-three"):
        world.patch(f"{GROUP}/tenants/{name}/status", {"status": {"credentials": None}})
    world.start()
    for name in (*tenants, "turn-three"):
        until(lambda n=name: state(world, n).get("sharedUser"), f"the user of {name} is found again")
        world.ready(name)
    assert {name: held(world, name) for name in tenants} == second
    assert held(world, "turn-three") == third
    assert users(world, before) == {after}


def test_by_age(operator):
    """Nobody asks, and no search and no session fails."""
    world = operator
    world.tenant("aged", "enterprise")
    world.ready("aged")
    first, replica = held(world, "aged"), Replica(world, "aged")
    replica.start()
    try:
        until(lambda: replica.done, "it searches")
        long_ago = {"generation": 0, "rotatedAt": "2026-01-01T00:00:00Z"}
        world.patch(f"{GROUP}/tenants/aged/status", {"status": {"credentials": long_ago}})
        until(lambda: state(world, "aged").get("rolledOutAt"), "it is rotated", 90)
        after = held(world, "aged")["milvus"]["user"]
        assert after != first["milvus"]["user"]
        until(lambda: replica.done.get(after, 0) > 5 or replica.failed, "the new logins are used")
        until(lambda: not accepted(first), "the login before is closed")
        until(lambda: replica.done[after] > 20 or replica.failed, "it searches on")
    finally:
        replica.stop()
    assert not replica.failed, replica.failed
    shown = state(world, "aged")
    assert (shown["generation"], shown.get("requested", "")) == (1, "")
    world.deleted("aged")


def test_a_milvus_without_room_for_one_more_user(operator):
    """Nothing is begun that can't be ended: they stay Ready with what they have, and go on when there is room."""
    world, tenants = operator, {"roomless": "free", "roomless-own": "enterprise"}
    for name, tier in tenants.items():
        world.tenant(name, tier)
    for name in tenants:
        world.ready(name)
    first = {name: held(world, name) for name in tenants}
    before = {name: state(world, name) for name in tenants}
    fillers = [f"filler_{number}" for number in range(200)]
    with world.vectors() as client:
        try:
            with contextlib.suppress(MilvusException):
                for filler in fillers:
                    client.create_user(filler, "Only-for-this-test-1")
            for name in tenants:
                ask(world, name, "1")
            for name in tenants:
                said = world.says(name, "RotationWaits", "VectorsReady")
                for words in ("proxy.maxUserNum", "raise it in milvus.yaml", "those that it has go on"):
                    assert words in said
                assert "proxy.maxUserNum" in world.ready(name)["status"]["conditions"][0]["message"]
                assert world.condition(name, "Stalled")["status"] == "False"
                assert state(world, name) == before[name], "nothing was begun"
                assert held(world, name) == first[name]
                assert accepted(first[name])
                assert vectors_accepted(first[name])
        finally:
            there = set(client.list_users())
            for filler in there.intersection(fillers):
                client.drop_user(filler)
    assert there.issuperset(fillers[:20]), "it was full of them"
    for name in tenants:
        until(lambda n=name: state(world, n).get("rolledOutAt"), f"{name} goes on by itself", 120)
        assert vectors_accepted(held(world, name))
        assert held(world, name)["milvus"] != first[name]["milvus"]
        world.ready(name)
        assert world.condition(name, "VectorsReady")["reason"] == "InForce"
    world.deleted(*tenants)
