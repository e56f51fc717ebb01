"""Conversations in the tenant's schema: the statements that read and change them, each for one user only.

What one call adds is added by one statement under the lock of the conversation's row: it stays together, and
of two calls at once the one whose answer came first is first.
"""

from typing import Any

import orjson

from tenantry_runtime import errors
from tenantry_runtime.call import Call
from tenantry_runtime.conversation_items import Item, item_bytes, item_tokens
from tenantry_runtime.documents import new_id, seconds
from tenantry_runtime.fields import Body, is_id
from tenantry_runtime.store import Row, Store

MAX_CONVERSATIONS = 10_000
"""Conversations of one user."""
MAX_ITEMS = 2_000
"""Items of one conversation that a client may fill; an answer that was being made is added all the same."""
MAX_BYTES = 16 * 1024 * 1024
"""JSON bytes of one conversation's items, likewise."""

_COLUMNS = "id, metadata, created_at"
_SUBSTANCE = (
    "unnest(%s::text[], %s::text[], %s::int[], %s::int[]) WITH ORDINALITY AS t (id, item, bytes, tokens, place)"
)

# Each of these may be run twice (the connection may break after the commit): the second time changes nothing.
_CREATE = f"""
WITH made AS (
    INSERT INTO conversations (id, user_name, metadata, items, bytes, next_position)
    SELECT %s, %s, %s::jsonb, %s, %s, %s WHERE (SELECT count(*) FROM conversations WHERE user_name = %s) < %s
    ON CONFLICT (id) DO NOTHING RETURNING {_COLUMNS}
), added AS (
    INSERT INTO conversation_items (conversation_id, position, id, item, bytes, tokens)
    SELECT made.id, t.place - 1, t.id, t.item::json, t.bytes, t.tokens FROM made, {_SUBSTANCE}
)
SELECT {_COLUMNS} FROM made UNION ALL SELECT {_COLUMNS} FROM conversations WHERE id = %s
"""  # noqa: S608
_APPEND = f"""
WITH room AS (
    UPDATE conversations SET
        items = items + %s, bytes = bytes + %s, next_position = next_position + %s, last_item_at = clock_timestamp()
    WHERE id = %s AND user_name = %s AND (%s OR (items + %s <= {MAX_ITEMS} AND bytes + %s <= {MAX_BYTES}))
      AND NOT EXISTS (SELECT 1 FROM conversation_items WHERE conversation_id = %s AND id = %s)
    RETURNING id, next_position - %s AS position
), added AS (
    INSERT INTO conversation_items (conversation_id, position, id, item, bytes, tokens)
    SELECT room.id, room.position + t.place - 1, t.id, t.item::json, t.bytes, t.tokens FROM room, {_SUBSTANCE}
    RETURNING 1
)
SELECT (SELECT count(*) FROM added) > 0
    OR EXISTS (SELECT 1 FROM conversation_items WHERE conversation_id = %s AND id = %s)
"""  # noqa: S608


def conversation_object(row: Row) -> Body:
    identity, metadata, created_at = row
    return {
        "id": identity,
        "object": "conversation",
        "created_at": seconds(created_at),
        "metadata": metadata,
    }


def item_object(row: Row) -> Item:
    """An item, with its rating under `tenantry` where it has one."""
    item, rating, comment, rated_at = row
    return dict(item) | ({"tenantry": rating_object(rating, comment, rated_at)} if rating else {})


def rating_object(rating: str | None, comment: str, rated_at: Any) -> Body:
    return {"rating": rating, "comment": comment, "rated_at": seconds(rated_at) if rating else None}


async def create(call: Call, metadata: Body, items: list[Item]) -> Row:
    """Raises 403 where the user may have no more."""
    identity, user = new_id("conv_"), call.caller.user
    row = await call.one(
        _CREATE,
        (
            identity,
            user,
            orjson.dumps(metadata).decode(),
            len(items),
            sum(map(item_bytes, items)),
            len(items),
            user,
            MAX_CONVERSATIONS,
            *_substance(items),
            identity,
        ),
    )
    if row is None:
        raise errors.forbidden(
            f"A user may have {MAX_CONVERSATIONS} conversations, and this one has them: delete one first.",
            "conversation_limit_reached",
        )
    return row


def _substance(items: list[Item]) -> tuple[list[str], list[str], list[int], list[int]]:
    encoded = [orjson.dumps(item) for item in items]
    return (
        [item["id"] for item in items],
        [text.decode() for text in encoded],
        [len(text) for text in encoded],
        [item_tokens(item) for item in items],
    )


async def get(call: Call, identity: str) -> Row:
    """Raises 404 for what never was and for what is another user's."""
    row = None
    if is_id(identity):
        row = await call.one(
            f"SELECT {_COLUMNS} FROM conversations WHERE id = %s AND user_name = %s",  # noqa: S608
            (identity, call.caller.user),
        )
    return _found(row)


def _found(row: Row | None, what: str = "conversation") -> Row:
    if row is None:
        raise errors.not_found(what)
    return row


async def listed(call: Call, limit: int, descending: bool, after: str | None) -> list[Row]:
    order, compare = ("DESC", "<") if descending else ("ASC", ">")
    user = call.caller.user
    return await call.fetch(
        f"SELECT {_COLUMNS} FROM conversations WHERE user_name = %s AND (%s::text IS NULL "  # noqa: S608
        f"OR (created_at, id) {compare} (SELECT created_at, id FROM conversations WHERE id = %s AND user_name = %s)) "
        f"ORDER BY created_at {order}, id {order} LIMIT %s",
        (user, after, after, user, limit),
    )


async def update(call: Call, identity: str, metadata: Body) -> Row:
    row = None
    if is_id(identity):
        row = await call.one(
            "UPDATE conversations SET metadata = %s::jsonb "  # noqa: S608
            f"WHERE id = %s AND user_name = %s RETURNING {_COLUMNS}",
            (orjson.dumps(metadata).decode(), identity, call.caller.user),
        )
    return _found(row)


async def delete(call: Call, identity: str) -> None:
    """With all its items."""
    await get(call, identity)
    await call.fetch("DELETE FROM conversations WHERE id = %s AND user_name = %s", (identity, call.caller.user))


# --- Items ---------------------------------------------------------------------------------------------------


async def add(call: Call, identity: str, items: list[Item]) -> None:
    """Raises 404, and 403 where the conversation has no room for all of them."""
    await get(call, identity)
    call.queries += 1
    if not await append(call.service.store, identity, call.caller.user, items, whole=False):
        await get(call, identity)  # deleted in between?
        raise full()


def full() -> errors.ApiError:
    return errors.forbidden(
        f"A conversation holds {MAX_ITEMS} items and {MAX_BYTES} bytes: begin another, or delete items of this one.",
        "conversation_full",
    )


async def append(store: Store, identity: str, user: str, items: list[Item], *, whole: bool) -> bool:
    """Add items behind all others.  `whole`: even where the conversation is full.  False: it is, or is gone."""
    number, size, first = len(items), sum(map(item_bytes, items)), items[0]["id"]
    row = await store.one(
        _APPEND,
        (
            *(number, size, number),
            *(identity, user, whole, number, size),
            *(identity, first),
            number,
            *_substance(items),
            *(identity, first),
        ),
    )
    return row is not None and bool(row[0])


async def list_items(call: Call, identity: str, limit: int, descending: bool, after: str | None) -> list[Row]:
    await get(call, identity)
    order, compare = ("DESC", "<") if descending else ("ASC", ">")
    return await call.fetch(
        "SELECT item, rating, rating_comment, rated_at FROM conversation_items "  # noqa: S608
        f"WHERE conversation_id = %s AND (%s::text IS NULL OR position {compare} "
        "(SELECT position FROM conversation_items WHERE conversation_id = %s AND id = %s)) "
        f"ORDER BY position {order} LIMIT %s",
        (identity, after, identity, after, limit),
    )


async def get_item(call: Call, identity: str, item_id: str) -> Row:
    row = None
    if is_id(identity) and is_id(item_id):
        row = await call.one(
            "SELECT i.item, i.rating, i.rating_comment, i.rated_at FROM conversation_items i "
            "JOIN conversations c ON c.id = i.conversation_id WHERE c.id = %s AND c.user_name = %s AND i.id = %s",
            (identity, call.caller.user, item_id),
        )
    return _found(row, "item in this conversation")


async def delete_item(call: Call, identity: str, item_id: str) -> Row:
    """The conversation without the item."""
    await get_item(call, identity, item_id)
    await call.fetch(
        # The conversation's lock first, as all others take it.
        "WITH held AS (SELECT id FROM conversations WHERE id = %s FOR UPDATE), "
        "gone AS (DELETE FROM conversation_items i USING held WHERE i.conversation_id = held.id AND i.id = %s "
        "RETURNING i.bytes) "
        "UPDATE conversations SET items = items - 1, bytes = conversations.bytes - gone.bytes FROM gone WHERE id = %s",
        (identity, item_id, identity),
    )
    return await get(call, identity)


async def rate(call: Call, identity: str, item_id: str, rating: str | None, comment: str) -> Row:
    """Rating, comment and time as they are now; the same rating again changes nothing, None takes it back."""
    await get_item(call, identity, item_id)
    row = await call.one(
        "UPDATE conversation_items SET rating = %s, rating_comment = %s, "
        "rated_at = CASE WHEN %s::text IS NULL THEN NULL WHEN rating = %s AND rating_comment = %s THEN rated_at "
        "ELSE clock_timestamp() END WHERE conversation_id = %s AND id = %s RETURNING rating, rating_comment, rated_at",
        (rating, comment, rating, rating, comment, identity, item_id),
    )
    return _found(row, "item in this conversation")
