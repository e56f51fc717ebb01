"""A store that does not answer: who asks it, when, and who hears of its return."""

import asyncio
import itertools
import random

import pytest

from tenantry.api import Reason
from tenantry.backends.errors import BackendError
from tenantry.breaker import LONGEST_SECONDS, OPEN_SECONDS, Breaker

AWAY = BackendError(Reason.DATABASE_UNAVAILABLE, "PostgreSQL does not answer")
REFUSED = BackendError(Reason.DATABASE_REFUSED, "no such right")


class World:
    def __init__(self) -> None:
        self.now = 0.0
        self.asked = 0
        self.error: BackendError | None = None
        self.gate: asyncio.Event | None = None
        self.breaker = Breaker(None, lambda: self.now)

    async def step(self) -> str:
        self.asked += 1
        if self.gate:
            await self.gate.wait()
        if self.error:
            raise self.error
        return "done"

    async def ask(self, tenant: str = "acme") -> str:
        return await self.breaker(self.step, tenant)


async def test_a_store_that_does_not_answer_is_not_asked_by_the_next():
    world = World()
    world.error = AWAY
    for _ in range(5):
        with pytest.raises(BackendError, match="does not answer"):
            await world.ask()
    assert world.asked == 1


async def test_one_tries_again_while_the_others_hear_the_old_error():
    world = World()
    world.error = AWAY
    with pytest.raises(BackendError):
        await world.ask()
    world.now, world.error, world.gate = 4, None, asyncio.Event()
    trial = asyncio.create_task(world.ask())
    await asyncio.sleep(0)
    with pytest.raises(BackendError):
        await world.ask()
    world.gate.set()
    assert await trial == "done"
    assert await world.ask() == "done"


async def test_a_refusal_is_an_answer():
    world = World()
    world.error = REFUSED
    for _ in range(3):
        with pytest.raises(BackendError, match="no such right"):
            await world.ask()
    assert world.asked == 3
    world.error = AWAY
    with pytest.raises(BackendError):
        await world.ask()
    world.now, world.error = 4, REFUSED
    with pytest.raises(BackendError, match="no such right"):
        await world.ask()
    world.error = None
    assert await world.ask() == "done"


async def test_a_trial_that_is_cancelled_lets_the_next_one_try():
    world = World()
    world.error = AWAY
    with pytest.raises(BackendError):
        await world.ask()
    world.now, world.error, world.gate = 4, None, asyncio.Event()
    trial = asyncio.create_task(world.ask())
    await asyncio.sleep(0)
    trial.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trial
    world.gate = None
    assert await world.ask() == "done"


async def test_what_lies_in_a_tenants_own_things_stops_nobody_else():
    world = World()
    world.error = BackendError(Reason.DATABASE_UNAVAILABLE, "Another session holds a lock on the tenant's table")
    world.error.own = True
    for _ in range(3):
        with pytest.raises(BackendError, match="lock"):
            await world.ask()
    assert world.asked == 3


async def test_failed_tries_come_more_and_more_slowly_and_never_all_at_the_same_time():
    world = World()
    world.error = AWAY
    asked_at: list[float] = []
    for _ in range(1000):
        before = world.asked
        with pytest.raises(BackendError):
            await world.ask()
        if world.asked > before:
            asked_at.append(world.now)
        world.now += 0.1
    pauses = [b - a for a, b in itertools.pairwise(asked_at)]
    assert 100 / LONGEST_SECONDS < len(asked_at) < 100 / (LONGEST_SECONDS / 2) + 5
    assert OPEN_SECONDS / 2 <= pauses[0] <= OPEN_SECONDS + 0.2
    assert all(LONGEST_SECONDS / 2 <= p <= LONGEST_SECONDS + 0.2 for p in pauses[4:])
    assert len({round(p, 1) for p in pauses[4:]}) > 1, "jitter"


async def test_one_is_woken_to_try_and_all_who_waited_when_it_answers(monkeypatch):
    """Nobody has to come back by himself."""
    monkeypatch.setattr("tenantry.breaker.OPEN_SECONDS", 0.02)
    monkeypatch.setattr("tenantry.breaker.LONGEST_SECONDS", 0.02)
    healed: set[str] = set()
    asked: list[str] = []
    away = True

    def wake(tenant: str, delay: float) -> None:
        tasks.append(asyncio.get_running_loop().create_task(look(tenant, delay)))

    async def look(tenant: str, delay: float = 0) -> None:
        await asyncio.sleep(delay)

        async def step() -> None:
            asked.append(tenant)
            if away:
                raise AWAY

        try:
            await breaker(step, tenant)
            healed.add(tenant)
        except BackendError:
            pass  # and does not come back by itself

    tasks: list[asyncio.Task[None]] = []
    breaker = Breaker(wake, rng=random.Random(1))
    names = {f"t-{n}" for n in range(20)}
    async with asyncio.timeout(20):
        await asyncio.gather(*(look(name) for name in names))
        while len(asked) < 30:
            await asyncio.sleep(0.01)
        away, before = False, len(asked)
        while healed != names:
            await asyncio.sleep(0.01)
    assert len(asked) - before <= 2 * len(names)
    assert len(set(asked[:30])) > 1, "the next one when one did not help"
