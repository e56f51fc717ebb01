"""Files that hold more than text (PDF, HTML) are read once, beside the worker, and their text is kept with them.

The text lies in `file_parts` with the numbers -1, -2, ..., written in one transaction: where it is, it is whole.
A file is read once for all the stores that it is in, whichever replica does it.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import IO

from tenantry_runtime import documents, extract
from tenantry_runtime.store import Store, StoreUnavailableError

log = logging.getLogger(__name__)

READINGS = 5
"""So often a file's reading is begun: one that ended the whole process each time is not tried for ever."""
_INTERRUPTED = "The file could not be read in several attempts: save it anew, or split it."

_WAITS = "vector_store_files SET {} WHERE file_id = %s AND unread AND status = 'in_progress'"
_RENEW = "UPDATE " + _WAITS.format("retry_at = clock_timestamp() + make_interval(secs => %s)") + " RETURNING id"
_LATER = "UPDATE " + _WAITS.format("retry_at = clock_timestamp() + make_interval(secs => %s)")
_FAIL = "UPDATE " + _WAITS.format("status = 'failed', error_code = 'invalid_file', error_message = %s")
_READ = "UPDATE " + _WAITS.format("unread = false, text_bytes = %s, attempts = 0, retry_at = clock_timestamp()")
_HELD = "SELECT sum(length(data)) FROM file_parts WHERE file_id = %s AND part < 0"


class DeletedError(Exception):
    """What was worked on was deleted, or cancelled, in the meantime."""


async def parts(store: Store, file_id: str, text: bool = False) -> AsyncIterator[bytes]:
    """A file's bytes, or the text that was read from it, in parts of at most 1 MiB."""
    number = -1 if text else 0
    while row := await store.one("SELECT data FROM file_parts WHERE file_id = %s AND part = %s", (file_id, number)):
        yield bytes(row[0])
        number += -1 if text else 1


class Reading:
    """At most one file at a time: `busy` while there is one.  `done` is called at the end of each."""

    def __init__(self, done: Callable[[], None], lease_seconds: float) -> None:
        self._done = done
        self._lease_seconds = lease_seconds
        self._task: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        return self._task is not None

    def begin(self, store: Store, file_id: str, kind: extract.Kind, attempts: int) -> None:
        """Read this file, whose rows the caller has leased; returns at once."""
        self._task = asyncio.create_task(self._run(store, file_id, kind, attempts))

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, store: Store, file_id: str, kind: extract.Kind, attempts: int) -> None:
        try:
            await self._read(store, file_id, kind, attempts)
        except (DeletedError, StoreUnavailableError):
            pass  # of a store that was away the lease runs out, and the file is read again
        except OSError as error:
            log.warning("a file waits to be read: %s", error.strerror)
            with contextlib.suppress(StoreUnavailableError):
                await store.fetch(_LATER, (60, file_id))
        except Exception:
            log.exception("a file's reading failed in a way it must not; it is tried again")
        finally:
            self._task = None
            self._done()

    async def _read(self, store: Store, file_id: str, kind: extract.Kind, attempts: int) -> None:
        if (row := await store.one(_HELD, (file_id,))) and row[0]:  # it was read for another store
            await store.fetch(_READ, (row[0], file_id))
            return
        if attempts > READINGS:
            await store.fetch(_FAIL, (_INTERRUPTED, file_id))
            return

        async def goes_on() -> None:
            if not await store.fetch(_RENEW, (self._lease_seconds, file_id)):
                raise DeletedError

        try:
            async with extract.text_of(kind, parts(store, file_id), goes_on) as text:
                await _keep(store, file_id, text)
        except extract.UnreadableError as error:
            await store.fetch(_FAIL, (str(error), file_id))


async def _keep(store: Store, file_id: str, text: IO[bytes]) -> None:
    """Write the text, unless another replica has, and let the rows that waited for it go on."""
    async with store.transaction() as connection:
        # Not FOR UPDATE, which would hold up those who put the file into a store.
        file = await connection.execute("SELECT 1 FROM files WHERE id = %s FOR NO KEY UPDATE", (file_id,))
        if await file.fetchone() is None:
            raise DeletedError
        held = await (await connection.execute(_HELD.encode(), (file_id,))).fetchone()
        size = int(held[0]) if held and held[0] else 0
        if not size:
            number = 0
            while data := await asyncio.to_thread(text.read, documents.PART):
                number -= 1
                await connection.execute("INSERT INTO file_parts VALUES (%s, %s, %s)", (file_id, number, data))
                size += len(data)
        await connection.execute(_READ.encode(), (size, file_id))
