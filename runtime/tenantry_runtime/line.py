"""Connections to PostgreSQL that many requests share, for the few short statements that every request runs.

A statement over a pool costs this process two thirds of a millisecond, most of it for taking a connection, waiting
for its socket and giving it back; and each commits, and waits for the disk, by itself.  Here what is asked while a
batch runs is the next batch: it goes out at once, in libpq's pipeline mode, and is one transaction, so that the calls
of a busy replica share a commit and one turn at the meter's lock.  A lone statement waits for nothing.

Of several connections one runs a batch while others wait for the disk (see `wire.py`).

A batch is done or not done as a whole.  Where one of its statements fails, or the connection breaks, each is told so
by `BrokenError`, and may then be run by itself (not after a `SilentError`).
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

from tenantry_runtime.wire import TEXTS, Asked, BrokenError, Row, SilentError, Wire, tell

BATCH = 32
"""Statements that are one transaction at most: others wait for its locks."""
RUNNING = 1
"""Batches that run at once: more would wait for each other's locks."""
LAZY_SECONDS = 0.02
"""After which what nobody waits for is brought to the disk, if nothing else was meanwhile."""
MOST_WAITING = 1000
"""Statements that wait for their batch; more are refused, and meet the pool's bounds."""


class Line:
    """The statements that wait, and the connections that run them."""

    def __init__(self, target: str, connections: int = 1, defers: bool = False) -> None:
        """`target`: libpq's connection string; `defers`: no lock is held while the disk is waited for."""
        self._queue: deque[Asked] = deque()
        self._wires = [Wire(target, defers, self) for _ in range(connections)]
        self.unkept: list[asyncio.Future[bool]] = []
        self._late: asyncio.TimerHandle | None = None
        self._due = False  # whether `_send` is about to run
        self._closing = False

    def ask(self, statement: str, values: Sequence[Any]) -> "asyncio.Future[list[Row]] | None":
        """The rows to come, once they are on the disk; None where there is no connection now, or too many wait.

        `statement` has ``%s`` for each value.  The future raises BrokenError.
        """
        asked = self._ask(statement, values)
        return asked.answer if asked else None

    def begin(
        self, statement: str, values: Sequence[Any], hurry: bool = True
    ) -> "tuple[asyncio.Future[list[Row]], asyncio.Future[bool]] | None":
        """As `ask`, but the rows come once they are committed; the second future says whether they are on the disk.

        It is False where nobody knows, and raises nothing.  Without `hurry` that may take `LAZY_SECONDS` longer: it
        comes with what others write, most often with the settlement of the same call.
        """
        kept: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        asked = self._ask(statement, values, kept, hurry)
        return (asked.answer, kept) if asked else None

    def _ask(
        self,
        statement: str,
        values: Sequence[Any],
        kept: "asyncio.Future[bool] | None" = None,
        hurry: bool = True,
    ) -> Asked | None:
        connected = sum(wire.connected for wire in self._wires)
        if connected < len(self._wires):
            self.connect()
        if not connected or self._closing or len(self._queue) >= MOST_WAITING:
            return None
        loop = asyncio.get_running_loop()
        asked = Asked(statement, [TEXTS[type(value)](value) for value in values], loop.create_future(), kept, hurry)
        self._queue.append(asked)
        if not self._due:
            self._due = True
            loop.call_soon(self._send)
        return asked

    def connect(self) -> None:
        """Begin to connect what is not connected."""
        for wire in self._wires:
            wire.connect()

    def close(self) -> None:
        """End when what was asked has been answered."""
        self._closing = True
        self._end()

    def _end(self) -> None:
        if not self._queue:
            for wire in self._wires:
                wire.close()

    def _send(self) -> None:
        self._due = False
        queue = self._queue
        running = sum(bool(wire.running) for wire in self._wires)
        for wire in self._wires:
            if not queue or running >= RUNNING:
                break
            if not wire.free:
                continue
            batch: list[Asked] = []
            while queue and len(batch) < BATCH:
                asked = queue.popleft()
                if not asked.answer.done():  # else its request was cancelled
                    batch.append(asked)
            if batch:
                running += 1
                wire.send(batch)
        if self._closing:
            self._end()

    # --- What the wires tell ---------------------------------------------------------------------------------

    def committed(self) -> None:
        if self.unkept and self._late is None:
            self._late = asyncio.get_running_loop().call_later(LAZY_SECONDS, self._keep, self.unkept[0])
        if self._queue:
            self._send()

    def _keep(self, oldest: "asyncio.Future[bool]") -> None:
        """Bring to the disk what is still not there: a look at the oldest, not a timer for each."""
        self._late = None
        if self.unkept and self.unkept[0] is oldest:
            if asked := self._ask("SELECT", ()):
                asked.answer.add_done_callback(lambda answer: answer.cancelled() or answer.exception())
            else:
                self._lose()
        elif self.unkept:
            self.committed()

    def _lose(self) -> None:
        unkept, self.unkept = self.unkept, []
        tell(unkept, False)

    def broken(self, wire: Wire, error: BrokenError) -> None:
        """What waits goes over another connection, where there is one and the server says anything."""
        self._lose()  # the server may be another one from now on
        if isinstance(error, SilentError):
            for other in self._wires:
                other.give_up(error)
        if any(other.connected for other in self._wires):
            self._send()
            return
        waiting, self._queue = self._queue, deque()
        for asked in waiting:
            asked.fail(error)
