from collections.abc import Iterator

import pytest

from dev.cluster import milvus, postgres
from tests.controlplane import ControlPlane
from tests.integration.operator.world import ADMIN_PASSWORD, Kubelet, World, prepare


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Everything but the operator; one for all tests of this folder."""
    folder = tmp_path_factory.mktemp("operator")
    database = postgres.Server(postgres.embedded_bin(), folder / "postgres", 0, settings={"fsync": "off"})
    vectors = milvus.Server(folder / "milvus", 0, settings={"proxy.maxRoleNum": 100})
    plane = ControlPlane(folder / "plane")
    kubelet = None
    try:
        database.start()
        postgres.prepare_admin(database, ADMIN_PASSWORD)
        vectors.start()
        vectors.prepare(ADMIN_PASSWORD)
        plane.start()
        plane.install_crds()
        plane.start_controllers()  # after the CRDs, so that the garbage collector knows them from its start
        made = prepare(plane, database, vectors, folder)
        kubelet = Kubelet(plane.client())
        kubelet.start()
        yield made
    finally:
        if kubelet:
            kubelet.stop()
        for server in (plane, vectors, database):
            server.stop()


@pytest.fixture
def operator(world: World) -> Iterator[World]:
    """The world with one operator in it; what a test leaves behind is deleted while it still runs."""
    world.start()
    yield world
    tenants = [t["metadata"]["name"] for t in (world.get("/apis/tenantry.dev/v1alpha1/tenants") or {})["items"]]
    try:
        for name in tenants:
            world.change(name, deletionProtection=False, deletion={"policy": "Delete"})
        if all(r.process.poll() is not None for r in world.replicas):
            world.start()
        world.deleted(*tenants)
    finally:
        world.stop()
