"""What has a name of ours and is not ours is named and left alone."""

from __future__ import annotations

import pytest

from dev.cluster import postgres
from tenantry.api.conditions import Reason
from tenantry.backends.errors import BackendError
from tenantry.backends.postgres import PostgresBackend
from tests.integration.postgres.support import Tenant


async def refused(backend: PostgresBackend, tenant: Tenant) -> str:
    with pytest.raises(BackendError) as raised:
        await backend.ensure(tenant.plan())
    assert raised.value.reason is Reason.FOREIGN_OBJECT
    assert raised.value.final
    return raised.value.message


@pytest.mark.parametrize("which", ["owner", "login", "group", "slot a"])
async def test_a_role(server: postgres.Server, backend: PostgresBackend, which: str) -> None:
    tenant = Tenant(server, "Schema")
    things = tenant.things
    name = things.slot("a") if which == "slot a" else str(getattr(things, which))
    tenant.superuser("CREATE ROLE {name} LOGIN CONNECTION LIMIT 7", name=name)
    assert f"Role {name} exists" in await refused(backend, tenant)
    for policy in ("Retain", "Delete"):
        await backend.remove(tenant.name, tenant.uid, tenant.level, policy)
    assert tenant.leftovers() == [name]
    assert server.sql("SELECT rolcanlogin, rolconnlimit FROM pg_roles WHERE rolname = %s", (name,)) == [(True, 7)]
    tenant.superuser("DROP ROLE {name}", name=name)
    assert (await backend.ensure(tenant.plan())).created


@pytest.mark.parametrize("which", [0, 1])
async def test_a_schema(server: postgres.Server, backend: PostgresBackend, which: int) -> None:
    tenant = Tenant(server, "Schema")
    name = tenant.things.schemas[which]
    tenant.superuser("CREATE SCHEMA {name}; CREATE TABLE {name}.theirs AS SELECT 1 AS n", name=name)
    assert f"Schema {name} exists" in await refused(backend, tenant)
    assert tenant.leftovers() == [name]  # not even a role was made beside it
    for policy in ("Retain", "Delete"):
        await backend.remove(tenant.name, tenant.uid, tenant.level, policy)
    assert tenant.superuser("SELECT n FROM {name}.theirs", name=name) == [(1,)]


async def test_a_database(server: postgres.Server, backend: PostgresBackend) -> None:
    tenant = Tenant(server, "Database")
    server.sql(f"CREATE DATABASE {tenant.database}")
    assert f"Database {tenant.database} exists" in await refused(backend, tenant)
    for policy in ("Retain", "Delete"):
        await backend.remove(tenant.name, tenant.uid, tenant.level, policy)
    assert tenant.leftovers() == [tenant.database]
    server.sql(f"DROP DATABASE {tenant.database}")


async def test_the_things_of_an_older_tenant(backend: PostgresBackend, tenant: Tenant) -> None:
    """Another UID under the same name is another tenant: neither takes nor removes what is the other's."""
    await backend.ensure(tenant.plan())
    younger = Tenant(tenant.server, tenant.level, tenant.name)
    assert tenant.things.schema in await refused(backend, younger)
    before = tenant.leftovers()
    for policy in ("Retain", "Delete"):
        await backend.remove(younger.name, younger.uid, younger.level, policy)
    assert tenant.leftovers() == before
    assert (await backend.ensure(tenant.plan())).corrected == ()
    with tenant.session():
        pass
