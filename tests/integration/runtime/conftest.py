"""The servers start once for all tests of this folder; each module makes the tenants and replicas it needs."""

from collections.abc import Iterator

import pytest

from tenantry_runtime.config import Configuration, Documents, Limits
from tests.integration.runtime.samples import World
from tests.integration.runtime.stack import Replica, Stack, Tenant, running
from tests.integration.runtime.upstream import Upstream


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("runtime")) as stack:
        yield stack


@pytest.fixture(scope="package")
def upstream() -> Iterator[Upstream]:
    """A provider whose answers a test writes."""
    with Upstream() as upstream:
        yield upstream


@pytest.fixture(scope="package")
def home(stack: Stack) -> Tenant:
    """A tenant of the stand-in provider, with documents."""
    return stack.tenant(documents=Documents(max_files=50, max_file_bytes=5_000_000))


@pytest.fixture(scope="package")
def service(home: Tenant) -> Iterator[Replica]:
    with home.replica() as replica:
        yield replica


@pytest.fixture(scope="package")
def second(home: Tenant) -> Iterator[Replica]:
    """Another replica of the same tenant's."""
    with home.replica() as replica:
        yield replica


@pytest.fixture(scope="package")
def first(stack: Stack, upstream: Upstream) -> tuple[Tenant, Configuration]:
    """The scripted tenant, and the configuration that it was made with."""
    tenant = stack.tenant(provider_url=upstream.url)
    return tenant, tenant.configuration


@pytest.fixture(scope="package")
def replicas(first: tuple[Tenant, Configuration]) -> Iterator[tuple[Replica, Replica]]:
    """Two replicas of the scripted tenant's."""
    with first[0].replica() as one, first[0].replica() as two:
        yield one, two


@pytest.fixture(scope="module")
def scripted(first: tuple[Tenant, Configuration], replicas: tuple[Replica, Replica]) -> Tenant:
    """A tenant whose provider is `upstream`, in each module as it was made."""
    tenant, made = first
    tenant.apply(replicas, **{name: getattr(made, name) for name in Configuration.model_fields})
    return tenant


@pytest.fixture(scope="package")
def everything(stack: Stack, upstream: Upstream) -> Tenant:
    """A tenant of `upstream`'s that has a bit of everything, for the tests that go through all routes."""
    return stack.tenant(
        provider_url=upstream.url, documents=Documents(max_files=2000, max_file_bytes=1_000_000), temperature=0.5
    )


@pytest.fixture(scope="package")
def both(everything: Tenant) -> Iterator[tuple[Replica, Replica]]:
    """Two replicas of it."""
    with everything.replica() as one, everything.replica() as two:
        yield one, two


@pytest.fixture(scope="package")
def target(everything: Tenant, both: tuple[Replica, Replica]) -> Iterator[Replica]:
    """One of them, which must not have failed on anything when all tests are over."""
    yield both[0]
    assert both[0].child.poll() is None
    failures = [line for line in both[0].log.read_text().splitlines() if '"level": "error"' in line]
    assert not failures, "\n".join(failures[:3])


@pytest.fixture(scope="module")
def world(everything: Tenant, target: Replica, both: tuple[Replica, Replica]) -> World:
    """What `everything` has, without limits."""
    everything.apply(both, limits=Limits(), budget=None)
    world = World(target, everything.key, everything.name)
    world.searchable()
    return world


@pytest.fixture(autouse=True)
def fresh_upstream(request: pytest.FixtureRequest) -> None:
    if "upstream" in request.fixturenames:
        request.getfixturevalue("upstream").reset()
