"""How long idle connections to PostgreSQL are kept."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from psycopg import pq

from tenantry.backends.postgres import connections
from tenantry.backends.postgres.connections import Admin, Connections


class Fake:
    """What `Connections` asks of one of psycopg's."""

    def __init__(self) -> None:
        self.closed = self.broken = False
        self.info = SimpleNamespace(transaction_status=pq.TransactionStatus.IDLE)
        self.pgconn = SimpleNamespace(finish=self._finish)

    def _finish(self) -> None:
        self.closed = True

    async def close(self) -> None:
        self.closed = True

    def add_notice_handler(self, _: object) -> None: ...

    def remove_notice_handler(self, _: object) -> None: ...


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Fake]:
    made: list[Fake] = []

    async def connect(self: Connections, *_: Any) -> Fake:
        made.append(Fake())
        return made[-1]

    monkeypatch.setattr(Connections, "_connect", connect)
    monkeypatch.setattr(connections, "has_news", lambda _: False)
    return made


async def burst(pool: Connections, count: int) -> None:
    meeting = asyncio.Barrier(count)

    async def one() -> None:
        async with pool.use():
            await meeting.wait()

    await asyncio.gather(*(one() for _ in range(count)))


def pool() -> Connections:
    return Connections(Admin("127.0.0.1", 1, "tenantry", "admin", ""))


async def test_what_a_burst_leaves_is_closed_though_nobody_asks_again(
    opened: list[Fake], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "IDLE_SECONDS", 0.2)
    kept = pool()
    await burst(kept, 10)
    assert len(opened) == 10
    assert not any(one.closed for one in opened), "they are kept for a while"
    async with asyncio.timeout(30):
        while sum(not one.closed for one in opened) > connections.KEPT:
            await asyncio.sleep(0.02)
    await burst(kept, connections.KEPT)
    assert len(opened) == 10, "the others are as good as they were"
    await kept.close()
    assert all(one.closed for one in opened)


async def test_one_that_shall_not_be_kept_is_closed(opened: list[Fake]) -> None:
    kept = pool()
    await burst(kept, 2)
    async with kept.use() as session:
        session.keep = False
    first, last = opened
    assert sorted([first.closed, last.closed]) == [False, True]
    async with kept.use():
        assert len(opened) == 2, "the other is as good as it was"
    await kept.close()
    assert all(one.closed for one in opened)


async def test_closing_ends_the_waiting(opened: list[Fake]) -> None:
    kept = pool()
    await burst(kept, 6)
    waiting = kept._trimming
    assert waiting is not None
    await kept.close()
    assert waiting.cancelled()
