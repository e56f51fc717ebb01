"""Two DataRegions that the same servers serve, with the same embedding model, get in each other's way nowhere."""

import contextlib

import httpx

from tests.integration.operator.logins import held, vectors_accepted
from tests.integration.operator.world import GROUP, World, region, until

TWIN = "twin"


def test_two_regions_on_the_same_servers(operator: World) -> None:
    world = operator
    world.create(f"{GROUP}/dataregions", region(world, TWIN, default=False))
    try:
        names = ("twin-here", "twin-there")
        first = {}
        for name, spec in zip(names, ({}, {"region": TWIN}), strict=True):
            world.tenant(name, **spec)
        for name in names:
            world.ready(name)
            first[name] = held(world, name)
        here, there = (first[name]["milvus"] for name in names)
        assert here["collection"] != there["collection"]
        assert here["user"] != there["user"]

        # Another operator looks at all of it anew: nothing is put back, and both logins go on.
        world.stop()
        replica = world.start()

        def looked() -> bool:
            with contextlib.suppress(httpx.HTTPError):  # it only starts
                return replica.value("tenantry_reconcile_total", result="ready") >= 2
            return False

        until(looked, "both were looked at")
        for name in names:
            assert held(world, name) == first[name]
            assert vectors_accepted(first[name]), name
        for subsystem in ("database", "vectors"):
            assert replica.value("tenantry_drift_corrections_total", subsystem=subsystem) == 0

        world.deleted(*names)
        status, said = world.scan()
        assert status == 0, said
    finally:
        world.deleted("twin-here", "twin-there")
        world.remove(f"{GROUP}/dataregions/{TWIN}")
