"""The servers start once for all tests of this folder; each module makes the tenants and replicas it needs."""

from collections.abc import Iterator

import pytest

from tenantry_runtime.config import Documents
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
def scripted(stack: Stack, upstream: Upstream) -> Tenant:
    """A tenant whose provider is `upstream`."""
    return stack.tenant(provider_url=upstream.url)


@pytest.fixture(scope="package")
def replicas(scripted: Tenant) -> Iterator[tuple[Replica, Replica]]:
    """Two replicas of the scripted tenant's."""
    with scripted.replica() as one, scripted.replica() as two:
        yield one, two


@pytest.fixture(autouse=True)
def fresh_upstream(request: pytest.FixtureRequest) -> None:
    if "upstream" in request.fixturenames:
        request.getfixturevalue("upstream").reset()
