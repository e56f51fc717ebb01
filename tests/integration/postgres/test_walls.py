"""Each role reaches its own and nothing else: every refusal beside the same thing succeeding where it may."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

from dev.cluster import postgres
from tests.integration.postgres import support
from tests.integration.postgres.support import Tenant


@dataclass
class Neighbours:
    ours: Tenant
    theirs: Tenant


@pytest.fixture(scope="module", params=["Schema beside Schema", "Schema beside Database", "Database beside Database"])
async def two(request: pytest.FixtureRequest, server: postgres.Server) -> AsyncIterator[Neighbours]:
    ours, _, theirs = request.param.split()
    made = Neighbours(Tenant(server, ours), Tenant(server, theirs))
    backend = support.backend(server)
    for tenant in (made.ours, made.theirs):
        await backend.ensure(tenant.plan())
        with tenant.session() as own:
            own.execute("CREATE TABLE notes AS SELECT 'kept' AS text")
            own.execute("GRANT ALL ON notes TO PUBLIC")  # a tenant may open its tables; its schema stays shut
        with tenant.session("a") as runtime:
            runtime.execute("SELECT record(gen_random_uuid(), 'k', 'k', '', 'x', 0, 0, 1, 1, '', 'UTC')")
    yield made
    await backend.close()


ROLES = ("tenant", "a")


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("turn", ["ours at theirs", "theirs at ours"])
def test_another_tenants_schemas(two: Neighbours, role: str, turn: str) -> None:
    me, other = (two.ours, two.theirs) if turn == "ours at theirs" else (two.theirs, two.ours)
    own = {tenant.uid: f"{tenant.things.schema}.notes" for tenant in (me, other)}
    rows = {tenant.uid: f"{tenant.things.runtime_schema}.ledger" for tenant in (me, other)}
    for tables, owner in ((own, "tenant"), (rows, "a")):
        with other.session(owner) as home:
            assert home.execute(f"SELECT count(*) FROM {tables[other.uid]}").fetchone() == (1,)
        if me.database == other.database:
            with me.session(role) as stranger, pytest.raises(InsufficientPrivilege, match="denied for schema"):
                stranger.execute(f"SELECT count(*) FROM {tables[other.uid]}")
        else:
            with (
                pytest.raises(psycopg.OperationalError, match="permission denied for database"),
                me.session(role, other.database),
            ):
                pass


def test_a_tenant_and_its_own_runtime(two: Neighbours) -> None:
    tenant = two.ours
    schema, runtime_schema = tenant.things.schemas
    with tenant.session() as own, tenant.session("a") as runtime:
        for statement in (
            f"SELECT count(*) FROM {runtime_schema}.ledger",
            f"SELECT count(*) FROM {runtime_schema}.access_keys",
            f"SELECT {runtime_schema}.expire_reservations()",
        ):
            assert runtime.execute(statement).fetchone() is not None
            with pytest.raises(InsufficientPrivilege, match="denied for schema"):
                own.execute(statement)
        statement = f"SELECT text FROM {schema}.notes"
        assert own.execute(statement).fetchall() == [("kept",)]
        with pytest.raises(InsufficientPrivilege, match="denied for schema"):
            runtime.execute(statement)


def test_what_the_runtime_may_not_do_to_its_own_rows(two: Neighbours) -> None:
    with two.ours.session("a") as runtime:
        assert runtime.execute("SELECT count(*) FROM configuration").fetchone() == (1,)
        runtime.execute("UPDATE ledger SET user_name = user_name")  # the control: settling is an update
        for statement in (
            "UPDATE configuration SET document = '{}'",
            "DELETE FROM configuration",
            "INSERT INTO access_keys (uid, name, namespace, key_sha256, scopes) VALUES ('', '', '', '', '{}')",
            "UPDATE access_keys SET expires_at = NULL",
            "DELETE FROM ledger",
            "TRUNCATE ledger",
            "INSERT INTO schema_migrations (number, name) VALUES (99, '')",
            "ALTER TABLE ledger ADD COLUMN x int",
            "CREATE TABLE mine (n int)",
            "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        ):
            with pytest.raises(InsufficientPrivilege):
                runtime.execute(statement)


@pytest.mark.parametrize("role", ROLES)
def test_nothing_outside_its_schema(two: Neighbours, role: str) -> None:
    tenant = two.ours
    things = tenant.things
    with tenant.session() as own:  # the control: the same kinds of things at home
        own.execute("CREATE TABLE IF NOT EXISTS home (n int)")
        own.execute("CREATE OR REPLACE FUNCTION home() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    with tenant.session(role) as session:
        for statement in (
            "CREATE TABLE public.mine (n int)",
            "CREATE FUNCTION public.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "CREATE TEMPORARY TABLE mine (n int)",
            "CREATE SCHEMA mine",
            "CREATE ROLE mine",
            "CREATE DATABASE mine",
            f"SET ROLE {things.owner}",
            f"SET ROLE {things.runtime_owner}",
            f"SET ROLE {two.theirs.things.login}",
            f"SET ROLE {postgres.ADMIN}",
            f"ALTER ROLE {two.theirs.things.login} PASSWORD 'x'",
            f"ALTER SCHEMA {things.schema} OWNER TO {things.login}",
            "SELECT rolpassword FROM pg_authid",
            "COPY (SELECT 1) TO PROGRAM 'true'",
        ):
            with pytest.raises(InsufficientPrivilege):
                session.execute(statement)
        # Without the right to pass it on this only warns; it must change nothing.
        warned = []
        session.add_notice_handler(lambda notice: warned.append(notice.severity_nonlocalized))
        if role == "tenant":
            session.execute(f"GRANT USAGE ON SCHEMA {things.schema} TO PUBLIC")
            assert warned == ["WARNING"]
    for shut in ("postgres", "template1"):
        with pytest.raises(psycopg.OperationalError, match="denied for database"), tenant.session(role, shut):
            pass
    public = tenant.superuser(
        "SELECT count(*) FROM pg_namespace, aclexplode(nspacl) WHERE grantee = 0 AND nspname NOT LIKE 'pg_%'"
        " AND nspname <> 'information_schema'"
    )
    assert public == [(0,)]


def test_public_has_nothing(two: Neighbours, server: postgres.Server) -> None:
    """Somebody else's role on the same server."""
    server.sql("DROP ROLE IF EXISTS passer_by")
    server.sql("CREATE ROLE passer_by LOGIN PASSWORD 'x'")
    for database in {two.ours.database, two.theirs.database, postgres.DATABASE}:
        with pytest.raises(psycopg.OperationalError, match="denied for database"):
            server.connect("passer_by", "x", database)
    server.sql("GRANT tenantry_connect TO passer_by")
    try:
        with server.connect("passer_by", "x", postgres.DATABASE) as inside:  # in, and still nothing
            for statement in ("CREATE TABLE public.mine (n int)", "CREATE TEMPORARY TABLE mine (n int)"):
                with pytest.raises(InsufficientPrivilege):
                    inside.execute(statement)
            if two.ours.level == "Schema":
                for schema, table in zip(two.ours.things.schemas, ("notes", "ledger"), strict=True):
                    with pytest.raises(InsufficientPrivilege, match="denied for schema"):
                        inside.execute(f"SELECT count(*) FROM {schema}.{table}")
    finally:
        server.sql("DROP ROLE passer_by")


async def test_nobody_becomes_what_owns_a_tenant(server: postgres.Server) -> None:
    """The operator has the rights of the owners, but becomes one only within a transaction that changes something."""
    tenant, backend = Tenant(server, "Schema"), support.backend(server)
    await backend.ensure(tenant.plan(), new=True)
    owners = tenant.things.owners
    if not support.newest(server):  # 15 has no memberships without SET ROLE, and the tenant is not opened and closed
        tenant.superuser("DROP TABLE {runtime}.audit_default")
        assert "the default partition of the audit" in (await backend.ensure(tenant.plan())).kept_up
        query = "SELECT pg_has_role(%s, %s, 'MEMBER')"
        assert [server.sql(query, (postgres.ADMIN, owner)) for owner in owners] == [[(True,)]] * 2
        await backend.close()
        return
    for owner in owners:
        assert may(server, tenant, owner) == (True, False)
    tenant.superuser("SET ROLE {maker}; GRANT {owner}, {runtime_owner} TO {maker} WITH SET TRUE")  # as versions before
    assert [may(server, tenant, owner) for owner in owners] == [(True, True)] * 2
    assert (await backend.ensure(tenant.plan())).corrected == ()
    assert [may(server, tenant, owner) for owner in owners] == [(True, False)] * 2
    tenant.superuser("DROP TABLE {runtime}.audit_default; GRANT USAGE ON SCHEMA {runtime} TO PUBLIC")
    seen = await backend.ensure(tenant.plan())
    assert seen.corrected == (f"grants on schema {tenant.things.runtime_schema}",)
    assert "the default partition of the audit" in seen.kept_up
    assert [may(server, tenant, owner) for owner in owners] == [(True, False)] * 2
    await backend.close()


def may(server: postgres.Server, tenant: Tenant, owner: str) -> tuple[bool, bool]:
    """Whether the operator's admin has the rights of a role, and whether it may SET ROLE to it."""
    query = "SELECT pg_has_role(%s, %s, 'USAGE'), pg_has_role(%s, %s, 'SET')"
    ((rights, becomes),) = server.sql(query, (postgres.ADMIN, owner) * 2, dbname=tenant.database)
    return rights, becomes
