"""What becomes of a tenant's audit when the tenant ends, and of the archive in time."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

from dev.cluster import postgres
from tenantry.api.conditions import Reason
from tenantry.backends.errors import BackendError
from tenantry.backends.postgres import PostgresBackend
from tenantry.desired.postgres import archive
from tenantry.desired.postgres.archive import Ending
from tests.integration.postgres import support
from tests.integration.postgres.support import Tenant

Policy = Literal["Retain", "Delete"]
BEGUN = datetime.now(UTC).replace(microsecond=0)
TEXT = 'a\tb\\N\n", ü'
KEPT = Ending(BEGUN, 30)


async def filled(backend: PostgresBackend, tenant: Tenant, rows: int = 3, **more: Any) -> None:
    """`rows` of now, one of 10 days ago, one of 40 days ago."""
    await backend.ensure(replace(tenant.plan(), audit_retention_days=30))
    with tenant.session("a") as runtime:
        for days, count in ((0, rows), (10, 1), (40, 1)):
            runtime.execute(
                "INSERT INTO audit (id, phase, at, event_type, action, user_id, details)"
                " SELECT gen_random_uuid(), 'outcome', clock_timestamp() - make_interval(days => %s), 'api_call',"
                " 'chat', 'o''hara', jsonb_build_object('n', n, 'text', %s::text) FROM generate_series(1, %s) n",
                (days, TEXT, count),
            )


def archived(tenant: Tenant) -> list[tuple[Any, ...]]:
    """Event type, days until the end, details; of this very tenant."""
    if not tenant.server.sql("SELECT to_regclass('tenantry_archive.audit')", (), postgres.DATABASE)[0][0]:
        return []
    return tenant.server.sql(
        "SELECT event_type, round(extract(epoch FROM keep_until - at) / 86400)::int, details"
        " FROM tenantry_archive.audit WHERE tenant = %s AND tenant_uid = %s ORDER BY at, event_type",
        (tenant.name, tenant.uid),
        postgres.DATABASE,
    )


@pytest.mark.parametrize("policy", ["Retain", "Delete"])
async def test_what_compliance_keeps_is_moved(backend: PostgresBackend, tenant: Tenant, policy: Policy) -> None:
    await filled(backend, tenant)
    await backend.remove(tenant.name, tenant.uid, tenant.level, policy, KEPT)
    assert tenant.leftovers() == []
    rows = archived(tenant)
    kinds = [kind for kind, _, _ in rows]
    assert sorted(kinds) == ["api_call"] * 4 + ["configuration_change", "deletion"]  # not what was too old
    assert {days for _, days, _ in rows} == {30}
    assert {"n": 3, "text": TEXT} in [details for _, _, details in rows]
    assert {"policy": policy, "archived": True} in [details for _, _, details in rows]
    if policy == "Retain":
        table = f"SELECT count(*) FROM {tenant.things.retained[1]}.audit"
        assert tenant.server.sql(table, (), tenant.retained_database()) == [(0,)]
    # The same name again is another tenant.
    again = Tenant(tenant.server, tenant.level, tenant.name)
    await backend.ensure(again.plan())
    assert again.superuser("SELECT event_type, action FROM {runtime}.audit") == [("configuration_change", "create")]
    assert archived(again) == []
    await backend.remove(tenant.name, tenant.uid, tenant.level, policy, KEPT)
    assert len(archived(tenant)) == 6


@pytest.mark.parametrize("policy", ["Retain", "Delete"])
async def test_else_it_goes_or_stays_with_the_data(backend: PostgresBackend, tenant: Tenant, policy: Policy) -> None:
    await filled(backend, tenant)
    await backend.remove(tenant.name, tenant.uid, tenant.level, policy, Ending(BEGUN, None))
    assert archived(tenant) == []
    if policy == "Retain":
        table = f"SELECT event_type, details FROM {tenant.things.retained[1]}.audit WHERE event_type = 'deletion'"
        kept = tenant.server.sql(table, (), tenant.retained_database())
        assert kept == [("deletion", {"policy": "Retain", "archived": False})]
        # A person may then ask for the end of it, and for the archive.
        await backend.remove(tenant.name, tenant.uid, tenant.level, "Delete", KEPT)
        assert len(archived(tenant)) == 6


async def test_more_rows_than_a_batch(backend: PostgresBackend, tenant: Tenant) -> None:
    await filled(backend, tenant, 2 * archive.BATCH)
    await backend.remove(tenant.name, tenant.uid, tenant.level, "Delete", KEPT)
    assert len(archived(tenant)) == 2 * archive.BATCH + 3


async def test_nobody_reaches_the_archive(backend: PostgresBackend, server: postgres.Server) -> None:
    gone, there = Tenant(server, "Schema"), Tenant(server, "Schema")
    for tenant in (gone, there):
        await filled(backend, tenant)
    await backend.remove(gone.name, gone.uid, "Schema", "Delete", KEPT)
    for role in ("tenant", "a"):
        with there.session(role) as session:
            for statement in ("SELECT * FROM {}.audit", "DELETE FROM {}.audit", "CREATE TABLE {}.mine ()"):
                with pytest.raises(InsufficientPrivilege, match="denied for schema"):
                    session.execute(statement.format(archive.SCHEMA))
    server.sql("GRANT USAGE ON SCHEMA tenantry_archive TO PUBLIC", (), postgres.DATABASE)
    server.sql("GRANT ALL ON tenantry_archive.audit TO PUBLIC", (), postgres.DATABASE)
    await backend.purge_archive()
    with there.session() as session, pytest.raises(InsufficientPrivilege, match="denied for schema"):
        session.execute("SELECT * FROM tenantry_archive.audit")
    open_ = server.sql(
        "SELECT count(*) FROM pg_class, aclexplode(relacl) WHERE oid = 'tenantry_archive.audit'::regclass"
        " AND grantee = 0",
        (),
        postgres.DATABASE,
    )
    assert open_ == [(0,)]


async def test_the_purge_takes_what_is_over_and_no_more(
    backend: PostgresBackend, server: postgres.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = Tenant(server, "Schema")
    await filled(backend, tenant)
    await backend.remove(tenant.name, tenant.uid, "Schema", "Delete", KEPT)
    await backend.purge_archive()
    server.sql(
        "INSERT INTO tenantry_archive.audit SELECT tenant, tenant_uid, now() - interval '1 second', gen_random_uuid(),"
        " phase, at, event_type, action, resource_type, resource_id, user_id, key_uid, key_name, status, error,"
        " address, user_agent, details FROM tenantry_archive.audit, generate_series(1, 1000)"
        " WHERE tenant_uid = %s",
        (tenant.uid,),
        postgres.DATABASE,
    )
    monkeypatch.setattr("tenantry.backends.postgres.archive.PURGES", 1)
    assert [await backend.purge_archive() for _ in range(3)] == [archive.BATCH, 6000 - archive.BATCH, 0]
    assert len(archived(tenant)) == 6
    (found,) = [thing for thing in await backend.inventory() if thing.uid == tenant.uid.replace("-", "")]
    until = (datetime.now(UTC) + timedelta(days=30)).date()
    assert found.archived
    assert found.name.startswith(f"{tenant.name}: 6 rows until ")
    assert abs(datetime.fromisoformat(found.name.split()[-1]).date() - until) <= timedelta(days=1)
    server.sql(
        "UPDATE tenantry_archive.audit SET keep_until = now() WHERE tenant_uid = %s", (tenant.uid,), postgres.DATABASE
    )
    assert await backend.purge_archive() == 6
    assert archived(tenant) == []


async def test_somebody_elses_schema_by_that_name(server: postgres.Server) -> None:
    """In a database of its own, for the schema is there for all."""
    name = f"other_{uuid.uuid4().hex[:8]}"
    server.sql(f"CREATE DATABASE {name} OWNER {postgres.ADMIN}")
    server.sql("CREATE SCHEMA tenantry_archive", (), name)
    backend = support.backend(server, database=name)
    tenant = Tenant(server, "Schema", home=name)
    await filled(backend, tenant)
    assert await backend.purge_archive() == 0
    with pytest.raises(BackendError) as refused:
        await backend.remove(tenant.name, tenant.uid, "Schema", "Delete", KEPT)
    assert refused.value.reason is Reason.FOREIGN_OBJECT
    assert "tenantry_archive" in refused.value.message
    with pytest.raises(psycopg.OperationalError), tenant.session():
        pass  # out of reach all the same
    assert tenant.superuser("SELECT count(*) FROM {runtime}.audit WHERE event_type = 'api_call'") == [(5,)]
    server.sql("ALTER SCHEMA tenantry_archive RENAME TO theirs", (), name)
    await backend.remove(tenant.name, tenant.uid, "Schema", "Delete", KEPT)
    assert server.sql("SELECT count(*) FROM tenantry_archive.audit", (), name) == [(6,)]
    await backend.close()
    server.sql(f"DROP DATABASE {name}")
