"""Places for uploads: scratch space has room for so many of the largest, and no slow client keeps the others out.

A body may come slowly where nobody waits (the connection's own rate holds then, `connection.py`).  While others
wait for a place, one that is still being received must have come at `RATE` since it got its own, with `GRACE` seconds
more; of those that have not, as many as wait are ended with 408, and their places are the next ones'.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.types import Message, Receive

from tenantry_runtime import errors

WAIT_SECONDS = 30.0
"""For a place, before a client is told to come again."""
GRACE = 15.0
"""Seconds that an upload has before its rate counts: less than others wait."""
RATE = 256 * 1024
"""Bytes a second below which an upload must make room for one that waits."""
_EVERY = 1.0


class Place:
    """One upload's: `received` bytes of it have come by now."""

    def __init__(self) -> None:
        self._since = asyncio.get_running_loop().time()
        self._coming: asyncio.Timeout | None = None
        self.received = 0

    def counted(self, receive: Receive) -> Receive:
        """The same, with its bytes counted."""

        async def counting() -> Message:
            message = await receive()
            self.received += len(message.get("body", b""))
            return message

        return counting

    @contextlib.asynccontextmanager
    async def coming(self) -> AsyncIterator[None]:
        """While the body is being received.  Raises 408 where it is ended since it is too slow."""
        try:
            async with asyncio.timeout(None) as self._coming:
                yield
        except TimeoutError:
            sentence = "The file came too slowly while other uploads waited: send it again."
            raise errors.ApiError(408, sentence, code="request_timeout", param="file") from None
        finally:
            self._coming = None

    def late(self, now: float) -> float:
        """Seconds by which it is behind; above 0 it is too slow for others to wait for."""
        return now - self._since - GRACE - self.received / RATE if self._coming else 0

    def make_room(self, now: float) -> None:
        """End it."""
        if self._coming is not None:
            self._coming.reschedule(now)
            self._coming = None


class Uploads:
    """`size` places."""

    def __init__(self, size: int) -> None:
        self._free = asyncio.Semaphore(size)
        self._taken: set[Place] = set()
        self._waiting = 0
        self._timer: asyncio.TimerHandle | None = None

    @contextlib.asynccontextmanager
    async def place(self) -> AsyncIterator[Place]:
        """Wait for one; raises 503 where there is none for `WAIT_SECONDS`."""
        self._waiting += 1
        if self._free.locked() and self._timer is None:
            self._look()
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._free.acquire()
        except TimeoutError:
            sentence = "Other uploads take all the room there is. Try again."
            raise errors.unavailable(sentence, "uploads_busy", 5) from None
        finally:
            self._waiting -= 1
        place = Place()
        self._taken.add(place)
        try:
            yield place
        finally:
            self._taken.discard(place)
            self._free.release()

    def _look(self) -> None:
        """Now, and each second while somebody waits: end no more than wait, those that are most behind first."""
        self._timer = None
        if not self._waiting:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        late = [place for place in self._taken if place.late(now) > 0]
        for place in sorted(late, key=lambda place: -place.late(now))[: self._waiting]:
            place.make_room(now)
        self._timer = loop.call_later(_EVERY, self._look)
