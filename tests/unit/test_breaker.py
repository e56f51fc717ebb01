import asyncio

import pytest

from tenantry.api import Reason
from tenantry.backends.errors import BackendError
from tenantry.breaker import Breaker

AWAY = BackendError(Reason.DATABASE_UNAVAILABLE, "PostgreSQL does not answer")
REFUSED = BackendError(Reason.DATABASE_REFUSED, "no such right")


class World:
    def __init__(self) -> None:
        self.now = 0.0
        self.asked = 0
        self.error: BackendError | None = None
        self.gate: asyncio.Event | None = None
        self.breaker = Breaker(3, lambda: self.now)

    async def step(self) -> str:
        self.asked += 1
        if self.gate:
            await self.gate.wait()
        if self.error:
            raise self.error
        return "done"

    async def ask(self) -> str:
        return await self.breaker(self.step)


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
