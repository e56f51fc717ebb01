"""A key that was valid a moment ago is not looked up again, for less than a second."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from tenantry_runtime.keys import MOST_REMEMBERED, REMEMBERED_SECONDS, Keys
from tenantry_runtime.store import Store

NOW = datetime(2026, 11, 23, tzinfo=UTC)


class Table:
    """Answers as the table of keys would; `asked` counts."""

    def __init__(self) -> None:
        self.now = 100.0
        self.asked = 0
        self.valid = self.expired = False
        self.begun: asyncio.Event | None = None
        self.go = asyncio.Event()

    async def ask(self, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        self.asked += 1
        row = (NOW, "uid", "default", "", ["chat"], False, self.expired)
        found = [row if self.valid else (NOW, None, None, None, None, None, False)]
        if self.begun:
            self.begun.set()
            await self.go.wait()
        return found


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def keys(table: Table) -> Keys:
    return Keys(cast("Store", table), lambda: table.now)


def presenting(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def test_a_valid_key_is_remembered_for_less_than_a_second(table: Table, keys: Keys) -> None:
    assert REMEMBERED_SECONDS < 1
    table.valid = True
    first = await keys.look_up(presenting("tk-1"))
    table.now += 0.4
    again = await keys.look_up(presenting("tk-1"))
    assert table.asked == 1
    assert again.caller == first.caller
    assert again.at == NOW + timedelta(seconds=0.4)  # the database's clock goes on
    table.valid = False
    table.now += REMEMBERED_SECONDS - 0.4
    assert not (await keys.look_up(presenting("tk-1"))).valid
    assert table.asked == 2


@pytest.mark.parametrize("expired", [False, True])
async def test_what_is_refused_is_looked_up_each_time(table: Table, keys: Keys, expired: bool) -> None:
    table.valid = table.expired = expired
    for count in (1, 2):
        assert not (await keys.look_up(presenting("tk-1"))).valid
        assert table.asked == count


async def test_one_key_says_nothing_about_another(table: Table, keys: Keys) -> None:
    table.valid = True
    await keys.look_up(presenting("tk-1"))
    table.valid = False
    assert not (await keys.look_up(presenting("tk-2"))).valid
    assert not (await keys.look_up({})).valid


async def test_a_notice_ends_it_at_once(table: Table, keys: Keys) -> None:
    table.valid = True
    await keys.look_up(presenting("tk-1"))
    table.valid = False
    keys.forget()
    assert not (await keys.look_up(presenting("tk-1"))).valid


async def test_a_notice_during_the_look_up_is_not_lost(table: Table, keys: Keys) -> None:
    table.valid, table.begun = True, asyncio.Event()
    looking = asyncio.create_task(keys.look_up(presenting("tk-1")))
    await table.begun.wait()
    table.valid = False
    keys.forget()
    table.go.set()
    assert (await looking).valid  # as it was when it was asked
    assert not (await keys.look_up(presenting("tk-1"))).valid


async def test_memory_is_bounded(table: Table, keys: Keys) -> None:
    table.valid = True
    for number in range(MOST_REMEMBERED + 1):
        await keys.look_up(presenting(f"tk-{number}"))
    assert len(keys._remembered) <= MOST_REMEMBERED
