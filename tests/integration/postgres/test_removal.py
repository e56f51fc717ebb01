"""Both policies at both levels: at once out of reach, names free again, nothing of anybody else's touched."""

from __future__ import annotations

from typing import Literal

import psycopg
import pytest

from dev.cluster import postgres
from tenantry.api.conditions import Reason
from tenantry.backends.errors import BackendError
from tenantry.backends.postgres import PostgresBackend
from tests.integration.postgres import support
from tests.integration.postgres.support import Tenant

Policy = Literal["Retain", "Delete"]


async def filled(backend: PostgresBackend, tenant: Tenant) -> None:
    await backend.ensure(tenant.plan())
    with tenant.session() as own:
        own.execute("CREATE TABLE notes AS SELECT 'kept' AS text")
        own.execute("CREATE VIEW seen AS SELECT * FROM notes")
        own.execute("SELECT lo_create(0)")
    with tenant.session("a") as runtime:
        runtime.execute("SELECT record(gen_random_uuid(), 'k', 'k', '', 'x', 0, 0, 1, 1, '', 'UTC')")


@pytest.mark.parametrize("policy", ["Retain", "Delete"])
async def test_ends_sessions_and_frees_the_names(backend: PostgresBackend, tenant: Tenant, policy: Policy) -> None:
    neighbour = Tenant(tenant.server, tenant.level)
    await filled(backend, neighbour)
    await filled(backend, tenant)
    with tenant.session() as own, tenant.session("a") as runtime:
        own.execute("BEGIN")
        own.execute("LOCK TABLE notes")  # an open transaction holds a lock that the removal needs
        await backend.remove(tenant.name, tenant.uid, tenant.level, policy)
        for session in (own, runtime):
            with pytest.raises(psycopg.OperationalError):
                session.execute("SELECT 1")
    for role in ("tenant", "a"):
        with pytest.raises(psycopg.OperationalError), tenant.session(role):
            pass
    assert tenant.leftovers() == []

    kept = tenant.server.sql("SELECT datname FROM pg_database WHERE datname = %s", (tenant.things.retained_database,))
    if policy == "Delete":
        assert kept == []
        assert schemas(tenant, postgres.DATABASE) == {}
    else:
        assert len(kept) == (tenant.level == "Database")
        place = tenant.retained_database()
        note = f"tenantry.dev/tenant-uid={tenant.uid} tenant={tenant.name}"
        assert schemas(tenant, place) == dict.fromkeys(tenant.things.retained, (postgres.ADMIN, note))
        own_schema, runtime_schema = tenant.things.retained
        assert tenant.server.sql(f"SELECT text FROM {own_schema}.seen", (), place) == [("kept",)]
        assert tenant.server.sql(f"SELECT count(*) FROM {runtime_schema}.ledger", (), place) == [(1,)]
    objects = "SELECT count(*) FROM pg_largeobject_metadata m JOIN pg_roles r ON r.oid = m.lomowner"
    if tenant.level == "Schema":  # a large object is in no schema; its owner takes it along
        assert tenant.server.sql(f"{objects} WHERE rolname = %s", (tenant.things.login,), "tenantry") == [(0,)]

    # The same name again is another tenant, and starts empty.
    again = Tenant(tenant.server, tenant.level, tenant.name)
    assert (await backend.ensure(again.plan())).created
    with again.session() as own:
        assert own.execute("SELECT count(*) FROM pg_tables WHERE schemaname = current_schema()").fetchone() == (0,)
    with pytest.raises(psycopg.OperationalError, match="password"), tenant.session():
        pass  # the old password, under the same role name
    await backend.remove(tenant.name, tenant.uid, tenant.level, policy)
    assert (await backend.ensure(again.plan())).corrected == ()
    assert (await backend.ensure(neighbour.plan())).corrected == ()
    with neighbour.session() as own:
        assert own.execute("SELECT text FROM notes").fetchall() == [("kept",)]


def schemas(tenant: Tenant, database: str) -> dict[str, tuple[str, str]]:
    """The retained ones: owner and comment."""
    rows = tenant.server.sql(
        "SELECT nspname, pg_get_userbyid(nspowner), obj_description(oid, 'pg_namespace') FROM pg_namespace"
        " WHERE nspname = ANY(%s)",
        (list(tenant.things.retained),),
        database,
    )
    return {name: (owner, comment) for name, owner, comment in rows}


@pytest.mark.parametrize("policy", ["Retain", "Delete"])
async def test_a_second_removal_changes_nothing(server: postgres.Server, tenant: Tenant, policy: Policy) -> None:
    kind, statements = support.recording()
    backend = support.backend(server, kind)
    await filled(backend, tenant)
    await backend.remove(tenant.name, tenant.uid, tenant.level, policy)
    statements.clear()
    await backend.remove(tenant.name, tenant.uid, tenant.level, policy)
    assert len(statements) == 1
    assert statements[0].startswith("SELECT")
    await backend.close()


async def test_delete_takes_what_retain_had_kept(backend: PostgresBackend, tenant: Tenant) -> None:
    await filled(backend, tenant)
    await backend.remove(tenant.name, tenant.uid, tenant.level, "Retain")
    await backend.remove(tenant.name, tenant.uid, tenant.level, "Delete")
    assert schemas(tenant, postgres.DATABASE) == {}
    query = "SELECT datname FROM pg_database WHERE datname = %s"
    assert tenant.server.sql(query, (tenant.things.retained_database,)) == []


async def test_a_superusers_grant_in_another_database_is_said(
    backend: PostgresBackend, server: postgres.Server
) -> None:
    """Only a superuser can take it back, and the role can't go before; what it was for is gone all the same."""
    tenant = Tenant(server, "Schema")
    await filled(backend, tenant)
    other = f"elsewhere_{tenant.things.schema}"
    server.sql(f"CREATE DATABASE {other}")
    server.sql(f"CREATE TABLE theirs AS SELECT 1 AS n; GRANT SELECT ON theirs TO {tenant.things.login}", (), other)
    with pytest.raises(BackendError) as refused:
        await backend.remove(tenant.name, tenant.uid, "Schema", "Delete")
    assert refused.value.reason is Reason.DATABASE_REFUSED
    assert other in refused.value.message
    with pytest.raises(psycopg.OperationalError), tenant.session():
        pass
    server.sql(f"REVOKE ALL ON theirs FROM {tenant.things.login}", (), other)
    await backend.remove(tenant.name, tenant.uid, "Schema", "Delete")
    assert tenant.leftovers() == []
    assert server.sql("SELECT n FROM theirs", (), other) == [(1,)]
    server.sql(f"DROP DATABASE {other}")


async def test_somebody_elses_session_in_the_database_is_said(
    backend: PostgresBackend, server: postgres.Server
) -> None:
    tenant = Tenant(server, "Database")
    await filled(backend, tenant)
    with server.connect(dbname=tenant.database), pytest.raises(BackendError) as refused:
        await backend.remove(tenant.name, tenant.uid, "Database", "Delete")
    assert refused.value.reason is Reason.DATABASE_REFUSED
    with pytest.raises(psycopg.OperationalError), tenant.session():
        pass  # out of reach all the same
    await backend.remove(tenant.name, tenant.uid, "Database", "Delete")
    assert tenant.leftovers() == []


async def test_the_admin_has_lost_its_maker(backend: PostgresBackend, tenant: Tenant) -> None:
    await backend.ensure(tenant.plan())
    tenant.superuser(f"SET ROLE {postgres.ADMIN}; REVOKE {{maker}} FROM {postgres.ADMIN}")
    await backend.remove(tenant.name, tenant.uid, tenant.level, "Delete")
    assert tenant.leftovers() == []
