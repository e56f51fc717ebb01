"""Waits with jitter: what began together does not come back together."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)

_RNG = random.Random()  # noqa: S311 - nothing secret hangs on it


def about(seconds: float) -> float:
    """For what comes again and again: between 0.8 and 1.2 times as long."""
    return seconds * _RNG.uniform(0.8, 1.2)


def at_most(seconds: float, rng: random.Random = _RNG) -> float:
    """For what is tried again: between half as long and as long."""
    return seconds * rng.uniform(0.5, 1)


async def for_ever(work: Callable[[], Awaitable[object]], pause: Callable[[float], float], failed: str) -> None:
    """`work` again and again, whatever becomes of it.

    `pause`: from the seconds that it took to about those until the next time.  `failed`: what the log says of an error
    that nobody foresaw.
    """
    while True:
        began = time.monotonic()
        try:
            await work()
        except Exception:  # else the whole operator would end with it
            logger.exception("%s; it is tried again", failed)
        await asyncio.sleep(about(pause(time.monotonic() - began)))
