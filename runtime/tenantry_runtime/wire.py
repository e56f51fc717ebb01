"""One connection to PostgreSQL in libpq's pipeline mode, for a `line.Line`: it runs one batch at a time.

A batch is one transaction.  A wire that `defers` the disk commits it without waiting for it, so that no lock is held
meanwhile, and sends a second, tiny transaction behind it at once: when that one has committed, durably, so has
all that was committed before it, since the server writes its log in order.
"""

import asyncio
import contextlib
import functools
import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import psycopg
from psycopg import abc, conninfo
from psycopg.adapt import Transformer
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn, PGresult

log = logging.getLogger(__name__)

Row = tuple[Any, ...]

PATIENCE = 10.0
"""Seconds for which a batch may run (and at most twice that), for locks too; then the connection is given up."""
RETRY = 1.0
"""Seconds between two attempts to connect."""
ON_DISK = "SELECT set_config('synchronous_commit', 'on', true), pg_logical_emit_message(true, 'tenantry', '')"
"""When this has committed, all that was committed before is on the disk.  It writes a few bytes that nobody reads:
a transaction that writes nothing waits for no disk."""


class BrokenError(Exception):
    """The batch was not done, or nobody knows whether it was."""


class SilentError(BrokenError):
    """The server has not answered for long: who asks again at once would wait as long again."""


@dataclass(eq=False, slots=True)
class Asked:
    """A statement.  With `kept`, its answer is given once it has committed, and `kept` says later whether that is on
    the disk, or False where nobody knows; `hurry`: as soon as can be, else when others wait for the disk next."""

    statement: str
    values: list[bytes | None]
    answer: "asyncio.Future[list[Row]]"
    kept: "asyncio.Future[bool] | None" = None
    hurry: bool = True

    def fail(self, error: BrokenError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)
        if self.kept and not self.kept.done():
            self.kept.set_result(False)


def tell(waiting: "list[asyncio.Future[bool]]", kept: bool) -> None:
    for future in waiting:
        if not future.done():
            future.set_result(kept)


class Owner(Protocol):
    """Whom a wire tells."""

    unkept: "list[asyncio.Future[bool]]"
    """Of what is committed, and for which nobody waits for the disk yet."""

    def committed(self) -> None:
        """The batch has ended: another may run."""

    def broken(self, wire: "Wire", error: BrokenError) -> None:
        """The connection was given up; its batch has been told."""


class Wire:
    """Made when first asked for, and made again after it broke."""

    def __init__(self, target: str, defers: bool, owner: Owner) -> None:
        """`target`: libpq's connection string."""
        if defers:
            options = conninfo.conninfo_to_dict(target).get("options", "")
            target = conninfo.make_conninfo(target, options=f"{options} -c synchronous_commit=off".strip())
        self._target, self._defers, self._owner = target, defers, owner
        self.running: list[Asked] = []  # not yet committed
        self._committed: list[tuple[Asked, list[Row]]] = []  # not yet on the disk
        self._older: list[asyncio.Future[bool]] = []  # what was committed before this batch began
        self._expected: list[Asked | None] = []  # whose results come next; None: nobody's
        self._results: list[tuple[Asked, PGresult]] = []
        self._names: dict[str, bytes] = {}
        self._pgconn: PGconn | None = None
        self._rows: abc.Transformer
        self._socket = -1
        self._connecting: asyncio.Task[None] | None = None
        self._next_try = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self._batches = self._watched = 0
        self._writing = False  # whether the second transaction of a batch is under way
        self._closing = False

    @property
    def connected(self) -> bool:
        return self._pgconn is not None

    @property
    def free(self) -> bool:
        return self._pgconn is not None and not self.running and not self._writing

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
            self._owner.committed()
        except (psycopg.Error, OSError) as error:
            log.info("a shared connection to the database can't be made: %s", type(error).__name__)
        finally:
            self._connecting = None

    def close(self) -> None:
        """End when the batch has been answered."""
        self._closing = True
        if not self.running and not self._writing:
            self.give_up(BrokenError("closed"))

    # --- A batch's way ---------------------------------------------------------------------------------------

    def send(self, batch: list[Asked]) -> None:
        """Run a batch; the wire must be free."""
        pgconn = self._pgconn
        assert pgconn
        self.running = batch
        self._batches += 1
        try:
            for asked in batch:
                self._query(pgconn, asked.statement, asked.values, asked)
            pgconn.pipeline_sync()
            if self._defers and any(asked.hurry for asked in batch):
                self._writing = True
                self._older, self._owner.unkept = self._owner.unkept, []
                self._query(pgconn, ON_DISK, [], None)
                pgconn.pipeline_sync()
            self._flush()
        except (psycopg.Error, OSError) as error:
            self.give_up(BrokenError(type(error).__name__))
            return
        if self._watch is None:
            self._watched = self._batches
            self._watch = asyncio.get_running_loop().call_later(PATIENCE, self._look)

    def _query(self, pgconn: PGconn, statement: str, values: list[bytes | None], asked: Asked | None) -> None:
        name = self._names.get(statement)
        if name is None:
            name = self._names[statement] = b"line_%d" % len(self._names)
            pgconn.send_prepare(name, numbered(statement))
            self._expected.append(None)
        pgconn.send_query_prepared(name, values)
        self._expected.append(asked)

    def _look(self) -> None:
        """Give up a batch that still runs after `PATIENCE`: one timer at a time, not one a batch."""
        self._watch = None
        if not self.running and not self._writing:
            return
        if self._watched == self._batches:
            self.give_up(SilentError("too slow"))
        else:
            self._watched = self._batches
            self._watch = asyncio.get_running_loop().call_later(PATIENCE, self._look)

    def _flush(self) -> None:
        """Send what libpq holds; the rest when the socket takes more."""
        assert self._pgconn
        if self._pgconn.flush():
            asyncio.get_running_loop().add_writer(self._socket, self._writable)

    def _writable(self) -> None:
        assert self._pgconn
        try:
            if not self._pgconn.flush():
                asyncio.get_running_loop().remove_writer(self._socket)
        except (psycopg.Error, OSError) as error:
            self.give_up(BrokenError(type(error).__name__))

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
                self._take(result)
                if self._pgconn is not pgconn:  # given up
                    return
        except (psycopg.Error, OSError) as error:
            self.give_up(BrokenError(type(error).__name__))

    def _take(self, result: PGresult) -> None:
        status = result.status
        if status == ExecStatus.PIPELINE_SYNC:
            if self.running:
                self._commit()
            else:
                self._writing = False
                committed, self._committed = self._committed, []
                self._keep(committed)
            if self._closing and not self._writing:
                self.give_up(BrokenError("closed"))
            else:
                self._owner.committed()
            return
        if status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK) or not self._expected:
            error = psycopg.errors.error_from_result(result)
            self.give_up(BrokenError(f"{type(error).__name__} ({error.sqlstate})"))
            return
        asked = self._expected.pop(0)
        if asked is not None:
            self._results.append((asked, result))

    def _commit(self) -> None:
        results, self._results, self.running = self._results, [], []
        for asked, result in results:
            self._rows.set_pgresult(result)
            rows = self._rows.load_rows(0, result.ntuples, tuple) if result.nfields else []
            if asked.kept and not asked.answer.done():
                asked.answer.set_result(rows)
            self._committed.append((asked, rows))
        if not self._writing:
            committed, self._committed = self._committed, []
            if self._defers:
                self._owner.unkept += [asked.kept for asked, _ in committed if asked.kept]
            else:
                self._keep(committed)

    def _keep(self, committed: list[tuple[Asked, list[Row]]]) -> None:
        for asked, rows in committed:
            if asked.kept:
                self._older.append(asked.kept)
            elif not asked.answer.done():
                asked.answer.set_result(rows)
        older, self._older = self._older, []
        tell(older, True)

    def give_up(self, error: BrokenError) -> None:
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
                log.info("a shared connection to the database is given up: %s", error)
        waiting = [*self.running, *(asked for asked, _ in self._committed)]
        self.running, self._committed, self._expected, self._results = [], [], [], []
        self._writing = False
        older, self._older = self._older, []
        tell(older, False)
        for asked in waiting:
            asked.fail(error)
        if pgconn is not None:
            self._owner.broken(self, error)


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
TEXTS: dict[type, Callable[[Any], bytes | None]] = {
    type(None): lambda value: None,
    str: _text,
    bool: lambda value: b"t" if value else b"f",
    int: lambda value: b"%d" % value,
    float: lambda value: repr(value).encode(),
    bytes: lambda value: b"\\x" + value.hex().encode(),
    uuid.UUID: lambda value: str(value).encode(),
    datetime: lambda value: value.isoformat().encode(),
}
