"""A server that is gone, slow, full, shut or read-only: a sentence in time, and afterwards all is well by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from psycopg import sql

from dev.cluster import postgres
from tenantry.api.conditions import Reason
from tenantry.backends.errors import BackendError
from tenantry.backends.postgres import Admin, PostgresBackend, connections, observe
from tests.integration.postgres import support
from tests.integration.postgres.support import Tenant

IN_TIME = 15
"""Seconds; it takes at most 8, and this machine may be busy."""


@asynccontextmanager
async def fails(reason: Reason, says: str = "") -> AsyncIterator[None]:
    started = time.monotonic()
    with pytest.raises(BackendError) as raised:
        yield
    assert raised.value.reason is reason, raised.value.message
    assert says in raised.value.message
    assert time.monotonic() - started < IN_TIME
    for secret in (postgres.ADMIN, support.ADMIN_PASSWORD, "SCRAM"):
        assert secret not in raised.value.message


async def test_a_restart_is_survived(server: postgres.Server, backend: PostgresBackend, tenant: Tenant) -> None:
    others = [Tenant(server, level) for level in support.LEVELS]  # so that there are several connections to lose
    await asyncio.gather(*(backend.ensure(one.plan()) for one in (tenant, *others)))
    server.stop()
    try:
        for _ in range(2):
            async with fails(Reason.DATABASE_UNAVAILABLE, "check that it runs"):
                await backend.ensure(tenant.plan())
        async with fails(Reason.DATABASE_UNAVAILABLE):
            await backend.remove(tenant.name, tenant.uid, tenant.level, "Delete")
    finally:
        server.start()
    assert (await backend.ensure(tenant.plan())).corrected == ()
    server.stop()
    server.start()  # while nobody looked: the kept connections are dead, and that is noticed
    assert (await backend.ensure(tenant.plan())).corrected == ()


async def test_a_server_that_hangs(
    server: postgres.Server, backend: PostgresBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = Tenant(server, "Schema")
    await backend.ensure(tenant.plan())
    monkeypatch.setattr(observe, "READ_SECONDS", 1.0)
    monkeypatch.setattr(connections, "READ_SECONDS", 3.0)
    first = server.process()
    assert first is not None
    busy = [row[0] for row in server.sql("SELECT pid FROM pg_stat_activity WHERE application_name = 'tenantry'")]
    assert busy
    stopped = [*busy, first.pid]
    try:
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        async with fails(Reason.DATABASE_UNAVAILABLE, "did not answer within 1 s"):
            await backend.ensure(tenant.plan())  # on the connection that it has
        async with fails(Reason.DATABASE_UNAVAILABLE):
            await backend.ensure(tenant.plan())  # on a new one
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    monkeypatch.undo()
    assert (await backend.ensure(tenant.plan())).corrected == ()


async def test_a_cancelled_call_ends_at_once(server: postgres.Server, backend: PostgresBackend) -> None:
    """As when the operator is told to stop; what was under way is undone by the server."""
    tenant = Tenant(server, "Schema")
    await backend.ensure(tenant.plan())
    with server.connect(dbname=postgres.DATABASE) as other:
        other.execute("BEGIN")
        other.execute(f"LOCK TABLE {tenant.things.runtime_schema}.configuration")
        task = asyncio.create_task(backend.ensure(tenant.plan()))
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tenantry' AND wait_event_type = 'Lock'"
        )
        deadline = time.monotonic() + 30
        while server.sql(waiting) == [(0,)] and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        started = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - started < 3
    assert (await backend.ensure(tenant.plan())).corrected == ()


async def test_credentials_and_places_that_are_wrong(server: postgres.Server) -> None:
    plan = Tenant(server, "Schema").plan()
    good = Admin("127.0.0.1", server.port, postgres.DATABASE, postgres.ADMIN, support.ADMIN_PASSWORD)
    for admin, reason, says in (
        (Admin(good.host, good.port, good.database, good.user, "wrong"), Reason.CREDENTIALS_MISSING, "Secret"),
        (Admin(good.host, good.port, good.database, "nobody_here", "x"), Reason.CREDENTIALS_MISSING, "Secret"),
        (Admin(good.host, good.port, "nowhere", good.user, good.password), Reason.DATABASE_REFUSED, "create it"),
        (Admin(good.host, good.port, "postgres", good.user, good.password), Reason.DATABASE_REFUSED, "admin needs"),
        (Admin("no.such.host.invalid", 5432, "x", "x", "x"), Reason.DATABASE_UNAVAILABLE, "spec.postgres.host"),
    ):
        backend = PostgresBackend(admin)
        async with fails(reason, says):
            await backend.ensure(plan)
        await backend.close()


ADMIN_CHANGES = {
    "read-only": ("SET default_transaction_read_only = on", "RESET ALL", Reason.DATABASE_UNAVAILABLE, "read-only"),
    "out of connections": ("CONNECTION LIMIT 0", "CONNECTION LIMIT -1", Reason.DATABASE_UNAVAILABLE, "max_connections"),
    "no CREATEROLE": ("NOCREATEROLE", "CREATEROLE", Reason.DATABASE_REFUSED, "docs/postgres.md"),
    "no CREATEDB": ("NOCREATEDB", "CREATEDB", Reason.DATABASE_REFUSED, "docs/postgres.md"),
}


@pytest.mark.parametrize("what", ADMIN_CHANGES)
async def test_an_admin_that_can_not(server: postgres.Server, what: str) -> None:
    change, back, reason, says = ADMIN_CHANGES[what]
    tenant = Tenant(server, "Database")
    backend = support.backend(server)
    changed = [postgres.ADMIN]
    if "CREATEROLE" in change:  # the admin works in these roles' names
        makers = server.sql(r"SELECT rolname FROM pg_roles WHERE rolname LIKE 'tenantry\_maker\_%'")
        changed += [str(name) for (name,) in makers]
    for role in changed:
        server.sql(sql.SQL(f"ALTER ROLE {{}} {change}").format(sql.Identifier(role)))  # type: ignore[arg-type]
    try:
        async with fails(reason, says):
            await backend.ensure(tenant.plan())
    finally:
        for role in changed:
            server.sql(sql.SQL(f"ALTER ROLE {{}} {back}").format(sql.Identifier(role)))  # type: ignore[arg-type]
    await backend.close()
    backend = support.backend(server)
    await backend.ensure(tenant.plan())
    await backend.close()


async def test_an_admin_that_does_not_own_the_database(server: postgres.Server, backend: PostgresBackend) -> None:
    """PostgreSQL only warns where it does not revoke: for us that is an error."""
    tenant = Tenant(server, "Schema")
    await backend.ensure(tenant.plan())
    server.sql(f"ALTER DATABASE {postgres.DATABASE} OWNER TO {postgres.SUPERUSER}")
    server.sql(f"GRANT CONNECT ON DATABASE {postgres.DATABASE} TO PUBLIC")
    try:
        async with fails(Reason.DATABASE_REFUSED, f"grants on database {postgres.DATABASE}"):
            await backend.ensure(tenant.plan())
    finally:
        server.sql(f"ALTER DATABASE {postgres.DATABASE} OWNER TO {postgres.ADMIN}")
    assert (await backend.ensure(tenant.plan())).corrected == (f"grants on database {postgres.DATABASE}",)


async def test_keys_before_there_is_a_table(server: postgres.Server, backend: PostgresBackend) -> None:
    async with fails(Reason.RETRYING, "not there yet"):
        await backend.sync_keys(Tenant(server, "Schema").plan(), [])
