"""Files and vector stores in the tenant's schema: what they are, and the statements that read and change them."""

import secrets
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import orjson

from tenantry_runtime import errors
from tenantry_runtime.call import Call
from tenantry_runtime.fields import Body, is_id
from tenantry_runtime.store import Row

PART = 1024 * 1024
"""Bytes of a file that one row holds."""
MAX_STORES = 1000

CHANGED = """
UPDATE documents_state SET changed_at = greatest(clock_timestamp(), changed_at + interval '1 microsecond')
"""
"""In the transaction of each change of what a search can find: answers of before it are not served again."""
_FORGET = "DELETE FROM response_cache WHERE documents_at IS NOT NULL"
FILE_COLUMNS = "id, filename, purpose, bytes, created_at"
_STORE_COLUMNS = "s.id, s.name, s.metadata, s.created_at"
_COUNTS = """
    count(v.*) FILTER (WHERE v.status = 'in_progress'), count(v.*) FILTER (WHERE v.status = 'completed'),
    count(v.*) FILTER (WHERE v.status = 'failed'), count(v.*) FILTER (WHERE v.status = 'cancelled'),
    coalesce(sum(v.usage_bytes), 0)::bigint
"""
_STORE_FROM = """
FROM vector_stores s LEFT JOIN vector_store_files v ON v.store_id = s.id AND v.status <> 'deleting'
"""


def new_id(prefix: str) -> str:
    return f"{prefix}{secrets.token_hex(12)}"


def seconds(moment: datetime) -> int:
    return int(moment.timestamp())


# --- Files ---------------------------------------------------------------------------------------------------


def file_object(row: Row) -> Body:
    identity, filename, purpose, size, created_at = row
    return {
        "id": identity,
        "object": "file",
        "bytes": size,
        "created_at": seconds(created_at),
        "filename": filename,
        "purpose": purpose,
        "status": "processed",
    }


async def get_file(call: Call, identity: str) -> Row:
    row = None
    if is_id(identity):
        row = await call.one(
            f"SELECT {FILE_COLUMNS} FROM files WHERE id = %s AND status = 'uploaded'",  # noqa: S608
            (identity,),
        )
    if row is None:
        raise errors.not_found("file")
    return row


async def know_files(call: Call, identities: list[str]) -> None:
    """Raises 404 where one of these is no file."""
    known = await call.fetch("SELECT id FROM files WHERE id = ANY(%s) AND status = 'uploaded'", (identities,))
    if len(known) < len(set(identities)):
        raise errors.not_found("file")


async def add_file(call: Call, filename: str, purpose: str, size: int, parts: AsyncIterator[bytes]) -> Row:
    """Store a file in one transaction; raises 403 where the tenant may have no more."""
    identity, most = new_id("file-"), call.configuration.documents.max_files
    async with call.service.store.transaction() as connection:
        # The lock puts uploads in order: together they do not exceed the number either.
        await connection.execute("LOCK TABLE files IN SHARE ROW EXCLUSIVE MODE")
        cursor = await connection.execute("SELECT count(*) FROM files")
        row = await cursor.fetchone()
        if row and row[0] >= most:
            raise errors.forbidden(
                f"This tenant may have {most} files, and has them: delete one first.", "file_limit_reached"
            )
        cursor = await connection.execute(
            f"INSERT INTO files (id, filename, purpose, bytes, status, user_name) "  # noqa: S608
            f"VALUES (%s, %s, %s, %s, 'uploaded', %s) RETURNING {FILE_COLUMNS}".encode(),
            (identity, filename, purpose, size, call.caller.user),
        )
        row = await cursor.fetchone()
        number = 0
        async for data in parts:
            await connection.execute("INSERT INTO file_parts VALUES (%s, %s, %s)", (identity, number, data))
            number += 1
    call.queries += 2 + number
    assert row is not None
    return row


async def file_bytes(call: Call, identity: str) -> AsyncIterator[bytes]:
    """A file's content, a part at a time."""
    number = 0
    while row := await call.service.store.one(
        "SELECT data FROM file_parts WHERE file_id = %s AND part = %s", (identity, number)
    ):
        yield bytes(row[0])
        number += 1


async def delete_file(call: Call, identity: str) -> None:
    """Gone from listings and searches at once; its vectors are removed by the worker."""
    await get_file(call, identity)
    async with call.service.store.transaction() as connection:
        await connection.execute("DELETE FROM files WHERE id = %s", (identity,))
        await take_out(connection, "file_id = %s", (identity,))
    call.queries += 3
    call.service.ingestion.wake()


async def delete_all_files(call: Call) -> int:
    """Every document of the tenant's, gone from listings and searches at once; how many there were."""
    async with call.service.store.transaction() as connection:
        # The lock keeps uploads of this moment out: what is there after it came after it.
        await connection.execute("LOCK TABLE files IN SHARE ROW EXCLUSIVE MODE")
        gone = await connection.execute("DELETE FROM files")
        await take_out(connection, "true", ())
    call.queries += 4
    call.service.ingestion.wake()
    return gone.rowcount


# --- Vector stores -------------------------------------------------------------------------------------------


def store_object(row: Row) -> Body:
    identity, name, metadata, created_at, in_progress, completed, failed, cancelled, size = row
    return {
        "id": identity,
        "object": "vector_store",
        "created_at": seconds(created_at),
        "name": name,
        "usage_bytes": size,
        "file_counts": {
            "in_progress": in_progress,
            "completed": completed,
            "failed": failed,
            "cancelled": cancelled,
            "total": in_progress + completed + failed + cancelled,
        },
        "status": "in_progress" if in_progress else "completed",
        "expires_after": None,
        "expires_at": None,
        "last_active_at": seconds(created_at),
        "metadata": metadata,
    }


async def get_store(call: Call, identity: str) -> Row:
    row = None
    if is_id(identity):
        row = await call.one(
            f"SELECT {_STORE_COLUMNS}, {_COUNTS} {_STORE_FROM} WHERE s.id = %s GROUP BY s.id",
            (identity,),
        )
    if row is None:
        raise errors.not_found("vector store")
    return row


async def list_stores(call: Call, limit: int, descending: bool, after: str | None) -> list[Row]:
    order, compare = ("DESC", "<") if descending else ("ASC", ">")
    return await call.fetch(
        f"SELECT {_STORE_COLUMNS}, {_COUNTS} {_STORE_FROM} "  # noqa: S608
        f"WHERE %s::text IS NULL OR (s.created_at, s.id) {compare} "
        "(SELECT created_at, id FROM vector_stores WHERE id = %s) "
        f"GROUP BY s.id ORDER BY s.created_at {order}, s.id {order} LIMIT %s",
        (after, after, limit),
    )


async def add_store(call: Call, name: str, metadata: Body) -> str:
    identity = new_id("vs_")
    row = await call.one(
        "INSERT INTO vector_stores (id, name, metadata) SELECT %s, %s, %s::jsonb "
        "WHERE (SELECT count(*) FROM vector_stores) < %s ON CONFLICT (id) DO NOTHING RETURNING id",
        (identity, name, orjson.dumps(metadata).decode(), MAX_STORES),
    )
    if row is None:
        raise errors.forbidden(
            f"This tenant may have {MAX_STORES} vector stores, and has them: delete one first.", "store_limit_reached"
        )
    return identity


async def change_store(call: Call, identity: str, name: str | None, metadata: Body | None) -> None:
    """Set what is not None; raises 404 for an unknown id."""
    await get_store(call, identity)
    await call.fetch(
        "UPDATE vector_stores SET name = coalesce(%s, name), metadata = coalesce(%s::jsonb, metadata) WHERE id = %s",
        (name, None if metadata is None else orjson.dumps(metadata).decode(), identity),
    )


async def delete_store(call: Call, identity: str) -> None:
    await get_store(call, identity)
    async with call.service.store.transaction() as connection:
        await connection.execute("DELETE FROM vector_stores WHERE id = %s", (identity,))
        await take_out(connection, "store_id = %s", (identity,))
    call.queries += 3
    call.service.ingestion.wake()


async def take_out(connection: Any, condition: str, values: tuple[str, ...]) -> None:
    """What is being written may be at work elsewhere: its lease (retry_at) is left, and waited for."""
    await connection.execute(
        f"UPDATE vector_store_files SET status = 'deleting', attempts = 0, "  # noqa: S608
        "retry_at = CASE WHEN status = 'in_progress' AND NOT unread THEN retry_at ELSE clock_timestamp() END "
        f"WHERE status <> 'deleting' AND {condition}".encode(),
        values,
    )
    await connection.execute(CHANGED.encode())
    await connection.execute(_FORGET)  # they would not be served: but what is deleted is to be gone
