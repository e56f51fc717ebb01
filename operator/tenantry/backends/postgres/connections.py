"""A few connections to one PostgreSQL, each statement with a limit of time.

Not psycopg_pool: it connects in the background, so that who waits learns only that there is no connection, not
that a password is wrong; and after a restart of the server it hands out dead connections or asks each first.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import psycopg
from psycopg import pq, sql
from psycopg.rows import TupleRow

from tenantry.api.conditions import Reason
from tenantry.backends.errors import BackendError
from tenantry.backends.fence import MESSAGE, Fence
from tenantry.backends.postgres import errors
from tenantry.backends.postgres.deadline import Connection, has_news, in_time
from tenantry.desired.postgres.statements import Correction, Statement, joined

CONNECT_SECONDS = 5
READ_SECONDS = 8.0
"""For what should take milliseconds; so that a dead or slow server is noticed within 10 s."""
STATEMENT_SECONDS = 30.0
LOCK_SECONDS = 5
POOL_SIZE = 16
"""At once: as many as the operator works on tenants, so that a server that is gone is noticed by all in time."""
PAIRS = 2
"""At most so many tasks hold two at once."""
KEPT = 4
"""Idle ones, however long."""
IDLE_SECONDS = 30.0
"""How long more than KEPT are kept: a new one costs the server about 10 ms of CPU, for it knows no catalog yet.

A burst leaves 16, each with the memory of its largest statement here, and some 80 MB of catalogs there.
"""
PLACE_SECONDS = 30.0
"""For a place among POOL_SIZE; nothing is wrong with the server when all are in use."""


@dataclass(frozen=True)
class Admin:
    """Who the operator is at one region's PostgreSQL, and the application database."""

    host: str
    port: int
    database: str
    user: str
    password: str = field(repr=False)
    sslmode: Literal["disable", "prefer", "require", "verify-full"] = "prefer"


_UNREADABLE = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.InsufficientPrivilege,
)


class Unreadable(BackendError):
    """What a statement names is not there, or not for the admin."""

    @classmethod
    def of(cls, error: BackendError) -> "Unreadable":
        return cls(error.reason, error.message)


class Session:
    """One connection in one task; every failure is a `BackendError`."""

    def __init__(self, connection: Connection, fence: Fence | None = None) -> None:
        self._connection = connection
        self._fence = fence or Fence()
        self._warnings: list[str] = []
        self.keep = True
        """False: the connection is closed afterwards, and nobody has it again."""
        connection.add_notice_handler(self._notice)

    def _notice(self, notice: psycopg.errors.Diagnostic) -> None:
        if (notice.severity_nonlocalized or notice.severity) == "WARNING":
            self._warnings.append(notice.message_primary or "no reason given")

    async def run(
        self,
        statement: Statement,
        values: Any = None,
        *,
        what: str = "a query",
        seconds: float = STATEMENT_SECONDS,
        strict: bool = True,
    ) -> list[TupleRow]:
        """The rows of the statement, of which `what` says what it is for; `strict`: a warning is an error.

        Of several in one text, which PostgreSQL runs as one transaction: those of the last that has any.
        """
        self._warnings.clear()
        if self._fence.shuts_out:
            raise BackendError(Reason.RETRYING, MESSAGE)
        try:
            cursor = await _execute(self._connection, statement, values, seconds)
            rows = await cursor.fetchall() if cursor.description else []
            while cursor.nextset():
                if cursor.description:
                    rows = await cursor.fetchall()
        except _UNREADABLE as error:
            raise Unreadable.of(errors.running(error, what)) from None
        except psycopg.Error as error:
            raise errors.running(error, what) from None
        if strict and self._warnings:
            raise errors.warned(what, self._warnings[0])
        return rows

    async def pour(self, query: Statement, into: "Session", target: Statement, *, what: str) -> None:
        """The rows of one COPY TO STDOUT here into a COPY FROM STDIN there, one at a time."""
        if self._fence.shuts_out:
            raise BackendError(Reason.RETRYING, MESSAGE)

        async def copy() -> None:
            reader, writer = self._connection.cursor(), into._connection.cursor()
            async with writer.copy(target) as sink, reader.copy(query) as rows:
                async for data in rows:
                    await sink.write(data)

        try:
            await in_time(copy(), STATEMENT_SECONDS, self._connection, into._connection)
        except psycopg.Error as error:
            raise errors.running(error, what) from None

    async def correct(self, correction: Correction) -> None:
        """All its statements in one round trip."""
        await self.run(joined(correction.statements), what=correction.what)

    async def transact(self, corrections: Iterable[Correction], maker: str | None = None) -> None:
        """All of them, or none; `maker`: in this role's name, but for what only the admin may do.

        In one round trip and the commit; where PostgreSQL refuses it, one after another, to say which it was.
        """
        parts = [(joined(_as(maker, one)), one.what) for one in corrections]
        if not parts:
            return
        named = " and ".join(what for _, what in parts[:3]) + (" and others" if len(parts) > 3 else "")
        try:
            await self._transaction([(joined(text for text, _ in parts), named)])
        except BackendError as error:
            if len(parts) == 1 or error.reason is not Reason.DATABASE_REFUSED or not self.idle:
                raise
            await self._transaction(parts)

    async def _transaction(self, parts: Sequence[tuple[Statement, str]]) -> None:
        """Texts, and what each is for."""
        begin: tuple[Statement, ...] = (sql.SQL("BEGIN"),)
        try:
            for text, what in parts:
                await self.run(joined((*begin, text)), what=what)
                begin = ()
            await self.run(sql.SQL("COMMIT"))
        except BaseException:
            # A connection that can't roll back is closed by `use`, which does the same.
            if self.usable:
                with contextlib.suppress(BackendError):
                    await self.run(sql.SQL("ROLLBACK"))
            raise

    @property
    def usable(self) -> bool:
        return not self._connection.closed and not self._connection.broken

    @property
    def idle(self) -> bool:
        """Whether another task may have the connection."""
        return self.usable and self._connection.info.transaction_status == pq.TransactionStatus.IDLE

    def detach(self) -> Connection:
        self._connection.remove_notice_handler(self._notice)
        return self._connection


class Connections:
    """At most POOL_SIZE at once; those to the application database are kept and used again."""

    def __init__(
        self,
        admin: Admin,
        connection_class: type[Connection] = psycopg.AsyncConnection,
        fence: Fence | None = None,
    ) -> None:
        self.admin = admin
        self._fence = fence
        self._class = connection_class
        self._places = asyncio.Semaphore(POOL_SIZE)
        self.pairs = asyncio.Semaphore(PAIRS)
        """Held by who needs two sessions, before the first: so that they never hold all places and wait for more."""
        self._idle: list[tuple[Connection, float]] = []
        """The one used last is the last; and since when (monotonic) each is idle."""
        self._trimming: asyncio.TimerHandle | None = None

    @contextlib.asynccontextmanager
    async def use(self, database: str | None = None) -> AsyncIterator[Session]:
        """A session of the admin's in `database`, else in the application database.

        A task that holds one must not ask for a second without `pairs`: that could wait for itself.
        """
        try:
            async with asyncio.timeout(PLACE_SECONDS):
                await self._places.acquire()
        except TimeoutError:
            raise errors.slow(PLACE_SECONDS) from None
        try:
            ours = database in (None, self.admin.database)
            connection = (self._take() if ours else None) or await self._open(database or self.admin.database)
            session = Session(connection, self._fence)
            try:
                yield session
            finally:
                session.detach()
                if ours and session.keep and session.idle:
                    self._idle.append((connection, time.monotonic()))
                    self._trim()
                else:
                    await connection.close()
        finally:
            self._places.release()

    def _take(self) -> Connection | None:
        while self._idle:
            connection, _ = self._idle.pop()
            if not connection.closed and not has_news(connection):
                return connection
            connection.pgconn.finish()
        return None

    def _trim(self) -> None:
        """Closes those that a burst of work has left: now those idle for long, and the others when it is time."""
        if self._trimming:
            self._trimming.cancel()
            self._trimming = None
        now = time.monotonic()
        while len(self._idle) > KEPT and now - self._idle[0][1] >= IDLE_SECONDS:
            self._idle.pop(0)[0].pgconn.finish()
        if len(self._idle) > KEPT:
            wait = self._idle[0][1] + IDLE_SECONDS - now
            self._trimming = asyncio.get_running_loop().call_later(wait, self._trim)

    async def _open(self, database: str) -> Connection:
        settings = {
            "search_path": "pg_catalog",
            "statement_timeout": f"{STATEMENT_SECONDS:.0f}s",
            "lock_timeout": f"{LOCK_SECONDS}s",
            "idle_in_transaction_session_timeout": "60s",
        }
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        return await self._connect(self._class, database, self.admin.user, self.admin.password, options)

    async def accepts(self, user: str, password: str, database: str) -> bool:
        """False only where the server refuses this very password; other failures say nothing of it."""
        try:
            connection = await self._connect(psycopg.AsyncConnection, database, user, password)
        except BackendError as error:
            return error.reason is not Reason.CREDENTIALS_MISSING
        await connection.close()
        return True

    async def _connect(
        self, kind: type[Connection], database: str, user: str, password: str, options: str = ""
    ) -> Connection:
        admin = self.admin
        try:
            async with asyncio.timeout(READ_SECONDS):  # also for names that resolve slowly
                return await kind.connect(
                    host=admin.host,
                    port=admin.port,
                    dbname=database,
                    user=user,
                    password=password,
                    sslmode=admin.sslmode,
                    connect_timeout=CONNECT_SECONDS,
                    tcp_user_timeout=int(READ_SECONDS * 1000),
                    keepalives_idle=30,
                    application_name="tenantry",
                    autocommit=True,
                    prepare_threshold=None,
                    options=options,
                    # What the machine trusts, or SSL_CERT_FILE.
                    sslrootcert="system" if admin.sslmode == "verify-full" else None,
                )
        except TimeoutError:
            raise errors.slow(READ_SECONDS) from None
        except psycopg.Error as error:
            raise errors.connecting(error) from None

    async def close(self) -> None:
        while self._idle:
            await self._idle.pop()[0].close()
        self._trim()  # nothing is left to wait for


def _as(maker: str | None, correction: Correction) -> Iterable[Statement]:
    if maker is None:
        return correction.statements
    become = sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(maker))
    return (sql.SQL("RESET ROLE") if correction.admin else become, *correction.statements)


async def _execute(
    connection: Connection, statement: Statement, values: Any, seconds: float
) -> psycopg.AsyncCursor[TupleRow]:
    return await in_time(connection.execute(statement, values), seconds, connection)
