"""One server of each version for the whole session."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from dev.cluster import postgres
from tenantry.backends.postgres import PostgresBackend
from tests.integration.postgres import support

SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_connections": "50",
    "log_statement": "all",
}


@pytest.fixture(scope="session", params=["18", "15"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[postgres.Server]:
    version = request.param
    programs = postgres.embedded_bin() if version == "18" else postgres.debian_bin(version)
    if programs is None:
        pytest.skip(f"Debian's postgresql-{version} is not installed: make cluster-up installs it.")
    made = postgres.Server(programs, tmp_path_factory.mktemp(f"postgres-{version}") / "data", settings=SETTINGS)
    made.start()
    try:
        postgres.prepare_admin(made, support.ADMIN_PASSWORD)
        yield made
    finally:
        made.stop()


@pytest.fixture
async def backend(server: postgres.Server) -> AsyncIterator[PostgresBackend]:
    made = support.backend(server)
    yield made
    await made.close()


@pytest.fixture(params=support.LEVELS)
def tenant(request: pytest.FixtureRequest, server: postgres.Server) -> support.Tenant:
    return support.Tenant(server, request.param)
