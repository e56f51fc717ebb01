"""Files in vector stores: their states, and the statements that put them in and take them out."""

import codecs
import re
from collections.abc import AsyncIterator, Mapping

import orjson

from tenantry_runtime import documents, errors, extract
from tenantry_runtime.call import Call
from tenantry_runtime.fields import Body, is_id
from tenantry_runtime.keys import Caller
from tenantry_runtime.reading import parts
from tenantry_runtime.store import Row

COLUMNS = (
    "file_id, store_id, status, error_code, error_message, attributes, usage_bytes, created_at, text_bytes, chunks"
)
_ATTACH = f"""
WITH wanted AS (
    SELECT file_id, attributes, number
    FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY AS given(file_id, attributes, number)
), there AS (
    -- Locked, so that a deletion at the same time finds the rows that are added here.
    SELECT f.id, f.bytes, f.filename ~* %s AS reads FROM files f
    WHERE f.id IN (SELECT file_id FROM wanted) AND f.status = 'uploaded' FOR KEY SHARE
), store AS (
    SELECT id FROM vector_stores WHERE id = %s FOR KEY SHARE
), put AS (
    INSERT INTO vector_store_files AS v
        (id, store_id, file_id, status, attributes, batch_id, unread, text_bytes, key_uid, key_name, user_name)
    SELECT gen_random_uuid(), store.id, f.id, 'in_progress', wanted.attributes::jsonb, %s, f.reads,
           CASE WHEN f.reads THEN 0 ELSE f.bytes END, %s, %s, %s
    FROM wanted JOIN there f ON f.id = wanted.file_id CROSS JOIN store ORDER BY wanted.number
    ON CONFLICT (store_id, file_id) WHERE status <> 'deleting' DO UPDATE SET
        batch_id = coalesce(excluded.batch_id, v.batch_id),
        attributes = CASE WHEN excluded.attributes = '{{}}' THEN v.attributes ELSE excluded.attributes END,
        retry_at = CASE WHEN v.status IN ('failed', 'cancelled') THEN clock_timestamp() ELSE v.retry_at END,
        attempts = CASE WHEN v.status IN ('failed', 'cancelled') THEN 0 ELSE v.attempts END,
        status = CASE WHEN v.status IN ('failed', 'cancelled') THEN 'in_progress' ELSE v.status END,
        error_code = NULL, error_message = NULL
    RETURNING v.file_id, v.status
), changed AS (
    {documents.CHANGED} WHERE EXISTS (SELECT 1 FROM put WHERE status = 'completed') RETURNING id
)
SELECT file_id FROM put
"""  # noqa: S608 - constants of ours
_SET_ATTRIBUTES = f"""
WITH put AS (
    UPDATE vector_store_files SET attributes = %s::jsonb
    WHERE store_id = %s AND file_id = %s AND status <> 'deleting' RETURNING id
)
{documents.CHANGED} WHERE EXISTS (SELECT 1 FROM put)
"""  # noqa: S608
_BATCH = """
SELECT store_id, min(created_at), count(*) FILTER (WHERE status = 'in_progress'),
       count(*) FILTER (WHERE status = 'completed'), count(*) FILTER (WHERE status = 'failed'),
       count(*) FILTER (WHERE status = 'cancelled')
FROM vector_store_files WHERE store_id = %s AND batch_id = %s AND status <> 'deleting' GROUP BY store_id
"""
_CANCEL = """
UPDATE vector_store_files SET status = 'cancelled' WHERE store_id = %s AND batch_id = %s AND status = 'in_progress'
"""
_READ_NAMES = f"({'|'.join(re.escape(end) for end in extract.READ)})$"


def attached_object(row: Row) -> Body:
    file_id, store_id, status, code, message, attributes, size, created_at, text_bytes, chunks = row
    return {
        "id": file_id,
        "object": "vector_store.file",
        "created_at": documents.seconds(created_at),
        "vector_store_id": store_id,
        "status": status,
        "usage_bytes": size,
        "last_error": {"code": code, "message": message} if code else None,
        "attributes": attributes,
        "chunking_strategy": {"type": "other"},
        # Ours: how far it is.  Where paragraphs were cut, chunks overlap, and together are longer than the text.
        "tenantry": {
            "percent": 100 if status == "completed" else min(99, 100 * size // text_bytes) if text_bytes else 0,
            "chunks": chunks,
        },
    }


async def get_attached(call: Call, store_id: str, file_id: str) -> Row:
    row = None
    if is_id(store_id) and is_id(file_id):
        row = await call.one(
            f"SELECT {COLUMNS} FROM vector_store_files "  # noqa: S608
            "WHERE store_id = %s AND file_id = %s AND status <> 'deleting'",
            (store_id, file_id),
        )
    if row is None:
        raise errors.not_found("file in this vector store")
    return row


async def attach(call: Call, store_id: str, files: Mapping[str, Body], batch_id: str | None = None) -> None:
    """Begin to put files, each with its attributes, into a store; raises 404 for unknown ids, with none put in.

    A file that is in the store already takes the attributes, where there are any; one that failed is tried again.
    """
    await documents.know_files(call, list(files))
    caller: Caller = call.caller
    put = await call.fetch(
        _ATTACH,
        (
            list(files),
            [orjson.dumps(attributes).decode() for attributes in files.values()],
            _READ_NAMES,
            store_id,
            batch_id,
            caller.key_uid,
            caller.key_name,
            caller.user,
        ),
    )
    call.service.ingestion.wake()
    if len(put) < len(files):  # deleted in this moment
        raise errors.not_found("file")


async def detach(call: Call, store_id: str, file_id: str) -> None:
    await get_attached(call, store_id, file_id)
    async with call.service.store.transaction() as connection:
        await documents.take_out(connection, "store_id = %s AND file_id = %s", (store_id, file_id))
    call.queries += 2
    call.service.ingestion.wake()


async def set_attributes(call: Call, store_id: str, file_id: str, attributes: Body) -> None:
    """Replace a file's attributes in one store; raises 404 for unknown ids."""
    await get_attached(call, store_id, file_id)
    await call.fetch(_SET_ATTRIBUTES, (orjson.dumps(attributes).decode(), store_id, file_id))


async def text_parts(call: Call, store_id: str, file_id: str) -> AsyncIterator[str]:
    """The text that was, or is being, put into the store; nothing where it has not been read yet."""
    await get_attached(call, store_id, file_id)
    row = await documents.get_file(call, file_id)
    return _decoded(parts(call.service.store, file_id, text=extract.kind_of(row[1]) is not None))


async def _decoded(data: AsyncIterator[bytes]) -> AsyncIterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
    async for part in data:
        yield decoder.decode(part)
    if rest := decoder.decode(b"", final=True):
        yield rest


# --- Batches: files that were put into a store together ------------------------------------------------------


def batch_object(batch_id: str, row: Row) -> Body:
    store_id, created_at, in_progress, completed, failed, cancelled = row
    return {
        "id": batch_id,
        "object": "vector_store.files_batch",
        "created_at": documents.seconds(created_at),
        "vector_store_id": store_id,
        "status": "in_progress" if in_progress else "cancelled" if cancelled else "completed",
        "file_counts": {
            "in_progress": in_progress,
            "completed": completed,
            "failed": failed,
            "cancelled": cancelled,
            "total": in_progress + completed + failed + cancelled,
        },
    }


async def get_batch(call: Call, store_id: str, batch_id: str) -> Row:
    """A batch is the files that are still in the store; raises 404 where there is none."""
    row = None
    if is_id(store_id) and is_id(batch_id):
        row = await call.one(_BATCH, (store_id, batch_id))
    if row is None:
        raise errors.not_found("file batch")
    return row


async def cancel_batch(call: Call, store_id: str, batch_id: str) -> None:
    """What is not completed stays away from searches until it is put in again."""
    await get_batch(call, store_id, batch_id)
    await call.fetch(_CANCEL, (store_id, batch_id))
