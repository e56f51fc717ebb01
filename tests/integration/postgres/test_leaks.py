"""The leak list: who may read it, and that it is always what the operator says."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator

import pytest
from psycopg import sql
from psycopg.errors import InsufficientPrivilege

from dev.cluster import postgres
from tenantry.api.conditions import Reason
from tenantry.backends.errors import BackendError
from tenantry.backends.postgres import PostgresBackend
from tenantry.backends.postgres.deadline import Connection
from tenantry.backends.postgres.leaks import sync
from tenantry.desired.postgres.leaks import Leaks
from tenantry.desired.postgres.things import Things
from tenantry_runtime.config import LEAKS_CHANNEL, leak_hash
from tests.integration.postgres import support
from tests.integration.postgres.support import Tenant

KEY = b"of the region"
LIST = "SELECT hash, owner FROM tenantry_shared.leak_identifiers ORDER BY owner"
SETTINGS = "SELECT key, lengths, version FROM tenantry_shared.leak_settings"


def leaks(*identifiers: str, kept: tuple[str, ...] = (), key: bytes = KEY) -> Leaks:
    """Each is its own owner's."""
    rows = {leak_hash(key, identifier): f"owner of {identifier}" for identifier in identifiers}
    return Leaks(rows, tuple(sorted({len(identifier) for identifier in identifiers})), key, kept)


@pytest.fixture
def tenant(tenant: Tenant) -> Iterator[Tenant]:
    """The next one finds no list."""
    yield tenant
    tenant.superuser("DROP SCHEMA IF EXISTS tenantry_shared CASCADE")


def home(tenant: Tenant) -> Things | None:
    return tenant.things if tenant.level == "Database" else None


def owners(tenant: Tenant) -> list[str]:
    return [str(row[1]) for row in tenant.superuser(LIST)]


def version(tenant: Tenant) -> int:
    return int(tenant.superuser(SETTINGS)[0][2])


async def test_runtimes_read_it_and_nobody_writes_it(backend: PostgresBackend, tenant: Tenant) -> None:
    await backend.ensure(tenant.plan())
    assert await backend.sync_leaks(leaks("tenant-one", "tenant-three"), home(tenant)) == (True, False)
    with tenant.session("a") as runtime:
        rows = dict(runtime.execute(LIST).fetchall())
        assert rows[leak_hash(KEY, "TENANT-one")] == "owner of tenant-one"
        ((key, lengths, _),) = runtime.execute(SETTINGS).fetchall()
        assert (key, lengths) == (KEY, [10, 12])
        for refused in (
            "DELETE FROM tenantry_shared.leak_identifiers",
            "INSERT INTO tenantry_shared.leak_identifiers (hash, owner) VALUES ('', '')",
            "UPDATE tenantry_shared.leak_settings SET version = 0",
            "CREATE TABLE tenantry_shared.mine (n int)",
        ):
            with pytest.raises(InsufficientPrivilege):
                runtime.execute(refused)
    with tenant.session() as own:
        if tenant.level == "Database":
            with pytest.raises(InsufficientPrivilege):
                own.execute(SETTINGS)
        else:
            assert own.execute(SETTINGS).fetchall() == [], "without the key nobody can try words on the hashes"
        with pytest.raises(InsufficientPrivilege):
            own.execute("DELETE FROM tenantry_shared.leak_identifiers")


async def test_no_connection_is_kept_that_held_the_whole_list(backend: PostgresBackend, tenant: Tenant) -> None:
    """libpq's buffers never shrink: each would hold as much as the list once took."""
    await backend.ensure(tenant.plan())
    before = list(backend._connections._idle)
    many = [f"word {number}" for number in range(1000)]
    assert await backend.sync_leaks(leaks(*many), home(tenant)) == (True, False)
    assert len(owners(tenant)) == 1000
    assert backend._connections._idle == (before if home(tenant) else before[:-1])


async def test_a_look_opens_no_connection_of_its_own(
    backend: PostgresBackend, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    really = backend._connections._open

    async def opening(database: str) -> Connection:
        opened.append(database)
        return await really(database)

    await backend.ensure(tenant.plan())
    wanted = leaks("tenant-one")
    assert await backend.sync_leaks(wanted, home(tenant)) == (True, False)
    assert await backend.sync_leaks(wanted, home(tenant)) == (False, False)
    monkeypatch.setattr(backend._connections, "_open", opening)
    assert await backend.sync_leaks(wanted, home(tenant)) == (False, False)
    assert opened == ([tenant.database] if home(tenant) else [])


async def test_it_waits_for_the_first_tenant(server: postgres.Server, backend: PostgresBackend) -> None:
    """Without one there is no role that could read it."""
    reader = f"nobody_{uuid.uuid4().hex}"
    for _ in range(2):
        with pytest.raises(BackendError) as raised:
            await sync(backend._connections, leaks("tenant-one"), postgres.DATABASE, reader)
        assert raised.value.reason is Reason.WAITING
    assert server.sql("SELECT 1 FROM pg_namespace WHERE nspname = 'tenantry_shared'", dbname=postgres.DATABASE) == []
    server.sql(sql.SQL("CREATE ROLE {}").format(sql.Identifier(reader)))
    try:
        assert await sync(backend._connections, leaks("tenant-one"), postgres.DATABASE, reader) == (True, False)
    finally:
        server.sql("DROP SCHEMA tenantry_shared CASCADE", dbname=postgres.DATABASE)
        server.sql(sql.SQL("DROP ROLE {}").format(sql.Identifier(reader)))


async def test_what_is_as_it_should_be_is_not_written(server: postgres.Server, tenant: Tenant) -> None:
    kind, statements = support.recording()
    backend = support.backend(server, kind)
    await backend.ensure(tenant.plan())
    await backend.sync_leaks(leaks("tenant-one", "tenant-two"), home(tenant))
    before = version(tenant)
    statements.clear()
    assert await backend.sync_leaks(leaks("tenant-two", "tenant-one"), home(tenant)) == (False, False)
    assert len(statements) == 2
    assert version(tenant) == before
    statements.clear()
    assert await backend.sync_leaks(leaks("tenant-one", "tenant-three"), home(tenant)) == (True, False)
    assert len(statements) == 3, "a look at the schema, one at the rows, and one statement, whatever changed"
    assert owners(tenant) == ["owner of tenant-one", "owner of tenant-three"]
    assert version(tenant) > before
    await backend.close()


async def test_a_change_is_announced_and_nothing_else(backend: PostgresBackend, tenant: Tenant) -> None:
    await backend.ensure(tenant.plan())
    with tenant.session("a") as runtime:
        runtime.execute(f"LISTEN {LEAKS_CHANNEL}".encode())
        runtime.commit()
        for identifiers in (("tenant-one",), ("tenant-one",), ("tenant-two",), ("tenant-two",)):
            await backend.sync_leaks(leaks(*identifiers), home(tenant))
        heard = [notice.payload for notice in runtime.notifies(timeout=30, stop_after=2)]
        heard += [notice.payload for notice in runtime.notifies(timeout=0)]
    assert heard == ["", ""]


async def test_a_new_key_and_what_is_kept_of_a_tenant_that_can_not_be_read(
    backend: PostgresBackend, tenant: Tenant
) -> None:
    await backend.ensure(tenant.plan())
    await backend.sync_leaks(leaks("tenant-one", "tenant-three"), home(tenant))
    assert await backend.sync_leaks(leaks("tenant-one", kept=("owner of tenant-three",)), home(tenant)) == (
        False,
        False,
    )
    assert owners(tenant) == ["owner of tenant-one", "owner of tenant-three"]
    assert tenant.superuser(SETTINGS)[0][1] == [10, 12]
    assert (await backend.sync_leaks(leaks("tenant-one"), home(tenant)))[0]
    assert owners(tenant) == ["owner of tenant-one"]
    before = version(tenant)
    assert (await backend.sync_leaks(leaks("tenant-one", key=b"new"), home(tenant)))[0]
    assert tenant.superuser(LIST)[0][0] == leak_hash(b"new", "tenant-one")
    assert bytes(tenant.superuser(SETTINGS)[0][0]) == b"new"
    assert version(tenant) > before


SCHEMA_CHANGES = (
    "GRANT ALL ON tenantry_shared.leak_identifiers TO PUBLIC",
    "GRANT CREATE ON SCHEMA tenantry_shared TO {a}",
    "REVOKE USAGE ON SCHEMA tenantry_shared FROM tenantry_connect, {group}",
    "ALTER TABLE tenantry_shared.leak_settings DISABLE ROW LEVEL SECURITY",
    "CREATE POLICY wide ON tenantry_shared.leak_settings USING (true)",
    "ALTER POLICY runtimes ON tenantry_shared.leak_settings USING (true)",
    "ALTER TABLE tenantry_shared.leak_settings ADD COLUMN x int",
    "DROP TABLE tenantry_shared.leak_identifiers",
    "DROP TABLE tenantry_shared.leak_settings",
)
ROW_CHANGES = (
    "DELETE FROM tenantry_shared.leak_identifiers",
    "UPDATE tenantry_shared.leak_identifiers SET owner = 'nobody'",
    "INSERT INTO tenantry_shared.leak_identifiers (hash, owner) VALUES ('x', 'nobody')",
    "DELETE FROM tenantry_shared.leak_settings",
    "UPDATE tenantry_shared.leak_settings SET key = ''",
    "UPDATE tenantry_shared.leak_settings SET lengths = ARRAY[1]",
)


async def test_what_somebody_changed_is_put_back(backend: PostgresBackend, tenant: Tenant) -> None:
    await backend.ensure(tenant.plan())
    wanted = leaks("tenant-one", "tenant-three")
    await backend.sync_leaks(wanted, home(tenant))
    rows = tenant.superuser(LIST)
    for change in (*SCHEMA_CHANGES, *ROW_CHANGES):
        before = version(tenant)
        tenant.superuser(change)
        changed, mended = await backend.sync_leaks(wanted, home(tenant))
        assert mended == (change in SCHEMA_CHANGES), change
        assert changed or mended, change
        assert await backend.sync_leaks(wanted, home(tenant)) == (False, False), change
        assert tenant.superuser(LIST) == rows, change
        assert tenant.superuser(SETTINGS)[0][:2] == (KEY, [10, 12]), change
        assert version(tenant) > before or not changed, change
        with tenant.session("a") as runtime:
            assert len(runtime.execute(LIST).fetchall()) == 2
            assert len(runtime.execute(SETTINGS).fetchall()) == 1
            with pytest.raises(InsufficientPrivilege):
                runtime.execute("DELETE FROM tenantry_shared.leak_identifiers")


async def test_a_schema_of_somebody_elses_is_left_alone(backend: PostgresBackend, tenant: Tenant) -> None:
    await backend.ensure(tenant.plan())
    tenant.superuser("CREATE SCHEMA tenantry_shared; CREATE TABLE tenantry_shared.leak_settings (n int)")
    with pytest.raises(BackendError, match="not the operator's") as raised:
        await backend.sync_leaks(leaks("tenant-one"), home(tenant))
    assert raised.value.reason is Reason.FOREIGN_OBJECT


async def test_a_tenant_with_a_list_of_its_own_is_removed_with_it(server: postgres.Server) -> None:
    backend = support.backend(server)
    for policy in ("Delete", "Retain"):
        tenant = Tenant(server, "Database")
        await backend.ensure(tenant.plan())
        await backend.sync_leaks(leaks("tenant-one"), tenant.things)
        await backend.remove(tenant.name, tenant.uid, "Database", policy)
        assert tenant.leftovers() == []
    await backend.close()


async def test_two_operators_write_one_list(server: postgres.Server, tenant: Tenant) -> None:
    backends = [support.backend(server) for _ in range(4)]
    await backends[0].ensure(tenant.plan())
    many = [f"tenant-{uuid.uuid4().hex[:8]}" for _ in range(200)]
    await backends[0].sync_leaks(leaks("tenant-one"), home(tenant))
    await asyncio.gather(*(one.sync_leaks(leaks(*many), home(tenant)) for one in backends))
    assert len(owners(tenant)) == 200
    assert await backends[1].sync_leaks(leaks(*many), home(tenant)) == (False, False)
    for one in backends:
        await one.close()
