"""One upstream call that identical requests wait for, and a stream that is read to its end for their sake."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import suppress
from datetime import datetime
from typing import Any

from tenantry_runtime.assembly import Assembly

Chunk = dict[str, Any]

AHEAD = 256
"""Chunks that are read ahead of a slow client."""
AHEAD_FOR_OTHERS = 4096
"""The same while others wait for the answer: a slow client must not hold them up."""


class Flight:
    """A call under way.  `version`: of the documents that it answers from; `waiting`: how many wait for it.

    `ahead`: a stream's chunks that have come and were not yielded yet.  `stalled` is called where a slow client holds
    them up: for those who wait where this process does not know of them, on other replicas.
    """

    def __init__(self) -> None:
        self.version: datetime | None = None
        self.waiting = 0
        self.ahead: deque[Chunk] = deque()
        self.moved = asyncio.Event()
        self.stalled: Callable[[], None] = lambda: None
        self._answer: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

    def land(self, answer: str | None) -> None:
        """Give all who wait the answer; None: there is none, so each goes on by itself."""
        if not self._answer.done():
            self._answer.set_result(answer)

    def join(self) -> None:
        self.waiting += 1
        self.moved.set()

    def leave(self) -> None:
        self.waiting -= 1

    async def answer(self, patience: float) -> str | None:
        """What the call brought; None where that is of no use, or takes longer than `patience` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                return await asyncio.shield(self._answer)
        return None


async def carried(
    flight: Flight,
    source: AsyncGenerator[Chunk, None],
    assembly: Assembly,
    at_end: Callable[[dict[str, Any] | None], None],
    begin: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
) -> AsyncGenerator[Chunk, None]:
    """What `source` yields and raises, read by a task of its own, which `begin` starts and keeps.

    Where the client leaves (this generator is closed) while others wait, the task goes on to the end; where nobody
    waits, the source is closed at once.  `at_end` is called with the answer, or None where there is no whole one.
    """
    ready = flight.ahead
    news = asyncio.Event()
    gone = False

    async def read() -> None:
        complete = False
        try:
            async for chunk in source:
                assembly.take(chunk)
                if gone:
                    continue
                ready.append(chunk)
                news.set()
                while not gone and len(ready) >= (AHEAD_FOR_OTHERS if flight.waiting else AHEAD):
                    flight.stalled()
                    flight.moved.clear()
                    await flight.moved.wait()
            complete = True
        except Exception:
            if not gone:  # else nobody is there to be told, but those who wait for the flight
                raise
        finally:
            at_end(assembly.answer() if complete else None)
            await source.aclose()

    reading = begin(read())
    reading.add_done_callback(lambda _: news.set())
    try:
        while True:
            while ready:
                yield ready.popleft()
                flight.moved.set()
            if reading.done():
                reading.result()
                return
            news.clear()
            await news.wait()
    finally:
        gone = True
        flight.moved.set()
        if not reading.done() and not flight.waiting:
            flight.land(None)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
