"""Two DataRegions on one server, each with an application database of its own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest

from dev.cluster import postgres
from tenantry.api.conditions import Reason
from tenantry.backends.errors import BackendError
from tenantry.backends.postgres import PostgresBackend
from tests.integration.postgres import support
from tests.integration.postgres.support import Tenant


@pytest.fixture
def second(server: postgres.Server) -> Iterator[str]:
    """Another application database."""
    name = f"second_{uuid.uuid4().hex[:8]}"
    server.sql(f"CREATE DATABASE {name} OWNER {postgres.ADMIN}")
    yield name
    server.sql(f"DROP DATABASE {name} WITH (FORCE)")


async def test_with_the_same_admin(server: postgres.Server, backend: PostgresBackend, second: str) -> None:
    """Neither puts back what the other made, and a tenant of one region reaches nothing in the other's database."""
    other = support.backend(server, database=second)
    here, there = Tenant(server, "Schema"), Tenant(server, "Schema", home=second)
    for one, tenant in ((backend, here), (other, there)):
        assert (await one.ensure(tenant.plan())).created
    for one, tenant in ((backend, here), (other, there)):
        assert (await one.ensure(tenant.plan())).corrected == ()
        with tenant.session() as session:
            session.execute("CREATE TABLE mine ()")
    with here.session(dbname=second) as session:  # said under "Not walls" in docs/postgres.md
        for statement in ("CREATE SCHEMA stray", "CREATE TEMP TABLE t ()", f"SELECT FROM {there.things.schema}.mine"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute(statement)
    await other.remove(there.name, there.uid, "Schema", "Delete")
    assert (await backend.ensure(here.plan())).corrected == ()
    assert there.leftovers() == []
    await backend.remove(here.name, here.uid, "Schema", "Delete")
    await other.close()


async def test_with_another_admin(server: postgres.Server, backend: PostgresBackend, second: str) -> None:
    """From 16 on who made the shared roles alone may grant them: it is said which field to change."""
    first, role = Tenant(server, "Schema"), second + "_admin"
    await backend.ensure(first.plan())
    server.sql(f"CREATE ROLE {role} LOGIN CREATEROLE CREATEDB PASSWORD 'x'")
    server.sql(f"ALTER DATABASE {second} OWNER TO {role}")
    server.sql(f"GRANT CONNECT ON DATABASE postgres TO {role}")
    admin = replace(backend._connections.admin, database=second, user=role, password="x")
    other, tenant = PostgresBackend(admin), Tenant(server, "Schema", home=second)
    if support.newest(server):
        with pytest.raises(BackendError) as raised:
            await other.ensure(tenant.plan())
        assert raised.value.reason is Reason.DATABASE_REFUSED
        assert "spec.postgres.credentialsSecret" in raised.value.message
    else:  # there whoever has CREATEROLE may grant them
        assert (await other.ensure(tenant.plan())).created
        await other.remove(tenant.name, tenant.uid, "Schema", "Delete")
    await other.close()
    assert tenant.leftovers() == []
    assert (await backend.ensure(first.plan())).corrected == ()
    await backend.remove(first.name, first.uid, "Schema", "Delete")
    server.sql(f"ALTER DATABASE {second} OWNER TO {postgres.ADMIN}")
    server.sql(f"REVOKE CONNECT ON DATABASE postgres FROM {role}")
    server.sql(f"DROP ROLE {role}")
