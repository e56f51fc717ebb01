"""/v1/conversations: what a user said and was answered; each user of the tenant's has their own."""

from starlette.responses import Response

from tenantry_runtime import conversation_items, conversations, errors, fields
from tenantry_runtime.answers import PAGE, deleted, json_answer, list_of, page
from tenantry_runtime.call import Call
from tenantry_runtime.endpoint import Family

MAX_COMMENT = 2000
"""Characters of a rating's comment."""


async def create(call: Call) -> Response:
    body = await call.json()
    fields.only(body, frozenset({"items", "metadata"}))
    items = body.get("items")
    items = conversation_items.read_all(items, "items") if items is not None and items != [] else []
    row = await conversations.create(call, fields.labels(body, "metadata"), items)
    call.event.resource_id = row[0]
    call.event.basic["items"] = len(items)
    return json_answer(conversations.conversation_object(row))


async def list_all(call: Call) -> Response:
    limit, descending, after = page(call.request.query_params)
    rows = await conversations.listed(call, limit + 1, descending, after)
    objects = [conversations.conversation_object(row) for row in rows[:limit]]
    return json_answer(list_of(objects, len(rows) > limit))


async def retrieve(call: Call) -> Response:
    return json_answer(conversations.conversation_object(await conversations.get(call, _id(call))))


async def update(call: Call) -> Response:
    body = await call.json()
    fields.only(body, frozenset({"metadata"}))
    metadata = fields.labels(body, "metadata")
    return json_answer(conversations.conversation_object(await conversations.update(call, _id(call), metadata)))


async def delete(call: Call) -> Response:
    await conversations.delete(call, _id(call))
    return deleted(_id(call), "conversation")


async def create_items(call: Call) -> Response:
    await conversations.get(call, _id(call))
    body = await call.json()
    fields.only(body, frozenset({"items"}))
    items = conversation_items.read_all(body.get("items"), "items")
    await conversations.add(call, _id(call), items)
    call.event.basic["items"] = len(items)
    call.event.detailed["ids"] = [item["id"] for item in items]
    return json_answer(list_of(items))


async def list_items(call: Call) -> Response:
    limit, descending, after = page(call.request.query_params)
    rows = await conversations.list_items(call, _id(call), limit + 1, descending, after)
    return json_answer(list_of([conversations.item_object(row) for row in rows[:limit]], len(rows) > limit))


async def retrieve_item(call: Call) -> Response:
    return json_answer(conversations.item_object(await conversations.get_item(call, _id(call), _item(call))))


async def delete_item(call: Call) -> Response:
    row = await conversations.delete_item(call, _id(call), _item(call))
    return json_answer(conversations.conversation_object(row))


async def rate_item(call: Call) -> Response:
    item = (await conversations.get_item(call, _id(call), _item(call)))[0]
    body = await call.json()
    fields.only(body, frozenset({"rating", "comment"}))
    rating, comment = fields.text(body, "rating"), fields.text(body, "comment", "", MAX_COMMENT) or ""
    if rating not in ("up", "down", None) or "rating" not in body:
        raise errors.invalid("rating must be up or down, or null to take one back.", "rating")
    if not conversation_items.is_answer(item):
        raise errors.invalid("Only an assistant's message can be rated.", code="not_an_answer")
    row = await conversations.rate(call, _id(call), _item(call), rating, comment if rating else "")
    return json_answer(
        {
            "object": "conversation.item.rating",
            "conversation_id": _id(call),
            "item_id": _item(call),
            **conversations.rating_object(*row),
        }
    )


def _id(call: Call) -> str:
    return str(call.request.path_params["conversation_id"])


def _item(call: Call) -> str:
    """The item's id; the audit, whose resource it is, is told its conversation's too."""
    call.event.basic["conversation"] = _id(call)
    return str(call.request.path_params["item_id"])


_endpoint = Family("conversations", scope="conversations", resource="conversation")

_METADATA = {
    "type": ["object", "null"],
    "maxProperties": 16,
    "description": "Up to 16 texts; a conversation's title is its `title`.",
}
_ITEMS = {
    "type": "array",
    "maxItems": conversation_items.MAX_BATCH,
    "items": {"type": "object", "properties": {"type": {"type": "string"}}},
}
_ONE = "/v1/conversations/{conversation_id}"

ROUTES = (
    _endpoint(
        "POST",
        "/v1/conversations",
        "create",
        "Begin a conversation.",
        create,
        body={"type": "object", "properties": {"items": _ITEMS, "metadata": _METADATA}},
    ),
    _endpoint("GET", "/v1/conversations", "list", "List the user's conversations, newest first.", list_all, query=PAGE),
    _endpoint("GET", _ONE, "retrieve", "One conversation.", retrieve),
    _endpoint(
        "POST",
        _ONE,
        "update",
        "Rename a conversation: replace its metadata.",
        update,
        body={"type": "object", "properties": {"metadata": _METADATA}},
    ),
    _endpoint("DELETE", _ONE, "delete", "Delete a conversation with its items.", delete),
    _endpoint(
        "POST",
        f"{_ONE}/items",
        "items.create",
        "Add items to a conversation.",
        create_items,
        body={"type": "object", "required": ["items"], "properties": {"items": _ITEMS | {"minItems": 1}}},
    ),
    _endpoint("GET", f"{_ONE}/items", "items.list", "List a conversation's items.", list_items, query=PAGE),
    _endpoint("GET", f"{_ONE}/items/{{item_id}}", "items.retrieve", "One item.", retrieve_item, "conversation_item"),
    _endpoint(
        "DELETE", f"{_ONE}/items/{{item_id}}", "items.delete", "Delete an item.", delete_item, "conversation_item"
    ),
    _endpoint(
        "POST",
        f"{_ONE}/items/{{item_id}}/rating",
        "items.rate",
        "Rate an answer, or take a rating back.",
        rate_item,
        "conversation_item",
        body={
            "type": "object",
            "required": ["rating"],
            "properties": {
                "rating": {"type": ["string", "null"], "enum": ["up", "down", None]},
                "comment": {"type": "string", "maxLength": MAX_COMMENT},
            },
        },
    ),
)
