"""The tenant's runtime schema: a pool of connections that survives restarts of the server and new passwords."""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import psycopg
from psycopg import conninfo, errors
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from tenantry_runtime.config import Postgres
from tenantry_runtime.line import Line
from tenantry_runtime.wire import ON_DISK, BrokenError, SilentError

log = logging.getLogger(__name__)

Row = tuple[Any, ...]
Connection = psycopg.AsyncConnection[Row]

CONNECT_TIMEOUT = 3
"""Seconds to wait for a connection, new or from the pool: a request is refused soon, not late."""

STATEMENT_SECONDS = 20.0
"""Seconds after which a statement's connection is cut: a server whose host has gone says nothing, not even no."""
TRANSACTION_SECONDS = 120.0
"""The same of a transaction, which may hold a whole file."""

WRITERS = 3
"""Connections that write: one runs a batch, and two can wait for the disk."""

_AWAY = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    PoolTimeout,
    PoolClosed,
    TooManyRequests,
    # The schema was taken away, or is not ready yet: no fault of the request's.
    errors.UndefinedTable,
    errors.UndefinedFunction,
    errors.InvalidSchemaName,
    errors.InsufficientPrivilege,
)


class StoreUnavailableError(Exception):
    """The database can't be reached or used now."""


def connection_string(postgres: Postgres, schema: bool = True) -> str:
    """libpq's string for these credentials."""
    return conninfo.make_conninfo(
        "",
        host=postgres.host,
        port=postgres.port,
        dbname=postgres.database,
        user=postgres.user,
        password=postgres.password.get_secret_value(),
        sslmode=postgres.sslmode,
        connect_timeout=CONNECT_TIMEOUT,
        application_name="tenantry-runtime",
        keepalives_idle=30,
        keepalives_interval=5,
        keepalives_count=3,
        tcp_user_timeout=15_000,  # milliseconds: without it, what was sent is sent again for a quarter of an hour
        options=f"-c search_path={postgres.schema_name}" if schema else None,
    )


@contextlib.contextmanager
def _within(seconds: float, connection: Connection) -> Iterator[None]:
    """Cuts the connection when the time is over: whoever waits then hears that it has ended."""
    timer = asyncio.get_running_loop().call_later(seconds, _cut, connection)
    try:
        yield
    except _AWAY as error:
        if timer.when() <= asyncio.get_running_loop().time():
            raise StoreUnavailableError("no answer in time") from error
        raise
    finally:
        timer.cancel()


def _cut(connection: Connection) -> None:
    with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as own:
        own.shutdown(socket.SHUT_RDWR)


async def _heard(answer: "asyncio.Future[list[Row]]") -> list[Row]:
    try:
        return await answer
    except SilentError as error:
        raise StoreUnavailableError("no answer in time") from error


class Store:
    """Runs statements, each its own transaction unless `transaction` is used."""

    def __init__(self, postgres: Postgres, size: int) -> None:
        self._size = size
        self._postgres = postgres
        self._pool = self._make(postgres)
        self._lines = self._make_lines(postgres)
        self._closing: set[asyncio.Task[None]] = set()

    def _make(self, postgres: Postgres) -> AsyncConnectionPool[Connection]:
        return AsyncConnectionPool(
            connection_string(postgres),
            connection_class=Connection,
            kwargs={"autocommit": True, "prepare_threshold": 1},
            min_size=1,
            max_size=self._size,
            max_waiting=1000,
            timeout=CONNECT_TIMEOUT,
            reconnect_timeout=1,  # short, so that a server which is back is noticed soon
            open=False,
            name="requests",
        )

    @staticmethod
    def _make_lines(postgres: Postgres) -> tuple[Line, Line]:
        """One to read and one to write: who reads does not wait for a disk."""
        target = connection_string(postgres)
        return Line(target), Line(target, WRITERS, defers=True)

    @property
    def postgres(self) -> Postgres:
        """The credentials in use."""
        return self._postgres

    async def open(self) -> None:
        """Start connecting; does not wait for it."""
        await self._pool.open(wait=False)
        for line in self._lines:
            line.connect()

    async def close(self) -> None:
        for task in self._closing:
            task.cancel()
        for line in self._lines:
            line.close()
        await self._pool.close(timeout=2)

    async def replace(self, postgres: Postgres) -> None:
        """Use other credentials from now on; statements that run keep their connections until they end."""
        if postgres == self._postgres:
            return
        new = self._make(postgres)
        await new.open(wait=False)
        old, self._pool, self._postgres = self._pool, new, postgres
        lines, self._lines = self._lines, self._make_lines(postgres)
        for line in (*lines, *self._lines):
            line.close() if line in lines else line.connect()

        async def close_later() -> None:
            await asyncio.sleep(60)
            await old.close(timeout=5)

        task = asyncio.create_task(close_later())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def fetch(self, statement: str, values: Sequence[Any] = ()) -> list[Row]:
        """The rows of one statement (none for one without).  Tried a second time where the connection broke.

        So a statement must bear being run twice.  Raises StoreUnavailableError.
        """
        for attempt in (1, 2):
            try:
                async with self._pool.connection() as connection:
                    with _within(STATEMENT_SECONDS, connection):
                        cursor = await connection.execute(statement.encode(), values or None)
                        return await cursor.fetchall() if cursor.description else []
            except errors.QueryCanceled as error:
                raise StoreUnavailableError("a statement took too long") from error
            except _AWAY as error:
                if attempt == 2 or isinstance(error, PoolTimeout | PoolClosed | TooManyRequests):
                    raise StoreUnavailableError(type(error).__name__) from error
                with contextlib.suppress(Exception):
                    await asyncio.wait_for(self._pool.check(), CONNECT_TIMEOUT)
        raise AssertionError("unreachable")

    async def ask(self, statement: str, values: Sequence[Any] = ()) -> list[Row]:
        """As `fetch`, over the connection that requests share: for short ones that wait for no lock and no disk."""
        if answer := self._lines[0].ask(statement, values):
            with contextlib.suppress(BrokenError):
                return await _heard(answer)
        return await self.fetch(statement, values)

    async def write(self, statement: str, values: Sequence[Any] = ()) -> list[Row]:
        """As `fetch`, in one transaction with what other requests write at this moment: for short statements."""
        if answer := self._lines[1].ask(statement, values):
            with contextlib.suppress(BrokenError):
                return await _heard(answer)
        return await self.surely(statement, values)

    async def surely(self, statement: str, values: Sequence[Any] = ()) -> list[Row]:
        """As `fetch`, and on the disk afterwards even where it had been done before, and only now changes nothing."""
        rows = await self.fetch(statement, values)
        await self.fetch(ON_DISK)
        return rows

    async def begin(
        self, statement: str, values: Sequence[Any] = (), hurry: bool = True
    ) -> "tuple[list[Row], asyncio.Future[bool] | None]":
        """As `write`, but does not wait for the disk.  The future says whether the rows have reached it.

        It is False where nobody knows, raises nothing, and is None where they have.  `hurry`: see `Line.begin`.
        """
        if asked := self._lines[1].begin(statement, values, hurry):
            with contextlib.suppress(BrokenError):
                return await _heard(asked[0]), asked[1]
        return await self.fetch(statement, values), None

    async def one(self, statement: str, values: Sequence[Any] = ()) -> Row | None:
        """The first row, or None."""
        rows = await self.fetch(statement, values)
        return rows[0] if rows else None

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """One connection in one transaction.  Raises StoreUnavailableError."""
        try:
            async with self._pool.connection() as connection:
                with _within(TRANSACTION_SECONDS, connection):
                    async with connection.transaction():
                        yield connection
        except _AWAY as error:
            raise StoreUnavailableError(type(error).__name__) from error

    async def healthy(self, timeout: float = 2) -> bool:
        """Whether a statement is answered within `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self.fetch("SELECT 1")
        except (StoreUnavailableError, TimeoutError):
            return False
        return True
