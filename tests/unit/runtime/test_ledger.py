"""What waits for a database that is away: bounded, in order, and never stuck behind a row that it refuses."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from tenantry_runtime import ledger
from tenantry_runtime.audit import Event
from tenantry_runtime.config import UnitPrices
from tenantry_runtime.keys import Caller
from tenantry_runtime.ledger import Ledger
from tenantry_runtime.recording import Record
from tenantry_runtime.reservation import Need, Usage
from tenantry_runtime.store import Row, StoreUnavailableError

from .configuration import configuration

CALLER = Caller("uid", "key", "ann", frozenset())


class Database:
    """Answers as `answer` says, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.answer: Callable[[str, Any], list[Row]] = lambda *_: [("ok", 7, 0.0, None, 1.0, 2, None, None)]

    async def fetch(self, statement: str, values: Any = ()) -> list[Row]:
        self.asked.append((statement, values))
        return self.answer(statement, values)

    write = surely = fetch

    async def begin(self, statement: str, values: Any = (), hurry: bool = True) -> tuple[list[Row], None]:
        return await self.fetch(statement, values), None


def away(*_: Any) -> list[Row]:
    raise StoreUnavailableError("away")


@pytest.fixture
def database() -> Database:
    return Database()


@pytest.fixture
def books(database: Database) -> Ledger:
    return Ledger(database, 60)  # type: ignore[arg-type]


def record(**changes: Any) -> Record:
    values: dict[str, Any] = {
        "configuration": configuration(unit_prices=UnitPrices(database_query_nano=3)),
        "caller": CALLER,
        "kind": "documents",
        "event": Event("data_access", "files.list", "file"),
        "status": 200,
        "at": datetime(2026, 11, 1, tzinfo=UTC),
        "queries": 0,
        "searches": 0,
    }
    return Record(**(values | changes))


async def test_a_settlement_waits_until_the_database_is_back(database: Database, books: Ledger) -> None:
    event = Event("api_call", "chat.completions.create", "model")
    need = Need("chat", "gpt-4o-mini", input_tokens=5, input_bound=9, output_tokens=100)
    reservation = await books.reserve(configuration(), CALLER, need, event)
    assert (reservation.granted, event.intended) == (7, True)
    database.answer = away
    await books.settle(reservation, Usage(5, 2))
    with pytest.raises(StoreUnavailableError):
        await books.flush()
    database.answer = lambda *_: []
    await books.flush()
    *_, (statement, values) = database.asked
    assert "settle_call" in statement
    assert values[:6] == (reservation.id, "settled", 5, 0, 2, 5 * 150 + 2 * 600)
    await books.flush()
    assert database.asked[-1][1] is values  # written once


async def test_a_reservation_whose_answer_was_lost_is_given_back(database: Database, books: Ledger) -> None:
    database.answer = away
    event = Event("api_call", "chat.completions.create", "model")
    with pytest.raises(StoreUnavailableError):
        await books.reserve(configuration(), CALLER, Need("chat", "gpt-4o-mini", 5, 9), event)
    database.answer = lambda *_: []
    await books.flush()
    _, values = database.asked[-1]
    assert values[:2] == (database.asked[0][1][0], "released")
    assert values[-3:-1] == ("503", "store_unavailable")


async def test_what_could_not_be_written_is_refused_and_written_later(database: Database, books: Ledger) -> None:
    database.answer = away
    with pytest.raises(StoreUnavailableError):
        await books.record(record(queries=2))
    database.answer = lambda *_: []
    await books.flush()
    (before, first), (after, second) = database.asked
    assert before == after
    assert first[0] == second[0]  # the same row, whichever came through
    assert (first[-3], second[-3], second[-2]) == ("200", "503", "store_unavailable")


async def test_a_row_that_the_database_refuses_holds_nothing_up(
    database: Database, books: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    database.answer = away
    for number in range(3):
        with pytest.raises(StoreUnavailableError):
            await books.record(record(queries=number + 1))

    def picky(_: str, values: Any) -> list[Row]:
        if values[5] == 2:
            raise psycopg.DataError("no")
        return []

    database.answer = picky
    database.asked.clear()
    with caplog.at_level(logging.CRITICAL, "tenantry_runtime.ledger"):
        await books.flush()
    assert [values[5] for _, values in database.asked] == [1, 2, 3]
    database.asked.clear()
    await books.flush()
    assert not database.asked


async def test_events_that_wait_are_bounded_but_money_is_not(
    database: Database, books: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "MOST_EVENTS", 5)
    for _ in range(20):
        books.record_later(record(status=503))
    for _ in range(3):
        books.record_later(record(status=503, queries=1))
    await books.flush()
    assert len(database.asked) == 8
    assert sum("record_request" in statement for statement, _ in database.asked) == 3
