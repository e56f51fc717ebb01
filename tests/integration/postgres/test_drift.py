"""What somebody else changes is put back, and said."""

from __future__ import annotations

from collections.abc import AsyncIterator

import psycopg
import pytest

from dev.cluster import postgres
from tenantry.api.conditions import Reason
from tenantry.backends.errors import BackendError
from tenantry.backends.postgres import PostgresBackend
from tenantry.credentials import Logins
from tenantry.desired.postgres import shared
from tests.integration.postgres import support
from tests.integration.postgres.support import Tenant

AS_ADMIN = f"SET ROLE {postgres.ADMIN}; "
AS_MAKER = "SET ROLE {maker}; "

DRIFTS = {
    "schema granted to all": ("GRANT USAGE ON SCHEMA {schema} TO PUBLIC", "grants on schema {schema}"),
    "schema granted on": ("GRANT CREATE ON SCHEMA {schema} TO {login} WITH GRANT OPTION", "grants on schema {schema}"),
    "ledger opened": ("GRANT USAGE ON SCHEMA {runtime} TO {login}", "grants on schema {runtime}"),
    "schema taken": ("REVOKE CREATE ON SCHEMA {schema} FROM {login}", "grants on schema {schema}"),
    "schema's owner": (f"ALTER SCHEMA {{runtime}} OWNER TO {postgres.ADMIN}", "owner of schema {runtime}"),
    "attribute": ("ALTER ROLE {login} CREATEDB", "attributes of role {login}"),
    "no login": ("ALTER ROLE {a} NOLOGIN", "attributes of role {a}"),
    "login of a resting slot": ("ALTER ROLE {b} LOGIN", "attributes of role {b}"),
    "end of validity": ("ALTER ROLE {login} VALID UNTIL '2020-01-01'", "attributes of role {login}"),
    "connection limit": ("ALTER ROLE {login} CONNECTION LIMIT -1", "attributes of role {login}"),
    "search_path": ("ALTER ROLE {login} SET search_path = public", "settings of role {login}"),
    "search_path in one database": (
        "ALTER ROLE {a} IN DATABASE {database} SET search_path = public",
        "settings of role {a}",
    ),
    "statement_timeout": ("ALTER ROLE {a} RESET statement_timeout", "settings of role {a}"),
    "default privileges for all": (
        "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} GRANT SELECT ON TABLES TO PUBLIC",
        "default privileges of role {owner}",
    ),
    "default privileges lost": (
        "ALTER DEFAULT PRIVILEGES FOR ROLE {runtime_owner} GRANT EXECUTE ON FUNCTIONS TO PUBLIC",
        "default privileges of role {runtime_owner}",
    ),
    "default privileges in a schema": (
        "ALTER DEFAULT PRIVILEGES FOR ROLE {runtime_owner} IN SCHEMA {runtime} GRANT ALL ON TABLES TO {group}",
        "default privileges of role {runtime_owner}",
    ),
    "table granted": ("GRANT UPDATE ON {runtime}.configuration TO {group}", "table {runtime}.configuration"),
    "table granted to a login": ("GRANT DELETE ON {runtime}.ledger TO {a}", "table {runtime}.ledger"),
    "table taken": ("REVOKE SELECT ON {runtime}.access_keys FROM {group}", "table {runtime}.access_keys"),
    "table's owner": (f"ALTER TABLE {{runtime}}.ledger OWNER TO {postgres.ADMIN}", "table {runtime}.ledger"),
    "strange table": (
        "SET ROLE {runtime_owner}; CREATE TABLE {runtime}.extra (); GRANT ALL ON {runtime}.extra TO PUBLIC",
        "{runtime}.extra",
    ),
    "strange sequence": (
        "SET ROLE {runtime_owner}; CREATE SEQUENCE {runtime}.counter; GRANT USAGE ON SEQUENCE {runtime}.counter TO {a}",
        "{runtime}.counter",
    ),
    "function granted": ("GRANT EXECUTE ON FUNCTION {runtime}.settle TO PUBLIC", "function {runtime}.settle"),
    "function taken": ("REVOKE EXECUTE ON FUNCTION {runtime}.settle FROM {group}", "function {runtime}.settle"),
    "configuration changed": ("UPDATE {runtime}.configuration SET document = '{{}}'", "configuration row"),
    "configuration gone": ("DELETE FROM {runtime}.configuration", "configuration row"),
    "membership gone": (AS_ADMIN + "REVOKE {group} FROM {a}", "memberships of the roles"),
    "membership of an owner": (AS_ADMIN + "GRANT {runtime_owner} TO {login}", "memberships of the roles"),
    "membership to pass on": (AS_ADMIN + "GRANT {group} TO {a} WITH ADMIN OPTION", "memberships of the roles"),
    "membership of another maker": (AS_ADMIN + "GRANT {other_maker} TO {login}", "memberships of the roles"),
    "the right to connect, to pass on": (
        AS_ADMIN + "GRANT tenantry_connect TO {login} WITH ADMIN OPTION",
        "memberships of the roles",
    ),
    "the maker's membership": (AS_MAKER + "REVOKE {owner} FROM {maker}", "the operator's own membership"),
    "the maker's membership of the tables' owner": (
        AS_MAKER + "REVOKE {runtime_owner} FROM {maker}",
        "the operator's own membership",
    ),
    "the admin's membership of the maker": (AS_ADMIN + f"REVOKE {{maker}} FROM {postgres.ADMIN}", "role {maker}"),
    "the maker's attributes": ("ALTER ROLE {maker} LOGIN NOCREATEROLE", "role {maker}"),
    "a role dropped": ("DROP ROLE {b}", "roles {b}"),
    "database opened": ("GRANT CONNECT, TEMPORARY ON DATABASE {database} TO PUBLIC", "grants on database {database}"),
    "public opened": ("GRANT USAGE, CREATE ON SCHEMA public TO PUBLIC", "grants on schema public"),
}


AT_BOTH_LEVELS = {"schema granted on", "attribute", "search_path in one database", "configuration gone"}
AT_BOTH_LEVELS |= {
    "table granted",
    "membership of an owner",
    "membership of another maker",
    "database opened",
    "public opened",
    "the right to connect, to pass on",
}
CASES = [(level, drift) for level in support.LEVELS for drift in DRIFTS if level == "Schema" or drift in AT_BOTH_LEVELS]
Made = dict[str, Tenant]


@pytest.fixture(scope="module")
async def made(server: postgres.Server) -> AsyncIterator[tuple[PostgresBackend, Made]]:
    """One tenant at each level, which all drifts happen to in turn."""
    backend = support.backend(server)
    tenants = {level: Tenant(server, level) for level in support.LEVELS}
    for tenant in tenants.values():
        await backend.ensure(tenant.plan())
    yield backend, tenants
    await backend.close()


@pytest.mark.parametrize(("level", "drift"), CASES)
async def test_is_put_back(made: tuple[PostgresBackend, Made], level: str, drift: str) -> None:
    backend, tenant = made[0], made[1][level]
    statement, label = DRIFTS[drift]
    tenant.superuser(statement)
    seen = await backend.ensure(tenant.plan())
    things = tenant.things
    expected = label.format(
        schema=things.schema,
        runtime=things.runtime_schema,
        owner=things.owner,
        runtime_owner=things.runtime_owner,
        login=things.login,
        a=things.slot("a"),
        b=things.slot("b"),
        maker=things.maker,
        database=tenant.database,
    )
    assert any(expected in corrected for corrected in seen.corrected), seen.corrected
    assert len(seen.corrected) == (2 if drift == "a role dropped" else 1)  # it is no member any more either
    assert not seen.created
    assert (await backend.ensure(tenant.plan())).corrected == ()


async def test_a_database_that_changed_hands(server: postgres.Server, backend: PostgresBackend) -> None:
    tenant = Tenant(server, "Database")
    await backend.ensure(tenant.plan())
    tenant.superuser(f"ALTER DATABASE {{database}} OWNER TO {postgres.ADMIN}")
    assert (await backend.ensure(tenant.plan())).corrected == (f"grants on database {tenant.database}",)


@pytest.mark.parametrize("level", support.LEVELS)
async def test_a_tenant_that_the_admin_made_itself(
    server: postgres.Server, backend: PostgresBackend, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    """As all were before there were makers: it stays the admin's, and all goes on."""
    tenant = Tenant(server, level)
    monkeypatch.setattr(shared, "maker", lambda plan, seen: None)
    await backend.ensure(tenant.plan())
    monkeypatch.undo()
    whose = "SELECT DISTINCT m.rolname FROM pg_auth_members a JOIN pg_roles m ON m.oid = a.member WHERE a.roleid = %s"
    oid = f"'{tenant.things.owner}'::regrole"
    assert tenant.superuser(whose.replace("%s", oid)) == [(postgres.ADMIN,)]
    assert (await backend.ensure(tenant.plan(), logins=True)).corrected == ()
    for drift in ("a role dropped", "membership of an owner", "schema taken", "ledger opened", "attribute"):
        tenant.superuser(DRIFTS[drift][0])
        assert (await backend.ensure(tenant.plan())).corrected, drift
    assert (await backend.ensure(tenant.plan(), logins=True)).corrected == ()
    await backend.ensure(tenant.plan(logins=Logins(1)))
    with tenant.session("b"):
        pass
    await backend.remove(tenant.name, tenant.uid, level, "Delete")
    assert tenant.leftovers() == []


async def test_a_login_that_changed_its_own_password(backend: PostgresBackend, tenant: Tenant) -> None:
    """PostgreSQL lets every role do that, and shows it to nobody: only trying it tells."""
    await backend.ensure(tenant.plan())
    with tenant.session() as own:
        own.execute(f"ALTER ROLE {tenant.things.login} PASSWORD 'forgotten'")
    with pytest.raises(psycopg.OperationalError, match="password"), tenant.session():
        pass
    seen = await backend.ensure(tenant.plan(), logins=True)
    assert seen.corrected == (f"password of role {tenant.things.login}",)
    with tenant.session():
        pass


async def test_what_only_a_superuser_can_mend_is_said(backend: PostgresBackend, tenant: Tenant) -> None:
    await backend.ensure(tenant.plan())
    tenant.superuser("ALTER ROLE {login} SUPERUSER")
    with pytest.raises(BackendError) as refused:
        await backend.ensure(tenant.plan())
    assert refused.value.reason is Reason.DATABASE_REFUSED
    assert f"attributes of role {tenant.things.login}" in refused.value.message
    assert "docs/postgres.md" in refused.value.message
    tenant.superuser("ALTER ROLE {login} NOSUPERUSER")

    tenant.superuser("GRANT pg_read_all_data TO {login}")
    if not support.newest(tenant.server):  # there CREATEROLE may revoke it
        assert len((await backend.ensure(tenant.plan())).corrected) == 1
    else:
        with pytest.raises(BackendError) as refused:
            await backend.ensure(tenant.plan())
        assert refused.value.reason is Reason.DATABASE_REFUSED
        assert "memberships of the roles" in refused.value.message
        tenant.superuser("REVOKE pg_read_all_data FROM {login}")
    assert (await backend.ensure(tenant.plan())).corrected == ()
