"""One Milvus 2.3.5 with authentication for the whole run, with limits low enough to reach."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dev.cluster import milvus
from tenantry.backends.milvus import MilvusBackend
from tenantry.backends.milvus.backend import SPREAD
from tenantry.backends.milvus.client import Client
from tenantry.desired.vectors import VectorPlan
from tests.integration.milvus.tools import User, admin_server

LIMITS = {
    "proxy.maxRoleNum": 60,
    "proxy.maxUserNum": 60,
    "rootCoord.maxDatabaseNum": 12,
    "rootCoord.maxPartitionNum": 8,
}


@dataclass(frozen=True)
class Running:
    server: milvus.Server
    password: str


@pytest.fixture(scope="session")
def running() -> Iterator[Running]:
    with tempfile.TemporaryDirectory(prefix="tenantry-milvus-") as folder:
        server = milvus.Server(Path(folder) / "data", settings=LIMITS)
        try:
            server.start()
            password = secrets.token_urlsafe(16)
            server.prepare(password)
            yield Running(server, password)
        finally:
            server.stop()


@pytest.fixture
async def make_backend(running: Running) -> AsyncIterator[Callable[..., MilvusBackend]]:
    """Backends of the server; `remember=0` by default: each looks at everything, as after a restart."""
    made: list[MilvusBackend] = []

    def make(spread: int = SPREAD, remember: float = 0, timeout: float = 30) -> MilvusBackend:
        server = admin_server(running.server.uri, running.password)
        backend = MilvusBackend(server, spread=spread, remember=remember, timeout=timeout)
        made.append(backend)
        return backend

    yield make
    for backend in made:
        await backend.close()


@pytest.fixture
def backend(make_backend: Callable[..., MilvusBackend]) -> MilvusBackend:
    return make_backend()


@pytest.fixture
async def client(running: Running) -> AsyncIterator[Client]:
    client = Client(admin_server(running.server.uri, running.password), timeout=30)
    yield client
    await client.close()


@pytest.fixture
def root(running: Running, client: Client) -> User:
    return User(client, "root", running.password)


@pytest.fixture
def login(client: Client) -> Callable[[VectorPlan], User]:
    def make(plan: VectorPlan) -> User:
        return User(client, *plan.login, plan.place.database)

    return make
