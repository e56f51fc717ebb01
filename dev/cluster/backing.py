"""What the tenants' regions stand on: PostgreSQL, Milvus and the stand-in model provider, on this machine."""

from __future__ import annotations

import importlib.util
import secrets
import sys
from pathlib import Path

from dev.cluster import certs, milvus, net, paths, postgres
from dev.cluster.progress import ClusterError
from dev.cluster.record import Record
from dev.cluster.service import Service
from dev.cluster.settings import HOST, MILVUS_PORT, POSTGRES_PORT, PROVIDER_PORT

POSTGRES_PASSWORD = paths.SECRETS / "postgres-admin"
MILVUS_PASSWORD = paths.SECRETS / "milvus-root"
PROVIDER_KEY = paths.SECRETS / "provider-api-key"


def secret(file: Path) -> str:
    """A random secret, made once and kept in a file that only its owner may read."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.parent.chmod(0o700)
        certs.write_private(file, secrets.token_urlsafe(24))
    return file.read_text()


def postgres_server() -> postgres.Server:
    """The cluster's PostgreSQL 18; `connect()` on it is the superuser's."""
    listen = tuple(dict.fromkeys(("127.0.0.1", HOST)))
    return postgres.Server(
        postgres.embedded_bin(),
        paths.STATE / "postgres",
        POSTGRES_PORT,
        listen,
        {"max_connections": "500"},
        paths.RUN / "postgres",
    )


def start_postgres(record: Record) -> None:
    """Start PostgreSQL with the operator's administrator in it."""
    server = postgres_server()
    server.start()
    running = server.process()
    if running is None:
        raise ClusterError(f"PostgreSQL ended. {server.log} says why.")
    record.add("postgres", running)
    postgres.prepare_admin(server, secret(POSTGRES_PASSWORD))


def milvus_server() -> milvus.Server:
    """The cluster's Milvus, with its limits on roles, users and databases raised."""
    return milvus.Server(paths.STATE / "milvus", MILVUS_PORT, HOST, settings=milvus.RAISED)


def start_milvus(record: Record) -> None:
    """Start Milvus with a root password of its own."""
    server = milvus_server()
    server.start()
    running = server.process()
    if running is None:
        raise ClusterError(f"Milvus ended. {server.log} says why.")
    record.add("milvus", running)
    prepared = server.data / "prepared"
    if not prepared.exists():
        server.prepare(secret(MILVUS_PASSWORD))
        prepared.touch()


def start_provider(record: Record) -> None:
    """Start the stand-in for a model provider."""
    secret(PROVIDER_KEY)
    Service(
        "provider",
        [sys.executable, "-m", "dev.provider", "--host", HOST, "--port", str(PROVIDER_PORT), "--api-key-file",
         PROVIDER_KEY],
        lambda: net.answers(HOST, PROVIDER_PORT),
        [(HOST, PROVIDER_PORT)],
        env={"PYTHONPATH": str(paths.ROOT)},
    ).start(record)  # fmt: skip


def provider_exists() -> bool:
    """Whether this checkout has the stand-in."""
    return importlib.util.find_spec("dev.provider") is not None
