"""What a tenant costs the API server.  Requests are counted, not seconds: that does not depend on the machine."""

import time
from collections import Counter
from datetime import datetime

from tenantry.reconcile import PASSING_SECONDS
from tenantry.regions import SECRETS_SECONDS
from tests.integration.operator.counting import objects, requests
from tests.integration.operator.world import Replica, World, until

TIERS = ["free"] * 14 + ["pro"] * 4 + ["enterprise"] * 2
MORE_THAN_OBJECTS = 3
"""The claim with its pins, the status of the Tenant, and that of its AccessKey."""
OF_THE_REGION = 3
"""Reads of the region's Secrets, which all tenants share: anew every SECRETS_SECONDS."""
REST_SECONDS = 5
AT_ONCE = 4
"""A rollout that takes longer than PASSING_SECONDS is said in the status, which is one more write each time."""


def _settled(replica: Replica) -> Counter[str]:
    """The requests, once none has been made for a second and nothing is in line."""
    last: list[Counter[str]] = []

    def look() -> bool:
        last.append(requests(replica))
        time.sleep(1)
        return replica.value("tenantry_queue_depth") == 0 and requests(replica) == last[-1]

    until(look, "the operator has nothing to do", 60)
    return last[-1]


def _leads(world: World, name: str) -> Replica:
    replica = world.start(name, resync_seconds=300, lease_seconds=15)
    until(lambda: "This replica" in replica.log.read_text(), "a leader", 60)
    until(lambda: replica.value("tenantry_leader") == 1, "a leader that has listed everything", 60)
    return replica


def _slow(world: World, name: str) -> int:
    """How often it may have been said that the rollout goes on; Kubernetes tells times in whole seconds."""
    seen = world.seen(name)
    made, ready = seen["metadata"]["creationTimestamp"], seen["status"]["firstReadyAt"]
    took = (datetime.fromisoformat(ready) - datetime.fromisoformat(made)).total_seconds()
    return int((took + 1) // PASSING_SECONDS)


def test_a_tenant_costs_three_requests_more_than_it_has_objects_and_none_at_rest(world: World) -> None:
    replica = _leads(world, "requests")
    before, began = _settled(replica), time.monotonic()
    made = {f"counted-{number}": tier for number, tier in enumerate(TIERS)}
    try:
        every = list(made)
        for batch in (every[at : at + AT_ONCE] for at in range(0, len(every), AT_ONCE)):
            for name in batch:
                world.tenant(name, made[name])
            for name in batch:
                world.ready(name, 120)
        spent = _settled(replica) - before
        reads = OF_THE_REGION * (1 + int((time.monotonic() - began) / SECRETS_SECONDS))
        counted = objects(world)
        allowed = sum(counted[name] + MORE_THAN_OBJECTS + _slow(world, name) for name in made) + reads
        each = {what: round(number / len(made), 2) for what, number in spent.most_common()}
        assert sum(spent.values()) <= allowed, f"{sum(spent.values())} requests, {allowed} allowed; for each: {each}"

        writes = replica.writes()
        time.sleep(REST_SECONDS)
        assert replica.writes() == writes, f"written at rest: {requests(replica) - before - spent}"

        world.stop()
        again = _leads(world, "restarted")
        _settled(again)
        assert again.writes() == 0, f"a start with everything as it should be wrote: {requests(again)}"
    finally:
        if not world.replicas:
            world.start("cleans")
        world.deleted(*made)
        world.stop()
