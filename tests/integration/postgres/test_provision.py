"""What `ensure` makes, and that a steady tenant costs nothing."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import psycopg
import pytest

from dev.cluster import postgres
from tenantry.api.conditions import Reason
from tenantry.backends.errors import BackendError
from tenantry.backends.postgres import Ahead, KeysAhead, PostgresBackend, connections, removal
from tenantry.backends.postgres.connections import Connections
from tenantry.credentials import FIRST, Logins
from tenantry_runtime.config import AccessKeyRow, key_sha256
from tests.integration.postgres import support
from tests.integration.postgres.support import Tenant


async def test_a_tenant_gets_what_it_works_with(backend: PostgresBackend, tenant: Tenant) -> None:
    seen = await backend.ensure(tenant.plan())
    assert (seen.database, seen.schema) == (tenant.database, tenant.things.schema)
    assert (seen.created, seen.corrected, seen.month, seen.spent_nano) == (True, (), None, None)

    with tenant.session() as own:  # its own tables, without naming the schema
        own.execute("CREATE TABLE notes (id serial PRIMARY KEY, text text)")
        own.execute("INSERT INTO notes (text) VALUES ('mine')")
        assert own.execute("SELECT text FROM notes").fetchall() == [("mine",)]
        shown = own.execute(
            "SELECT current_schema(), current_setting('statement_timeout'),"
            " current_setting('idle_in_transaction_session_timeout'), current_setting('idle_session_timeout')"
        ).fetchone()
        assert shown == (tenant.things.schema, "1min", "1min", "1h")
        made = own.execute("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; SELECT 1")
        assert made is not None
    with tenant.session("a") as runtime:
        row = runtime.execute("SELECT document, digest FROM configuration").fetchone()
        plan = tenant.plan()
        assert row == (plan.configuration, plan.configuration_digest)
        assert runtime.execute("SELECT current_schema(), expire_reservations()").fetchone() == (
            tenant.things.runtime_schema,
            0,
        )
        numbers = runtime.execute("SELECT number FROM schema_migrations ORDER BY number").fetchall()
        assert [number for (number,) in numbers] == [migration.number for migration in plan.migrations]
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"), tenant.session("b"):
        pass  # the second login waits for a rotation
    limits = tenant.superuser(
        "SELECT rolname, rolconnlimit, rolcanlogin FROM pg_roles WHERE rolname LIKE %s".replace(
            "%s", f"'{tenant.things.schema}%'"
        )
    )
    assert {name: (limit, login) for name, limit, login in limits} == {
        tenant.things.owner: (-1, False),
        tenant.things.runtime_owner: (-1, False),
        tenant.things.group: (-1, False),
        tenant.things.login: (20, True),
        tenant.things.slot("a"): (60, True),
        tenant.things.slot("b"): (60, False),
    }


async def test_what_the_platform_makes_as_owner_is_the_tenants(
    server: postgres.Server, backend: PostgresBackend, tenant: Tenant
) -> None:
    await backend.ensure(tenant.plan())
    tenant.superuser("SET ROLE {owner}; CREATE TABLE {schema}.seeded AS SELECT 5 AS n")
    things = tenant.things
    with server.connect(postgres.ADMIN, support.ADMIN_PASSWORD, tenant.database) as admin, admin.transaction():
        admin.execute(f'GRANT "{things.owner}" TO CURRENT_USER')  # as docs/postgres.md says
        admin.execute(f'SET LOCAL ROLE "{things.owner}"')
        admin.execute(f'CREATE TABLE "{things.schema}".by_admin AS SELECT 6 AS n')
        admin.execute("RESET ROLE")
        admin.execute(f'REVOKE "{things.owner}" FROM CURRENT_USER')
    with tenant.session() as own:
        assert own.execute("SELECT n FROM seeded").fetchall() == [(5,)]
        assert own.execute("SELECT n FROM by_admin").fetchall() == [(6,)]


async def test_a_steady_tenant_costs_one_query_and_no_write(server: postgres.Server, tenant: Tenant) -> None:
    kind, statements = support.recording()
    backend = support.backend(server, kind)
    await backend.ensure(tenant.plan())
    await backend.ensure(tenant.plan())  # makes the months of its audit
    await backend.sync_keys(tenant.plan(), [])
    statements.clear()
    seen = await backend.ensure(tenant.plan())
    assert (seen.created, seen.corrected) == (False, ())
    assert len(statements) == (1 if tenant.level == "Schema" else 2)
    assert not await backend.sync_keys(tenant.plan(), [])
    assert all(statement.startswith("SELECT") for statement in statements)
    statements.clear()
    assert (await backend.ensure(tenant.plan(), logins=True)).corrected == ()
    assert all(statement.startswith("SELECT") for statement in statements)
    await backend.close()


async def test_logins_are_tried_where_they_may_have_changed(
    backend: PostgresBackend, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not right after they were made: a login costs the server about 8 ms."""
    tried: list[str] = []
    accepts = Connections.accepts

    async def count(self: Connections, user: str, password: str, database: str) -> bool:
        tried.append(user)
        return await accepts(self, user, password, database)

    monkeypatch.setattr(Connections, "accepts", count)
    await backend.ensure(tenant.plan(), logins=True, new=True)
    assert tried == []
    await backend.ensure(tenant.plan(), logins=True)
    assert tried == [tenant.things.login, tenant.things.slot("a")]


async def test_a_burst_keeps_its_connections_for_a_while(
    server: postgres.Server, backend: PostgresBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenants = [Tenant(server, "Schema").plan() for _ in range(6)]
    monkeypatch.setattr(connections, "KEPT", 2)
    await asyncio.gather(*(backend.ensure(plan) for plan in tenants))
    there = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tenantry' AND usename = 'tenantry_admin'"
    ((many,),) = server.sql(there)
    assert many >= 6
    monkeypatch.setattr(connections, "IDLE_SECONDS", 0.0)
    await backend.ensure(tenants[0])
    async with asyncio.timeout(30):
        while server.sql(there)[0][0] > many - 4:
            await asyncio.sleep(0.05)


async def test_no_password_reaches_a_statement_or_the_log(server: postgres.Server, tenant: Tenant) -> None:
    kind, statements = support.recording()
    backend = support.backend(server, kind)
    await backend.ensure(tenant.plan())
    await backend.close()
    with tenant.session(), tenant.session("a"):
        pass  # the passwords work
    log = server.log.read_text(errors="replace")
    assert tenant.things.login in log
    assert "SCRAM-SHA-256" in log
    for secret in (
        support.CREDENTIALS.tenant_postgres(tenant.uid),
        support.CREDENTIALS.runtime_postgres(tenant.uid),
        support.ADMIN_PASSWORD,
    ):
        assert secret not in log
        assert secret not in "\n".join(statements)
        assert secret not in repr(tenant.plan())
        assert secret not in repr(support.backend(server)._connections.admin)


async def test_the_runtimes_logins_take_turns(backend: PostgresBackend, tenant: Tenant) -> None:
    await backend.ensure(tenant.plan())
    with tenant.session("a") as old:
        seen = await backend.ensure(tenant.plan(logins=Logins(1, database_previous=True)))
        with tenant.session("b") as new:
            assert new.execute("SELECT count(*) FROM configuration").fetchone() == (1,)
        assert old.execute("SELECT count(*) FROM configuration").fetchone() == (1,)
        assert "password" not in "".join(seen.corrected)
        assert await backend.in_use(tenant.things, 0)
        await backend.ensure(tenant.plan(logins=Logins(1)))
        assert old.execute("SELECT 1").fetchone() == (1,), "closed to new sessions; the one that is there goes on"
        assert not await backend.in_use(tenant.things, 0), "what may not log in is not waited for"
        await backend.end_sessions(tenant.things, 0)
        with pytest.raises(psycopg.OperationalError):
            old.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError), tenant.session("a"):
        pass
    with tenant.session("b"):
        pass
    assert (await backend.ensure(tenant.plan(logins=Logins(1)))).corrected == ()


async def test_sessions_that_do_not_end_leave_the_admin_no_membership(
    backend: PostgresBackend, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    def members() -> list[tuple[Any, ...]]:
        slot = tenant.things.slot("a")
        return list(
            tenant.superuser(
                "SELECT member::regrole::text, admin_option FROM pg_auth_members"
                f" WHERE roleid = '{slot}'::regrole ORDER BY 1, 2"
            )
        )

    await backend.ensure(tenant.plan())
    before, seen = members(), []

    async def in_vain(*_: object) -> None:
        seen.append(members())
        raise BackendError(Reason.DATABASE_UNAVAILABLE, "The tenant's sessions do not end")

    monkeypatch.setattr(removal, "end_sessions", in_vain)
    with pytest.raises(BackendError, match="do not end"):
        await backend.end_sessions(tenant.things, 0)
    assert seen != [before], "the admin was a member meanwhile"
    assert members() == before


async def test_a_login_whose_time_is_over_never_comes_back(backend: PostgresBackend, tenant: Tenant) -> None:
    """Whoever forgot a rotation is told how far it went, before anything is written."""
    await backend.ensure(tenant.plan())
    for logins in (Logins(1, database_previous=True), Logins(1), Logins(2, database_previous=True)):
        await backend.ensure(tenant.plan(logins=logins))
        assert await ahead(backend, tenant) == logins
    await backend.ensure(tenant.plan(logins=Logins(2)))
    assert await ahead(backend, tenant) == Logins(2)
    assert await ahead(backend, tenant, Logins(2, database_previous=True)) == Logins(2), "what is closed stays closed"
    for role in ("a", "b"):  # slot a has the password of generation 2 now
        with pytest.raises(psycopg.OperationalError), tenant.session(role):
            pass
    password = support.CREDENTIALS.runtime_postgres(tenant.uid, 2)
    tenant.server.connect(tenant.things.slot("a"), password, tenant.database).close()


async def ahead(backend: PostgresBackend, tenant: Tenant, logins: Logins = FIRST) -> Logins:
    with pytest.raises(Ahead) as found:
        await backend.ensure(tenant.plan(logins=logins))
    return found.value.logins


async def test_a_new_configuration_is_written_and_announced(backend: PostgresBackend, tenant: Tenant) -> None:
    await backend.ensure(tenant.plan())
    changed = tenant.plan(instructions="Speak of 'nothing'.")
    with tenant.session("a") as runtime:
        runtime.execute(f'LISTEN "{tenant.things.channel}"')
        seen = await backend.ensure(changed)
        (notified,) = await asyncio.to_thread(lambda: list(runtime.notifies(timeout=30, stop_after=1)))
        assert (notified.channel, notified.payload) == (tenant.things.channel, "")
        assert runtime.execute("SELECT document FROM configuration").fetchone() == (changed.configuration,)
    assert seen.corrected == ()  # nobody had changed it behind our back


def key(name: str, **more: object) -> AccessKeyRow:
    return AccessKeyRow.model_validate(
        {
            "uid": str(uuid.uuid4()),
            "name": name,
            "namespace": "tenant-x",
            "key_sha256": key_sha256(name),
            "scopes": ("chat",),
            **more,
        }
    )


async def test_keys_are_exactly_those_given(backend: PostgresBackend, tenant: Tenant) -> None:
    await backend.ensure(tenant.plan())
    plan = tenant.plan()
    first = key("first", scopes=("chat", "usage"), user_name="o'hara", expires_at=1800000000.25)
    second = key("second", act_for_users=True)
    assert await backend.sync_keys(plan, [first, second])
    assert not await backend.sync_keys(plan, [second, first])
    with tenant.session("a") as runtime:
        query = "SELECT uid, user_name, scopes, act_for_users, expires_at FROM access_keys ORDER BY name"
        assert runtime.execute(query).fetchall() == [
            (first.uid, "o'hara", ["chat", "usage"], False, 1800000000.25),
            (second.uid, "", ["chat"], True, None),
        ]
        runtime.execute(f'LISTEN "{tenant.things.channel}"')
        # The same key under a new object: the old row gives way in the same transaction.
        again = key("first", key_sha256=first.key_sha256)
        assert await backend.sync_keys(plan, [again])
        assert runtime.execute(query).fetchall() == [(again.uid, "", ["chat"], False, None)]
        assert await asyncio.to_thread(lambda: list(runtime.notifies(timeout=30, stop_after=1)))
        assert await backend.sync_keys(plan, [])
        assert runtime.execute(query).fetchall() == []


async def test_a_rotated_key_has_two_rows_and_never_goes_back(backend: PostgresBackend, tenant: Tenant) -> None:
    await backend.ensure(tenant.plan())
    plan = tenant.plan()
    old = key("ci")
    await backend.sync_keys(plan, [old])
    new = key("ci", uid=old.uid, generation=1, key_sha256=key_sha256("the next"))
    ending = old.model_copy(update={"expires_at": 1800000000.0})
    await backend.sync_keys(plan, [new, ending])
    with tenant.session("a") as runtime:
        query = "SELECT generation, key_sha256, expires_at FROM access_keys WHERE uid = %s ORDER BY generation"
        assert runtime.execute(query, (old.uid,)).fetchall() == [
            (0, old.key_sha256, 1800000000.0),
            (1, new.key_sha256, None),
        ]
    for back in ([old, key("other")], [key("ci", uid=old.uid)]):
        with pytest.raises(KeysAhead):
            await backend.sync_keys(plan, back)
    with pytest.raises(KeysAhead) as found:
        await backend.sync_keys(plan, [old])
    assert found.value.found == {old.uid: {0: 1800000000.0, 1: None}}
    with tenant.session("a") as runtime:
        assert runtime.execute("SELECT count(*) FROM access_keys").fetchone() == (2,), "nothing was written"
    assert await backend.sync_keys(plan, [new])
    assert not await backend.sync_keys(plan, [new])
    with pytest.raises(KeysAhead):
        await backend.sync_keys(plan, [new, old])
    assert await backend.sync_keys(plan, []), "a deleted AccessKey takes all its rows along"


async def test_the_months_spend_is_the_meters(backend: PostgresBackend, tenant: Tenant) -> None:
    await backend.ensure(tenant.plan())
    with tenant.session("a") as runtime:
        runtime.execute(
            "SELECT record(gen_random_uuid(), 'k', 'k', '', 'search', 1, 1, 700, 42, '2026-01-01', 'Asia/Tokyo')"
        )
        (month,) = runtime.execute("SELECT to_char(month, 'YYYY-MM') FROM meter").fetchone() or ("",)
    seen = await backend.ensure(tenant.plan())
    assert (seen.month, seen.spent_nano) == (month, 742)
    tenant.superuser("UPDATE {runtime}.meter SET month_ends_at = now() - interval '1 minute'")
    assert (await backend.ensure(tenant.plan())).spent_nano == 0


async def test_a_deletion_of_vectors_is_seen_until_it_was_answered_for(
    backend: PostgresBackend, tenant: Tenant
) -> None:
    plan = tenant.plan()
    assert (await backend.ensure(plan)).removal is None
    deleted = "UPDATE documents_state SET removed_at = clock_timestamp()"
    with tenant.session("a") as runtime:
        runtime.execute(deleted)
    seen = (await backend.ensure(plan)).removal
    assert seen is not None
    assert 0 <= seen.seconds_ago < 60
    with tenant.session("a") as runtime:
        runtime.execute(deleted)
    await backend.compacted(plan, seen)  # what was deleted since is not forgotten
    again = (await backend.ensure(plan)).removal
    assert again is not None
    assert again.at > seen.at
    await backend.compacted(plan, again)
    assert (await backend.ensure(plan)).removal is None
    # a tenant of before the column was there
    tenant.superuser("ALTER TABLE {runtime}.documents_state DROP COLUMN removed_at")
    tenant.superuser("DELETE FROM {runtime}.schema_migrations WHERE name = 'compaction'")
    assert (await backend.ensure(plan)).removal is None
    with tenant.session("a") as runtime:
        runtime.execute(deleted)


async def test_an_older_set_of_tables_is_brought_up(backend: PostgresBackend, tenant: Tenant) -> None:
    """An upgrade of the operator: only what is missing runs, and it is no drift."""
    from dataclasses import replace

    plan = tenant.plan()
    first = plan.migrations[:1]
    tables = ("configuration", "access_keys", "ledger", "totals", "meter", "schema_migrations")
    older = replace(plan, migrations=first, grants={name: plan.grants[name] for name in tables}, functions=())
    await backend.ensure(older)
    with tenant.session("a") as runtime:
        assert runtime.execute("SELECT max(number) FROM schema_migrations").fetchone() == (1,)
    seen = await backend.ensure(plan)
    assert (seen.created, seen.corrected) == (False, ())
    with tenant.session("a") as runtime:
        assert runtime.execute("SELECT max(number) FROM schema_migrations").fetchone() == (len(plan.migrations),)
        assert runtime.execute("SELECT expire_reservations()").fetchone() == (0,)


async def test_a_new_tenant_reads_no_functions_of_the_others(server: postgres.Server) -> None:
    """By how many rows of pg_proc PostgreSQL reads, which no machine changes.

    All tenants have functions of the same names, and PostgreSQL goes through all of one name to find one.
    """

    async def rows_read(tenants: int) -> int:
        before = await functions_read(server)
        for _ in range(tenants):
            backend = support.backend(server)  # with an empty cache
            plan = Tenant(server, "Schema").plan()
            await backend.ensure(plan, new=True)
            await backend.sync_keys(plan, [key("first")], new=True)
            await backend.close()
        return await functions_read(server) - before

    first = await rows_read(1)
    await rows_read(8)
    assert await rows_read(1) < first + 40, "eight tenants more are 80 functions more"


async def functions_read(server: postgres.Server) -> int:
    """So far, by sessions that have ended."""
    there = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'tenantry_admin'"
    async with asyncio.timeout(30):
        while server.sql(there)[0][0]:
            await asyncio.sleep(0.05)
    query = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_sys_tables WHERE relid = 'pg_proc'::regclass"
    return int(server.sql(query, dbname=postgres.DATABASE)[0][0])


async def test_many_at_once(backend: PostgresBackend, server: postgres.Server) -> None:
    """More than the pool holds, at both levels: nobody waits for another's row, nobody fails."""
    tenants = [Tenant(server, support.LEVELS[number % 6 == 0]) for number in range(18)]
    seen = await asyncio.gather(*(backend.ensure(tenant.plan()) for tenant in tenants))
    assert all(one.created for one in seen)
    await asyncio.gather(*(backend.remove(t.name, t.uid, t.level, "Delete") for t in tenants))
    assert [t.leftovers() for t in tenants] == [[]] * len(tenants)
