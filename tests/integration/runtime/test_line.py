"""The connections that requests share: batches, what fails in them, and what becomes of a connection that breaks."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import psycopg
import pytest

from tenantry_runtime import wire as wire_module
from tenantry_runtime.line import BATCH, MOST_WAITING, Line
from tenantry_runtime.store import STATEMENT_SECONDS, Store, StoreUnavailableError, connection_string
from tenantry_runtime.wire import BrokenError
from tests.integration.runtime.stack import Stack, Tenant
from tests.proxy import Proxy

ECHO = "SELECT %s::int"
TRANSACTION = "SELECT pg_current_xact_id()::text, %s::int"


async def connected(line: Line) -> Line:
    async with asyncio.timeout(60):
        while not (answer := line.ask("SELECT 1", ())):
            await asyncio.sleep(0.02)
        await answer
    return line


@pytest.fixture
async def line(home: Tenant) -> AsyncIterator[Line]:
    line = Line(connection_string(home.credentials.postgres))
    yield await connected(line)
    line.close()


@pytest.fixture
async def store(home: Tenant) -> AsyncIterator[Store]:
    store = Store(home.credentials.postgres, 2)
    await store.open()
    for line in store._lines:
        await connected(line)
    yield store
    await store.close()


async def test_what_is_asked_together_is_one_transaction_and_answered_in_order(line: Line) -> None:
    answers = [line.ask(TRANSACTION, (number,)) for number in range(BATCH + 5)]
    rows = [(await answer)[0] for answer in answers if answer]
    assert [row[1] for row in rows] == list(range(BATCH + 5))
    assert len({row[0] for row in rows[:BATCH]}) == 1
    assert len({row[0] for row in rows}) == 2


async def test_no_lock_is_held_while_the_disk_is_waited_for(home: Tenant) -> None:
    line = await connected(Line(connection_string(home.credentials.postgres), 3, defers=True))
    try:
        setting = line.ask("SELECT current_setting('synchronous_commit'), current_schema()", ())
        assert setting
        assert await setting == [("off", home.schema)]
        started = line.begin(TRANSACTION, (1,))
        assert started
        rows, kept = started
        ((first, _),) = await rows
        assert await kept
        lazy = [line.begin(ECHO, (number,), hurry=False) for number in range(2)]
        assert [await one[0] for one in lazy if one] == [[(0,)], [(1,)]]
        assert [await one[1] for one in lazy if one] == [True, True]  # though nobody writes after them
        more = [line.ask(TRANSACTION, (number,)) for number in range(BATCH + 1)]
        answers = [(await answer)[0] for answer in more if answer]
        assert [row[1] for row in answers] == list(range(BATCH + 1))
        assert len({row[0] for row in answers} | {first}) == 3
    finally:
        line.close()


async def test_who_does_not_wait_for_the_disk_hears_that_nobody_knows(home: Tenant) -> None:
    line = await connected(Line(connection_string(home.credentials.postgres), 2, defers=True))
    try:
        asked = line.ask("SELECT pg_backend_pid()", ())
        assert asked
        ((pid,),) = await asked
        started = line.begin("SELECT pg_sleep(60)", ())
        assert started
        await asyncio.sleep(0)
        home.sql("SELECT pg_terminate_backend(%s)", (pid,))
        with pytest.raises(BrokenError):
            await started[0]
        assert await started[1] is False
        await connected(line)
        after = line.ask(ECHO, (5,))
        assert after
        assert await after == [(5,)]
    finally:
        line.close()


async def test_values_come_back_as_they_went(line: Line) -> None:
    now, identity = datetime.now(UTC), uuid.uuid4()
    answer = line.ask(
        "SELECT %s::text, %s::bigint, %s::float8, %s::bool, %s::bytea, %s::uuid, %s::timestamptz, %s::text, %s::int8[]",
        ("a 'b' \\ ü\n", -(1 << 62), 0.1, True, b"\x00\xff", identity, now, None, "{1,NULL}"),
    )  # fmt: skip
    assert answer
    assert await answer == [
        ("a 'b' \\ ü\n", -(1 << 62), 0.1, True, b"\x00\xff", identity, now, None, [1, None])
    ]  # fmt: skip
    with pytest.raises(psycopg.DataError, match="NUL"):
        line.ask("SELECT %s::text", ("a\0b",))


async def test_one_that_fails_takes_no_other_with_it(home: Tenant, store: Store) -> None:
    home.sql("CREATE TABLE IF NOT EXISTS lines (number int)")
    home.sql(f"GRANT INSERT, SELECT ON lines TO {home.credentials.postgres.user}")
    try:
        asked = [store.write("INSERT INTO lines VALUES (%s) RETURNING number", (number,)) for number in range(5)]
        asked.insert(3, store.write("SELECT 1 / %s::int", (0,)))
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(answers.pop(3), psycopg.errors.DivisionByZero)
        assert answers == [[(number,)] for number in range(5)]
        assert home.sql("SELECT number FROM lines ORDER BY number") == [(number,) for number in range(5)]  # each once
        await connected(store._lines[1])
    finally:
        home.sql("DROP TABLE lines")


async def test_a_connection_that_breaks_is_made_anew(home: Tenant, store: Store) -> None:
    for _ in range(2):
        ((pid,),) = await store.write("SELECT pg_backend_pid()")
        running = asyncio.create_task(store.write("SELECT pg_sleep(60) WHERE pg_backend_pid() = %s", (pid,)))
        waiting = asyncio.create_task(store.write(ECHO, (7,)))
        await asyncio.sleep(0)
        home.sql("SELECT pg_terminate_backend(%s)", (pid,))
        assert await running == []  # on another connection, where the condition does not hold
        assert await waiting == [(7,)]
        await connected(store._lines[1])
        ((other,),) = await store.write("SELECT pg_backend_pid()")
        assert other != pid


async def test_who_no_longer_waits_disturbs_nobody(line: Line) -> None:
    first, second, third = (line.ask(ECHO, (number,)) for number in range(3))
    assert first
    assert second
    assert third
    second.cancel()
    assert (await first, await third) == ([(0,)], [(2,)])
    flying = line.ask("SELECT pg_sleep(0.1)", ())
    after = line.ask(ECHO, (3,))
    assert flying
    assert after
    await asyncio.sleep(0.02)
    flying.cancel()
    assert await after == [(3,)]


async def test_more_than_can_wait_are_told_to_go_elsewhere(line: Line) -> None:
    answers = [line.ask(ECHO, (number,)) for number in range(MOST_WAITING + 1)]
    assert answers.pop() is None
    assert [await answer for answer in answers if answer] == [[(number,)] for number in range(MOST_WAITING)]


async def test_it_ends_once_all_is_answered(home: Tenant) -> None:
    line = await connected(Line(connection_string(home.credentials.postgres)))
    answers = [line.ask(ECHO, (number,)) for number in range(BATCH + 1)]
    line.close()
    assert line.ask(ECHO, (1,)) is None
    assert [await answer for answer in answers if answer] == [[(number,)] for number in range(BATCH + 1)]
    assert line.ask(ECHO, (1,)) is None


async def test_a_server_that_says_nothing_is_away_for_who_shares(
    stack: Stack, home: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire_module, "PATIENCE", 0.5)
    with Proxy("127.0.0.1", stack.postgres.port) as proxy:
        store = Store(home.credentials.postgres.model_copy(update={"port": proxy.port}), 2)
        await store.open()
        try:
            for line in store._lines:
                await connected(line)
            proxy.set("hang")
            async with asyncio.timeout(STATEMENT_SECONDS / 2):  # once, and not again over the pool
                with pytest.raises(StoreUnavailableError):
                    await store.ask(ECHO, (1,))
                with pytest.raises(StoreUnavailableError):
                    await store.write(ECHO, (1,))
            proxy.heal()
            for line in store._lines:
                await connected(line)
            assert await store.write(ECHO, (2,)) == [(2,)]
        finally:
            proxy.heal()
            await store.close()
