"""Who waits for another replica's answer: what it finds, when it claims in turn, and when it goes on by itself."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from tenantry_runtime import cache, claims, errors
from tenantry_runtime.cache import ResponseCache, Ticket
from tenantry_runtime.config import Cache
from tenantry_runtime.store import StoreUnavailableError

from .configuration import configuration
from .test_cache import answer

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SEEN = (False, False, NOW)
ANSWER = cache.kept(answer(), [])
LOST, WON, ALIVE, RAN_OUT, GIVEN_BACK = False, True, True, False, None
KEY = b"key"


class World:
    """A cache among others.  `claimed`: what each claim is told; `looks`: what each look at another's claim finds."""

    def __init__(self, claimed: list[bool], looks: list[Any], replicas: int = 3) -> None:
        self.claimed, self.looks = iter(claimed), iter(looks)
        self.asked: list[tuple[Any, ...]] = []
        self.given_back: list[tuple[Any, ...]] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.away = False
        service = SimpleNamespace(
            provider=SimpleNamespace(timeout_seconds=60), store=SimpleNamespace(ask=self._ask), finish=self._finish
        )
        self.cache = ResponseCache(service)  # type: ignore[arg-type]
        self.call: Any = SimpleNamespace(configuration=configuration(cache=Cache(), replicas=replicas))

    def _finish(self, work: Any) -> asyncio.Task[None]:
        self.tasks.append(asyncio.create_task(work))
        return self.tasks[-1]

    async def _ask(self, statement: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        if self.away:
            raise StoreUnavailableError("away")
        if "DELETE" in statement:
            self.given_back.append(values)
            return []
        found = next(self.looks)
        return [(*SEEN, found, None)] if isinstance(found, str) else [(*SEEN, None, found)]

    async def reserve(self, look: tuple[Any, ...], claim: tuple[Any, ...] = ()) -> tuple[Any, ...]:
        self.asked.append(claim)
        return (*SEEN, None, next(self.claimed)) if claim else (*SEEN, None)

    async def find(self, ticket: Ticket) -> cache.Found | None:
        async with asyncio.timeout(30):
            return await self.cache.find(self.call, ticket, self.reserve)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(claims, "LAST_PAUSE", 0.002)


def ticket(fresh: bool = False) -> Ticket:
    return Ticket(KEY, False, fresh)


async def test_who_is_first_leads() -> None:
    world, mine = World([WON], []), ticket()
    assert await world.find(mine) is None
    assert mine.claim
    assert world.asked == [(mine.claim.owner, claims.LEASE_SECONDS)]
    world.cache.give_up(mine)
    await asyncio.gather(*world.tasks)
    assert world.given_back == [claims.arrays([claims.Claim(KEY, world.asked[0][0])])]
    world.cache.give_up(mine)  # once is enough
    assert len(world.tasks) == 1


@pytest.mark.parametrize(
    ("claimed", "looks", "found", "leads"),
    [
        ([LOST], [ALIVE, ALIVE, ANSWER], True, False),
        ([LOST], [ALIVE, GIVEN_BACK], False, False),
        ([LOST], ["no answer of this version's"], False, False),
        ([LOST, WON], [ALIVE, RAN_OUT], False, True),
        ([LOST, LOST], [RAN_OUT, ALIVE, ANSWER], True, False),
    ],
)
async def test_who_is_later_waits(claimed: list[bool], looks: list[Any], found: bool, leads: bool) -> None:
    world, mine = World(claimed, looks), ticket()
    assert bool(await world.find(mine)) is found
    assert bool(mine.claim) is leads
    assert len(world.asked) == len(claimed)
    assert next(world.looks, "none is left") == "none is left"
    assert bool(mine.flight) is not found  # others of this process have been told, or will be


async def test_waiting_has_an_end() -> None:
    world = World([LOST], [ALIVE] * 10_000)
    world.cache._service.provider.timeout_seconds = -9.9
    assert await world.find(ticket()) is None


async def test_so_many_wait_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MAX_WAITING", 0)
    world, mine = World([LOST], []), ticket()
    assert await world.find(mine) is None
    assert mine.claim is None


@pytest.mark.parametrize(("fresh", "replicas"), [(True, 3), (False, 1)])
async def test_who_claims_nothing(fresh: bool, replicas: int) -> None:
    world, mine = World([], [], replicas), ticket(fresh)
    assert await world.find(mine) is None
    assert world.asked == [()]
    assert mine.claim is None


@pytest.mark.parametrize(
    ("error", "given_back"),
    [(errors.forbidden("No.", "no"), 0), (StoreUnavailableError("nobody knows what was done"), 1)],
)
async def test_an_error_leaves_no_claim(error: Exception, given_back: int) -> None:
    world, mine = World([], []), ticket()

    async def refuse(*_: Any) -> Any:
        raise error

    world.reserve = refuse  # type: ignore[method-assign]
    with pytest.raises(type(error)):
        await world.find(mine)
    world.cache.give_up(mine)
    await asyncio.gather(*world.tasks)
    assert len(world.given_back) == given_back
    assert mine.claim is None


async def test_a_stream_that_its_client_holds_up_holds_up_nobody_else() -> None:
    world, mine = World([WON], []), ticket()
    await world.find(mine)
    assert mine.flight
    mine.flight.stalled()
    await asyncio.gather(*world.tasks)
    assert len(world.given_back) == 1
    assert mine.flight  # others of this process wait on
    mine.flight.stalled()
    assert len(world.tasks) == 1


async def test_the_answer_takes_its_claim_along() -> None:
    world, mine = World([WON], []), ticket()
    await world.find(mine)
    claim = mine.claim
    assert claim
    world.cache.keep(mine, answer(), [])
    await asyncio.gather(*world.tasks)
    ((keys, owners, *stored),) = world.given_back
    assert (keys, owners) == claims.arrays([claim])
    assert stored[0] == KEY
    assert not world.cache.claims._held


async def test_what_can_not_be_given_back_runs_out() -> None:
    """While the database is away nothing is renewed, and nobody waits for it here."""
    world, mine = World([WON], []), ticket()
    await world.find(mine)
    world.away = True
    world.cache.give_up(mine)
    await asyncio.gather(*world.tasks)
    assert not world.cache.claims._held
    assert (await world.cache.claims.make(KEY)).key == KEY


async def test_a_new_claim_waits_for_the_old_ones_end() -> None:
    world, mine = World([WON, WON], []), ticket()
    await world.find(mine)
    world.cache.give_up(mine)
    assert not world.given_back
    await world.find(ticket())
    assert len(world.given_back) == 1


def test_claims_as_postgresqls_arrays() -> None:
    claim = claims.Claim(b"\x00\xff")
    assert claims.arrays([claim, claim]) == (r'{"\\x00ff","\\x00ff"}', f"{{{claim.owner},{claim.owner}}}")


async def test_renewal_goes_on_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "RENEW_SECONDS", 0.001)
    world = World([], [])
    renewed = asyncio.Event()
    outcomes: Iterator[Callable[[], Any]] = iter([ValueError, lambda: StoreUnavailableError("away"), lambda: None])

    async def ask(statement: str, values: tuple[Any, ...]) -> list[Any]:
        if error := next(outcomes)():
            raise error
        renewed.set()
        world.cache.claims.forget(claim)
        return []

    world.cache._service.store.ask = ask  # type: ignore[method-assign, assignment]
    claim = claims.Claim(KEY)
    world.cache.claims.hold(claim)
    running = asyncio.create_task(world.cache.claims.run())
    async with asyncio.timeout(30):
        await renewed.wait()
        while world.cache.claims._some.is_set():
            await asyncio.sleep(0.001)
    running.cancel()
