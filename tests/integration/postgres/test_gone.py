"""The application database is gone when a tenant is removed: dropped for good, renamed, or nobody can tell."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, Literal

import psycopg
import pytest

from dev.cluster import postgres
from tenantry.api.conditions import Reason
from tenantry.backends.errors import BackendError
from tenantry.backends.postgres import PostgresBackend
from tenantry.desired.postgres.archive import Ending
from tests.integration.postgres import support
from tests.integration.postgres.support import Tenant

Policy = Literal["Retain", "Delete"]


@pytest.fixture
async def home(server: postgres.Server) -> AsyncIterator[str]:
    """An application database of the test's own."""
    name = f"home_{uuid.uuid4().hex[:8]}"
    make(server, name)
    yield name
    for database in (name, f"{name}_renamed"):
        server.sql(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")


@pytest.fixture
async def backend(server: postgres.Server, home: str) -> AsyncIterator[PostgresBackend]:
    made = support.backend(server, database=home)
    yield made
    await made.close()


def make(server: postgres.Server, name: str) -> None:
    server.sql(f"CREATE DATABASE {name} OWNER {postgres.ADMIN}")


async def filled(server: postgres.Server, backend: PostgresBackend, home: str, level: str) -> Tenant:
    tenant = Tenant(server, level, home=home)
    await backend.ensure(tenant.plan())
    with tenant.session() as own:
        own.execute("CREATE TABLE notes AS SELECT 'kept' AS text")
    return tenant


async def refused(backend: PostgresBackend, tenant: Tenant, *more: Any) -> str:
    with pytest.raises(BackendError) as caught:
        await backend.remove(tenant.name, tenant.uid, tenant.level, *more)
    assert caught.value.reason is Reason.DATABASE_REFUSED
    return caught.value.message


def roles(tenant: Tenant) -> set[str]:
    query = "SELECT rolname FROM pg_roles WHERE rolname = ANY(%s)"
    return {str(row[0]) for row in tenant.server.sql(query, (list(tenant.things.roles),))}


@pytest.mark.parametrize("policy", ["Delete", "Retain"])
@pytest.mark.parametrize("level", support.LEVELS)
async def test_dropped_for_good_it_holds_nothing_up(
    server: postgres.Server, backend: PostgresBackend, home: str, level: str, policy: Policy
) -> None:
    tenant = await filled(server, backend, home, level)
    neighbour = await filled(server, backend, home, level)
    server.sql(f"DROP DATABASE {home} WITH (FORCE)")
    for _ in range(2):
        await backend.remove(tenant.name, tenant.uid, level, policy, Ending(datetime.now(UTC), None))
    assert roles(tenant) == set(), "they belong to the server"
    assert roles(neighbour) == set(neighbour.things.roles)
    if level == "Database":
        query = "SELECT datname FROM pg_database WHERE datname = ANY(%s)"
        names = [tenant.things.database, tenant.things.retained_database]
        left = [row[0] for row in server.sql(query, (names,))]
        assert left == ([] if policy == "Delete" else [tenant.things.retained_database])
        if left:
            assert server.sql(f"SELECT text FROM {tenant.things.retained[0]}.notes", (), left[0]) == [("kept",)]
    await backend.remove(neighbour.name, neighbour.uid, level, "Delete")
    if level == "Database":
        await backend.remove(tenant.name, tenant.uid, level, "Delete")


async def test_a_renamed_one_is_not_gone(server: postgres.Server, backend: PostgresBackend, home: str) -> None:
    tenant = await filled(server, backend, home, "Schema")
    server.sql("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (home,))
    server.sql(f"ALTER DATABASE {home} RENAME TO {home}_renamed")
    message = await refused(backend, tenant, "Delete")
    assert f"{home}_renamed" in message
    assert "spec.postgres.database" in message
    assert roles(tenant) == set(tenant.things.roles)
    assert server.sql(f"SELECT text FROM {tenant.things.schema}.notes", (), f"{home}_renamed") == [("kept",)]
    corrected = support.backend(server, database=f"{home}_renamed")
    await corrected.remove(tenant.name, tenant.uid, "Schema", "Delete")
    await corrected.close()
    assert roles(tenant) == set()


async def test_what_nobody_can_see_to_be_gone_may_be_there(
    server: postgres.Server, backend: PostgresBackend, home: str
) -> None:
    tenant = await filled(server, backend, home, "Schema")
    server.sql(f"DROP DATABASE {home} WITH (FORCE)")
    server.sql(f"REVOKE CONNECT ON DATABASE postgres FROM {postgres.ADMIN}")
    try:
        message = await refused(backend, tenant, "Delete")
        assert "GRANT CONNECT ON DATABASE postgres" in message
        assert roles(tenant) == set(tenant.things.roles)
        make(server, home)  # the other way out that the message names
        await backend.remove(tenant.name, tenant.uid, "Schema", "Delete")
    finally:
        server.sql(f"GRANT CONNECT ON DATABASE postgres TO {postgres.ADMIN}")
    assert roles(tenant) == set()


async def test_an_audit_that_must_be_archived_waits_for_the_archive(
    server: postgres.Server, backend: PostgresBackend, home: str
) -> None:
    tenant = await filled(server, backend, home, "Database")
    server.sql(f"DROP DATABASE {home} WITH (FORCE)")
    ending = Ending(datetime.now(UTC).replace(microsecond=0), 30)
    assert "create it" in await refused(backend, tenant, "Delete", ending)
    with pytest.raises(psycopg.OperationalError), tenant.session():
        pass
    assert server.sql(f"SELECT text FROM {tenant.things.schema}.notes", (), tenant.database) == [("kept",)]
    make(server, home)
    await backend.remove(tenant.name, tenant.uid, "Database", "Delete", ending)
    kept = "SELECT event_type FROM tenantry_archive.audit WHERE tenant_uid = %s ORDER BY 1"
    assert server.sql(kept, (tenant.uid,), home) == [("configuration_change",), ("deletion",)]
    assert roles(tenant) == set()


async def test_a_server_on_which_no_tenant_ever_was_shows_nothing(
    server: postgres.Server, backend: PostgresBackend, home: str
) -> None:
    """As in a disaster, where the name already points to a new server and the backup is not restored yet."""
    await filled(server, backend, home, "Schema")  # so that there is a role to take away
    tenant = Tenant(server, "Schema", home=home)
    server.sql(f"DROP DATABASE {home} WITH (FORCE)")
    server.sql("ALTER ROLE tenantry_connect RENAME TO not_yet_restored")
    try:
        assert "create it" in await refused(backend, tenant, "Delete")
    finally:
        server.sql("ALTER ROLE not_yet_restored RENAME TO tenantry_connect")
    await backend.remove(tenant.name, tenant.uid, tenant.level, "Delete")
