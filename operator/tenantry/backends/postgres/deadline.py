"""Calls to a server that end in time, also when it does not answer."""

import asyncio
import contextlib
import os
import select
import socket
from collections.abc import Coroutine
from typing import Any, TypeVar

import psycopg
from psycopg.rows import TupleRow

from tenantry.backends.postgres import errors

Connection = psycopg.AsyncConnection[TupleRow]
Result = TypeVar("Result")


async def in_time(work: Coroutine[Any, Any, Result], seconds: float, *connections: Connection) -> Result:
    """Ends in time even when the server does not: then the connections are cut.

    Cancelling psycopg's own call would ask the server to cancel and wait for its answer.
    """
    task = asyncio.create_task(work)

    def cut() -> None:
        for connection in connections:
            _cut(connection)

    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
    except asyncio.CancelledError:
        cut()
        await asyncio.wait({task})
        task.exception()
        raise
    if not done:
        cut()
        await asyncio.wait({task})
        task.exception()
        raise errors.slow(seconds)
    return task.result()


def _cut(connection: Connection) -> None:
    """The waiting call then sees the end of the connection."""
    with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as own:
        own.shutdown(socket.SHUT_RDWR)


def has_news(connection: Connection) -> bool:
    """An idle connection has something to read only when the server has ended it."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))
