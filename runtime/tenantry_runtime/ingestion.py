"""The worker that puts files into the vectors, and takes them out again.

Work is rows of ``vector_store_files``; any replica takes what is due.  Whoever works on a row moves its
`retry_at` ahead, as a lease: where a process dies, another goes on from the chunks that were written.  A file
can be found only when all of it is written, and no more from the moment it is deleted.
"""

import asyncio
import codecs
import logging
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tenantry_runtime import documents, errors, extract, limits, tokens
from tenantry_runtime.audit import Event
from tenantry_runtime.chunking import Chunker
from tenantry_runtime.config import Configuration
from tenantry_runtime.keys import Caller
from tenantry_runtime.provider import NotSentError
from tenantry_runtime.reading import DeletedError, Reading, parts
from tenantry_runtime.reservation import Need, Usage
from tenantry_runtime.retrieval import chunk_id
from tenantry_runtime.store import StoreUnavailableError
from tenantry_runtime.tokenizer import Unsaid
from tenantry_runtime.vectors import Chunk, VectorsUnavailableError

if TYPE_CHECKING:
    from tenantry_runtime.service import Service

log = logging.getLogger(__name__)

LEASE_SECONDS = 180
"""How long a row is left alone after its worker was last heard of: longer than one batch takes."""
BATCH = 32
"""Chunks that are embedded with one call, where the minute's tokens allow."""
_ATTEMPTS = 20

_TAKE = f"""
UPDATE vector_store_files SET retry_at = clock_timestamp() + interval '{LEASE_SECONDS} seconds',
       attempts = attempts + 1
WHERE id = (
    SELECT id FROM vector_store_files
    WHERE status IN ('in_progress', 'deleting') AND retry_at <= clock_timestamp()
          AND (%s OR NOT unread OR status = 'deleting')
    ORDER BY retry_at LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING id, store_id, file_id, status, chunks, attempts, unread, key_uid, key_name, user_name,
          (SELECT filename FROM files WHERE files.id = vector_store_files.file_id)
"""  # noqa: S608 - constants of ours
_ADVANCE = f"""
UPDATE vector_store_files SET chunks = %s, usage_bytes = usage_bytes + %s, attempts = 0,
       retry_at = clock_timestamp() + interval '{LEASE_SECONDS} seconds'
WHERE id = %s AND status = 'in_progress' RETURNING id
"""  # noqa: S608
_COMPLETE = f"""
WITH done AS (
    UPDATE vector_store_files SET status = 'completed' WHERE id = %s AND status = 'in_progress' RETURNING id
)
{documents.CHANGED} WHERE EXISTS (SELECT 1 FROM done) RETURNING id
"""  # noqa: S608
_FAIL = """
UPDATE vector_store_files SET status = 'failed', error_code = %s, error_message = %s
WHERE id = %s AND status = 'in_progress'
"""
_LATER = "UPDATE vector_store_files SET retry_at = clock_timestamp() + make_interval(secs => %s) WHERE id = %s"
# The operator asks Milvus for the space: that right is for a whole database, so this service's login has it not.
_GONE = """
WITH gone AS (DELETE FROM vector_store_files WHERE id = %s AND status = 'deleting' RETURNING id)
UPDATE documents_state SET removed_at = clock_timestamp() WHERE EXISTS (SELECT 1 FROM gone)
"""


@dataclass(frozen=True)
class Work:
    id: uuid.UUID
    store_id: str
    file_id: str
    status: str
    chunks: int
    attempts: int
    filename: str | None
    """None: the file is gone."""
    caller: Caller


class _WaitError(Exception):
    """The row must wait for so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"{seconds:g} s")
        self.seconds = seconds


class Ingestion:
    """One worker a process: it works on one row at a time, so that documents never crowd out questions."""

    def __init__(self, service: "Service") -> None:
        self._service = service
        self._wake = asyncio.Event()
        self._reading = Reading(self.wake, LEASE_SECONDS)

    def wake(self) -> None:
        """There is work: look now."""
        self._wake.set()

    async def run(self, every: float = 2) -> None:
        """Work until cancelled."""
        try:
            while True:
                self._wake.clear()
                try:
                    while await self._next():
                        pass
                except StoreUnavailableError:
                    await asyncio.sleep(1)
                except Exception:
                    log.exception("an ingestion failed in a way it must not; it is tried again")
                    await asyncio.sleep(1)
                with suppress(TimeoutError):
                    async with asyncio.timeout(every):
                        await self._wake.wait()
        finally:
            await self._reading.stop()

    async def _next(self) -> bool:
        configuration = self._service.live.current
        if configuration is None or configuration.suspended:
            return False
        row = await self._service.store.one(_TAKE, (not self._reading.busy,))
        if row is None:
            return False
        identity, store_id, file_id, status, written, attempts, unread, key_uid, key_name, user, filename = row
        caller = Caller(key_uid, key_name, user, frozenset())
        work = Work(identity, store_id, file_id, status, written, attempts, filename, caller)
        try:
            if status == "deleting":
                await self._remove(work)
            elif unread and filename and (kind := extract.kind_of(filename)):
                self._reading.begin(self._service.store, file_id, kind, attempts)
            else:
                await self._ingest(work, configuration)
        except _WaitError as wait:
            await self._service.store.fetch(_LATER, (wait.seconds, work.id))
        except DeletedError:
            await self._service.store.fetch(_LATER, (0, work.id))
        except VectorsUnavailableError:
            await self._service.store.fetch(_LATER, (min(60, 2**work.attempts), work.id))
        return True

    async def _remove(self, work: Work) -> None:
        # One batch more than was written down: its worker may have died between writing and saying so.
        for start in range(0, work.chunks + BATCH, 1000):
            numbers = range(start, min(start + 1000, work.chunks + BATCH))
            await self._service.vectors.delete([chunk_id(work.id.hex, number) for number in numbers])
        await self._service.store.fetch(_GONE, (work.id,))

    async def _ingest(self, work: Work, configuration: Configuration) -> None:
        done = work.chunks
        batch: list[str] = []
        number = 0
        try:
            async for text in self._chunks(work):
                number += 1
                if number <= done:
                    continue
                batch.append(text)
                if len(batch) == BATCH:
                    done = await self._write(work, configuration, done, batch)
                    batch = []
            if batch:
                await self._write(work, configuration, done, batch)
        except UnicodeDecodeError:
            await self._service.store.fetch(_FAIL, ("invalid_file", "The file is no UTF-8 text.", work.id))
            return
        except errors.ApiError as error:
            await self._refused(work, error)
            return
        if not number:  # as of a PDF or an HTML file without text
            await self._service.store.fetch(_FAIL, ("invalid_file", "The file holds no text.", work.id))
            return
        await self._service.store.fetch(_COMPLETE, (work.id,))

    async def _refused(self, work: Work, error: errors.ApiError) -> None:
        """Wait where waiting helps: a limit of the minute or the day, a provider that is away."""
        wait = error.extra.get("retryAfter")
        if error.code == "rate_limit_exceeded" and isinstance(wait, int | float):
            raise _WaitError(wait)
        if error.status >= 500 and work.attempts < _ATTEMPTS:
            raise _WaitError(min(60, 2**work.attempts))
        code = "rate_limit_exceeded" if error.status == 429 else "server_error"
        await self._service.store.fetch(_FAIL, (code, error.message, work.id))

    async def _chunks(self, work: Work) -> AsyncIterator[str]:
        """The file's chunks, always the same ones in the same order."""
        decoder, chunker = codecs.getincrementaldecoder("utf-8-sig")(), Chunker()
        was_read = extract.kind_of(work.filename or "") is not None
        async for data in parts(self._service.store, work.file_id, text=was_read):
            for text in chunker.feed(decoder.decode(data)):
                yield text
        for text in (*chunker.feed(decoder.decode(b"", final=True)), *chunker.end()):
            yield text

    async def _write(self, work: Work, configuration: Configuration, done: int, texts: list[str]) -> int:
        """Embed and insert these chunks, in as many calls as the minute's tokens ask for; how many are written."""
        most = limits.most_tokens(configuration.limits)
        # A document takes at most half a minute's tokens at a time: questions get the rest.
        room = most // 2 if most else 100_000
        while texts:
            count, size = 0, 0
            for text in texts:
                size += tokens.estimate(text)
                if count and size > room:
                    break
                count += 1
            now, texts = texts[:count], texts[count:]
            ids = [chunk_id(work.id.hex, done + index) for index in range(count)]
            # A worker that died here may have written some: the same ids must not be there twice.  Before they are
            # embedded: where Milvus is away, each attempt would be paid anew.
            await self._service.vectors.delete(ids)
            vectors = await self._embed(work, configuration, now)
            await self._service.vectors.insert(
                [
                    Chunk(identity, work.file_id, work.store_id, done + index, text, vector)
                    for index, (identity, text, vector) in enumerate(zip(ids, now, vectors, strict=True))
                ]
            )
            done += count
            if not await self._service.store.fetch(_ADVANCE, (done, sum(map(tokens.byte_length, now)), work.id)):
                # Deleted in the meantime.  What was just written is taken out again here: the row's count of
                # chunks, by which the others are removed, does not know of it.
                await self._service.vectors.delete(ids)
                raise DeletedError
        return done

    async def _embed(self, work: Work, configuration: Configuration, texts: list[str]) -> list[list[float]]:
        model = configuration.embedding.model
        need = Need(
            kind="ingestion",
            model=model,
            input_tokens=sum(map(tokens.estimate, texts)),
            input_bound=sum(map(tokens.byte_length, texts)) + tokens.BOUND_PER_CALL,
            requests=0,
            counts=False,
        )
        event = Event("api_call", "vector_stores.files.ingest", "file", work.file_id)
        event.basic |= {"model": model, "prices": configuration.prices_version, "chunks": len(texts)}
        reservation = await self._service.ledger.reserve(configuration, work.caller, need, event)
        usage: Usage | Unsaid = Unsaid.of_embeddings(model, texts)
        released = False
        try:
            vectors, usage = await self._service.provider.embed(model, texts, configuration.embedding.dimension)
            return vectors
        except NotSentError as error:
            usage, released = Usage(), True
            raise error.error from None
        finally:
            await self._service.ledger.settle(reservation, usage, released=released)
