"""Another controller that sets an object back each time: a condition says so, and the writes stay few."""

import threading
import time

import httpx

from tests.integration.operator.world import MERGE, World, until

PATH = "/api/v1/namespaces/tenant-fought/resourcequotas/tenantry"
MEDDLER = "meddling-autoscaler"


class Meddler(threading.Thread):
    """As a controller does: whenever the quota is not as it wants it, it says so again."""

    def __init__(self, client: httpx.Client) -> None:
        super().__init__(daemon=True)
        self._client = client
        self._end = threading.Event()
        self.writes = 0

    def run(self) -> None:
        while not self._end.wait(0.1):
            try:
                found = self._client.get(PATH)
                if found.status_code == 200 and found.json()["spec"]["hard"].get("pods") != "9999":
                    body = {"spec": {"hard": {"pods": "9999"}}}
                    self._client.patch(PATH, json=body, headers=MERGE, params={"fieldManager": MEDDLER})
                    self.writes += 1
            except httpx.HTTPError:
                continue

    def stop(self) -> None:
        self._end.set()
        self.join(10)


def pods(world: World) -> str:
    return str((world.get(PATH) or {})["spec"]["hard"]["pods"])


def test_a_fight_shows_as_a_condition_and_is_not_a_loop(operator):
    world = operator
    world.tenant("fought", "enterprise")
    world.tenant("beside")
    world.ready("fought")
    world.ready("beside")
    wanted = pods(world)
    meddler = Meddler(world.plane.client())
    meddler.start()
    try:
        message = world.says("fought", "Contested", "NamespacesReady", 60)
        assert "ResourceQuota tenant-fought/tenantry" in message
        assert MEDDLER in message
        assert world.condition("fought")["reason"] == "Contested"
        assert world.condition("fought")["status"] == "False"
        assert world.condition("fought", "Stalled")["status"] == "False"
        # Nothing else of the tenant waits for it.
        assert world.condition("fought", "DatabaseReady")["status"] == "True"
        world.change("fought", ai={"customInstructions": "while they fight"})
        document = "SELECT document::text FROM tenant_fought__runtime.configuration"
        until(lambda: "while they fight" in world.rows(document)[0][0], "a change still arrives", 60)
        walls = "/apis/networking.k8s.io/v1/namespaces/tenant-fought/networkpolicies/tenantry"
        world.remove(walls)
        until(lambda: world.get(walls), "other objects are still put back", 60)
        replica = world.replicas[-1]
        before, moves = replica.rests(), meddler.writes  # after what the change above still writes
        time.sleep(15)
        assert replica.writes() - before <= 4, "at most one more attempt, and no status that changes each time"
        assert meddler.writes - moves <= 2
        assert world.condition("beside")["status"] == "True"
    finally:
        meddler.stop()
    until(lambda: pods(world) == wanted, "the last word is the operator's", 120)
    world.ready("fought", 120)
    assert replica.value("tenantry_drift_corrections_total", subsystem="namespaces") >= 5
