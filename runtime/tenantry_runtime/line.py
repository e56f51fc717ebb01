"""One connection to PostgreSQL that many requests share, for the few short statements that every request runs.

A statement over a pool costs this process two thirds of a millisecond, most of it for taking a connection, waiting
for its socket and giving it back; and each commits, and waits for the disk, by itself.  Here what is asked while a
batch runs is the next batch: it goes out at once, in libpq's pipeline mode, and is one transaction, so that the calls
of a busy replica share a commit and one turn at the meter's lock.  A lone statement waits for nothing.

A batch is done or not done as a whole.  Where one of its statements fails, or the connection breaks, each is told so
by `BrokenError`, and may then be run by itself (not after a `SilentError`).
"""

import asyncio
import contextlib
import functools
import logging
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import abc
from psycopg.adapt import Transformer
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn, PGresult

log = logging.getLogger(__name__)

Row = tuple[Any, ...]

BATCH = 32
"""Statements that are one transaction at most: others wait for its locks."""
MOST_WAITING = 1000
"""Statements that wait for their batch; more are refused, and meet the pool's bounds."""
PATIENCE = 10.0
"""Seconds for which a batch may run (and at most twice that), for locks too; then the connection is given up."""
RETRY = 1.0
"""Seconds between two attempts to connect."""


class BrokenError(Exception):
    """The batch was not done, or nobody knows whether it was."""


class SilentError(BrokenError):
    """The server has not answered for long: who asks again at once would wait as long again."""


@dataclass(eq=False, slots=True)
class _Asked:
    statement: str
    values: list[bytes | None]
    answer: "asyncio.Future[list[Row]]"


class Line:
    """A connection of its own, made when it is first asked for, and made again after it broke."""

    def __init__(self, target: str) -> None:
        """`target`: libpq's connection string."""
        self._target = target
        self._queue: deque[_Asked] = deque()
        self._flying: list[_Asked] = []
        self._expected: list[_Asked | None] = []  # whose results come next; None: a preparation's
        self._results: list[tuple[_Asked, PGresult]] = []
        self._names: dict[str, bytes] = {}
        self._pgconn: PGconn | None = None
        self._rows: abc.Transformer
        self._socket = -1
        self._connecting: asyncio.Task[None] | None = None
        self._next_try = 0.0
        self._due = False  # whether `_send` is about to run
        self._watch: asyncio.TimerHandle | None = None
        self._closing = False

    # --- Asking ----------------------------------------------------------------------------------------------

    def ask(self, statement: str, values: Sequence[Any]) -> "asyncio.Future[list[Row]] | None":
        """The rows to come; None where there is no connection now, or too many wait.

        `statement` has ``%s`` for each value.  The future raises BrokenError.
        """
        if self._pgconn is None:
            self.connect()
            return None
        if self._closing or len(self._queue) >= MOST_WAITING:
            return None
        loop = asyncio.get_running_loop()
        asked = _Asked(statement, [_TEXTS[type(value)](value) for value in values], loop.create_future())
        self._queue.append(asked)
        if not self._flying and not self._due:
            self._due = True
            loop.call_soon(self._send)
        return asked.answer

    def connect(self) -> None:
        """Begin to connect, unless that is under way or failed a moment ago."""
        loop = asyncio.get_running_loop()
        if self._connecting is None and not self._closing and self._pgconn is None and loop.time() >= self._next_try:
            self._next_try = loop.time() + RETRY
            self._connecting = asyncio.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            connection = await psycopg.AsyncConnection.connect(self._target, autocommit=True)
            if self._closing:
                await connection.close()
                return
            pgconn = connection.pgconn
            pgconn.nonblocking = 1
            pgconn.enter_pipeline_mode()
            self._names.clear()
            self._rows = Transformer.from_context(connection)
            self._pgconn, self._socket = pgconn, pgconn.socket
            asyncio.get_running_loop().add_reader(self._socket, self._readable)
        except (psycopg.Error, OSError) as error:
            log.info("a shared connection to the database can't be made: %s", type(error).__name__)
        finally:
            self._connecting = None

    def close(self) -> None:
        """End when what was asked has been answered."""
        self._closing = True
        if not self._flying and not self._queue:
            self._break("closed")

    # --- A batch's way ---------------------------------------------------------------------------------------

    def _send(self) -> None:
        self._due = False
        pgconn, queue = self._pgconn, self._queue
        if pgconn is None or self._flying:
            return
        while queue and len(self._flying) < BATCH:
            asked = queue.popleft()
            if not asked.answer.done():  # else its request was cancelled
                self._flying.append(asked)
        if not self._flying:
            if self._closing:
                self._break("closed")
            return
        try:
            for asked in self._flying:
                name = self._names.get(asked.statement)
                if name is None:
                    name = self._names[asked.statement] = b"line_%d" % len(self._names)
                    pgconn.send_prepare(name, numbered(asked.statement))
                    self._expected.append(None)
                pgconn.send_query_prepared(name, asked.values)
                self._expected.append(asked)
            pgconn.pipeline_sync()
            self._flush()
        except (psycopg.Error, OSError) as error:
            self._break(type(error).__name__)
            return
        if self._watch is None:
            self._watch = asyncio.get_running_loop().call_later(PATIENCE, self._look, self._flying)

    def _look(self, batch: list[_Asked]) -> None:
        """Give up a batch that still runs after `PATIENCE`: one timer at a time, not one a batch."""
        self._watch = None
        if not self._flying:
            return
        if batch is self._flying:
            self._break("too slow", SilentError)
        else:
            self._watch = asyncio.get_running_loop().call_later(PATIENCE, self._look, self._flying)

    def _flush(self) -> None:
        """Send what libpq holds; the rest when the socket takes more."""
        assert self._pgconn
        loop = asyncio.get_running_loop()
        if self._pgconn.flush():
            loop.add_writer(self._socket, self._writable)

    def _writable(self) -> None:
        assert self._pgconn
        try:
            if not self._pgconn.flush():
                asyncio.get_running_loop().remove_writer(self._socket)
        except (psycopg.Error, OSError) as error:
            self._break(type(error).__name__)

    def _readable(self) -> None:
        pgconn = self._pgconn
        assert pgconn
        try:
            pgconn.consume_input()
            nothing = 0
            while nothing < 2 and not pgconn.is_busy():
                result = pgconn.get_result()
                if result is None:  # after each statement's; twice: nothing more has come
                    nothing += 1
                    continue
                nothing = 0
                if not self._take(result):
                    return
        except (psycopg.Error, OSError) as error:
            self._break(type(error).__name__)

    def _take(self, result: PGresult) -> bool:
        """One result; False where the connection was given up."""
        status = result.status
        if status == ExecStatus.PIPELINE_SYNC:  # committed
            self._landed()
            return True
        if status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK) or not self._expected:
            message = psycopg.errors.error_from_result(result)
            self._break(f"{type(message).__name__} ({message.sqlstate})")
            return False
        asked = self._expected.pop(0)
        if asked is not None:
            self._results.append((asked, result))
        return True

    def _landed(self) -> None:
        results, self._results, self._flying = self._results, [], []
        for asked, result in results:
            if asked.answer.done():
                continue
            self._rows.set_pgresult(result)
            rows = self._rows.load_rows(0, result.ntuples, tuple) if result.nfields else []
            asked.answer.set_result(rows)
        if self._queue or self._closing:
            self._send()

    def _break(self, why: str, error: type[BrokenError] = BrokenError) -> None:
        """Give the connection up; who asked may ask elsewhere."""
        pgconn, self._pgconn = self._pgconn, None
        if self._watch:
            self._watch.cancel()
            self._watch = None
        if pgconn is not None:
            loop = asyncio.get_running_loop()
            with contextlib.suppress(Exception):
                loop.remove_reader(self._socket)
                loop.remove_writer(self._socket)
            pgconn.finish()
            if not self._closing:
                log.info("a shared connection to the database is given up: %s", why)
        waiting = [*self._flying, *self._queue]
        self._flying, self._expected, self._results = [], [], []
        self._queue.clear()
        for asked in waiting:
            if not asked.answer.done():
                asked.answer.set_exception(error(why))


@functools.cache
def numbered(statement: str) -> bytes:
    """With $1, $2, ... for each ``%s``, as the server itself counts them."""
    first, *rest = statement.split("%s")
    assert "%" not in "".join((first, *rest))
    return (first + "".join(f"${number}{part}" for number, part in enumerate(rest, 1))).encode()


def _text(value: str) -> bytes:
    data = value.encode()
    if b"\0" in data:
        raise psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
    return data


# As PostgreSQL's text, without a type: the server knows it from the statement, and one preparation fits all values.
_TEXTS: dict[type, Callable[[Any], bytes | None]] = {
    type(None): lambda value: None,
    str: _text,
    bool: lambda value: b"t" if value else b"f",
    int: lambda value: b"%d" % value,
    float: lambda value: repr(value).encode(),
    bytes: lambda value: b"\\x" + value.hex().encode(),
    uuid.UUID: lambda value: str(value).encode(),
    datetime: lambda value: value.isoformat().encode(),
}
