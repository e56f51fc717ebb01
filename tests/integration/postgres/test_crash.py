"""The operator ends before each of its statements in turn; the next one finishes the work."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import pytest

from dev.cluster import postgres
from tenantry.backends.postgres import PostgresBackend
from tenantry.desired.postgres.archive import Ending
from tests.integration.postgres import support
from tests.integration.postgres.support import Tenant

ENDING = Ending(datetime.now(UTC).replace(microsecond=0), 365)


@pytest.mark.parametrize("level", support.LEVELS)
async def test_while_making(server: postgres.Server, level: str) -> None:
    healthy = support.backend(server)

    async def begin() -> Tenant:
        return Tenant(server, level)

    async def ensure(dying: PostgresBackend, tenant: Tenant) -> None:
        await dying.ensure(tenant.plan())

    async for tenant, at in support.crashes(server, level, begin, ensure):
        await healthy.ensure(tenant.plan())
        seen = await healthy.ensure(tenant.plan())
        assert (seen.created, seen.corrected) == (False, ()), f"after a crash before statement {at}"
        changes = "SELECT action FROM {runtime}.audit WHERE event_type = 'configuration_change'"
        assert tenant.superuser(changes) == [("create",)]
        await healthy.remove(tenant.name, tenant.uid, level, "Delete")
        assert tenant.leftovers() == []
    await healthy.close()


@pytest.mark.parametrize("policy", ["Retain", "Delete"])
@pytest.mark.parametrize("level", support.LEVELS)
async def test_while_removing(server: postgres.Server, level: str, policy: Literal["Retain", "Delete"]) -> None:
    healthy = support.backend(server)

    async def begin() -> Tenant:
        tenant = Tenant(server, level)
        await healthy.ensure(tenant.plan())
        tenant.superuser("SET ROLE {login}; CREATE TABLE {schema}.notes AS SELECT 'kept' AS text")
        return tenant

    async def remove(by: PostgresBackend, tenant: Tenant) -> None:
        await by.remove(tenant.name, tenant.uid, level, policy, ENDING)

    async for tenant, at in support.crashes(server, level, begin, remove):
        await remove(healthy, tenant)
        assert tenant.leftovers() == [], f"after a crash before statement {at}"
        archived = "SELECT event_type FROM tenantry_archive.audit WHERE tenant_uid = %s ORDER BY event_type"
        rows = server.sql(archived, (tenant.uid,), postgres.DATABASE)
        assert rows == [("configuration_change",), ("deletion",)], f"after a crash before statement {at}"
        if policy == "Retain":
            table = f"SELECT text FROM {tenant.things.retained[0]}.notes"
            assert server.sql(table, (), tenant.retained_database()) == [("kept",)]
    await healthy.close()


@pytest.mark.parametrize("level", support.LEVELS)
async def test_a_tenant_that_was_never_finished_is_removed(server: postgres.Server, level: str) -> None:
    healthy = support.backend(server)

    async def begin() -> Tenant:
        return Tenant(server, level)

    async def ensure(dying: PostgresBackend, tenant: Tenant) -> None:
        await dying.ensure(tenant.plan())

    async for tenant, at in support.crashes(server, level, begin, ensure):
        for policy in ("Retain", "Delete"):
            await healthy.remove(tenant.name, tenant.uid, level, policy, ENDING)
            assert tenant.leftovers() == [], f"after a crash before statement {at}"
    await healthy.close()
