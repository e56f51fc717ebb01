from collections.abc import Iterator

import pytest

from tests.integration.operator.world import GROUP, MERGE, World, running


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Everything but the operator; one for all tests of this folder."""
    with running(tmp_path_factory.mktemp("operator")) as made:
        yield made


@pytest.fixture
def operator(world: World) -> Iterator[World]:
    """The world with one operator in it; what a test leaves behind is deleted while it still runs."""
    world.start()
    yield world
    tenants = [t["metadata"]["name"] for t in (world.get(f"{GROUP}/tenants") or {})["items"]]
    try:
        freed = {"spec": {"deletionProtection": False, "deletion": {"policy": "Delete"}}}
        for name in tenants:
            answer = world.api.patch(f"{GROUP}/tenants/{name}", json=freed, headers=MERGE)
            assert answer.status_code in (200, 404), answer.text  # one may just have gone
        if all(r.process.poll() is not None for r in world.replicas):
            world.start()
        world.deleted(*tenants)
    finally:
        world.stop()
