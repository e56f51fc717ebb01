"""/v1/vector_stores: which documents are searched together, and searching them."""

from collections.abc import AsyncIterator

import orjson
from starlette.responses import Response, StreamingResponse

from tenantry_runtime import attachments, documents, errors, fields, filters
from tenantry_runtime.answers import PAGE, deleted, json_answer, list_of, page
from tenantry_runtime.call import Call
from tenantry_runtime.endpoint import Family
from tenantry_runtime.retrieval import MAX_QUESTION, search

_STATUSES = ("in_progress", "completed", "failed", "cancelled")


async def create_store(call: Call) -> Response:
    body = await call.json()
    fields.only(body, frozenset({"name", "metadata", "file_ids", "chunking_strategy", "expires_after"}))
    auto_chunking(body)
    _no_expiry(body)
    name = fields.text(body, "name", "", 256) or ""
    metadata, file_ids = fields.labels(body, "metadata"), fields.ids(body, "file_ids", 100)
    if file_ids:
        await documents.know_files(call, file_ids)
    identity = await documents.add_store(call, name, metadata)
    call.event.resource_id = identity
    if file_ids:
        await attachments.attach(call, identity, {file_id: {} for file_id in file_ids})
    return json_answer(documents.store_object(await documents.get_store(call, identity)))


def auto_chunking(body: fields.Body) -> None:
    """The service cuts documents its own way: another one is refused, not ignored."""
    strategy = fields.mapping(body, "chunking_strategy")
    if strategy is not None and strategy != {"type": "auto"}:
        sentence = "chunking_strategy can be of type auto only: documents are cut at their paragraphs."
        raise errors.invalid(sentence, "chunking_strategy", "unsupported_field")


def _no_expiry(body: fields.Body) -> None:
    if body.get("expires_after") is not None:
        sentence = "expires_after is not supported here: delete the store when it is not needed any more."
        raise errors.invalid(sentence, "expires_after", "unsupported_field")


async def list_stores(call: Call) -> Response:
    limit, descending, after = page(call.request.query_params)
    rows = await documents.list_stores(call, limit + 1, descending, after)
    return json_answer(list_of([documents.store_object(row) for row in rows[:limit]], len(rows) > limit))


async def get_store(call: Call) -> Response:
    return json_answer(documents.store_object(await documents.get_store(call, store_id(call))))


async def change_store(call: Call) -> Response:
    body = await call.json()
    fields.only(body, frozenset({"name", "metadata", "expires_after"}))
    _no_expiry(body)
    metadata = fields.labels(body, "metadata") if body.get("metadata") is not None else None
    await documents.change_store(call, store_id(call), fields.text(body, "name", None, 256), metadata)
    return json_answer(documents.store_object(await documents.get_store(call, store_id(call))))


async def delete_store(call: Call) -> Response:
    await documents.delete_store(call, store_id(call))
    return deleted(store_id(call), "vector_store")


def store_id(call: Call) -> str:
    return str(call.request.path_params["vector_store_id"])


async def attach_file(call: Call) -> Response:
    await documents.get_store(call, store_id(call))
    body = await call.json()
    fields.only(body, frozenset({"file_id", "attributes", "chunking_strategy"}))
    auto_chunking(body)
    file_id = fields.text(body, "file_id", longest=64)
    if not file_id:
        raise errors.invalid("file_id must be the id of an uploaded file.", "file_id")
    await attachments.attach(call, store_id(call), {file_id: fields.labels(body, "attributes")})
    return json_answer(attachments.attached_object(await attachments.get_attached(call, store_id(call), file_id)))


async def list_attached(call: Call) -> Response:
    await documents.get_store(call, store_id(call))
    return await attached_page(call)


async def attached_page(call: Call, batch_id: str | None = None) -> Response:
    """One page of the store's files, or of one batch of them."""
    limit, descending, after = page(call.request.query_params)
    status = call.request.query_params.get("filter")
    if status is not None and status not in _STATUSES:
        raise errors.invalid(f"filter must be one of {', '.join(_STATUSES)}.", "filter")
    order, compare = ("DESC", "<") if descending else ("ASC", ">")
    rows = await call.fetch(
        f"SELECT {attachments.COLUMNS} FROM vector_store_files "  # noqa: S608
        "WHERE store_id = %s AND status <> 'deleting' AND (%s::text IS NULL OR batch_id = %s) "
        "AND (%s::text IS NULL OR status = %s) AND (%s::text IS NULL OR "
        f"(created_at, file_id) {compare} (SELECT created_at, file_id FROM vector_store_files "
        "WHERE store_id = %s AND file_id = %s AND status <> 'deleting')) "
        f"ORDER BY created_at {order}, file_id {order} LIMIT %s",
        (store_id(call), batch_id, batch_id, status, status, after, store_id(call), after, limit + 1),
    )
    return json_answer(list_of([attachments.attached_object(row) for row in rows[:limit]], len(rows) > limit))


async def get_attached(call: Call) -> Response:
    row = await attachments.get_attached(call, store_id(call), call.request.path_params["file_id"])
    return json_answer(attachments.attached_object(row))


async def change_attached(call: Call) -> Response:
    body = await call.json()
    fields.only(body, frozenset({"attributes"}))
    if "attributes" not in body:
        raise errors.invalid("attributes must be an object; it replaces the ones that there are.", "attributes")
    file_id = call.request.path_params["file_id"]
    await attachments.set_attributes(call, store_id(call), file_id, fields.labels(body, "attributes"))
    return json_answer(attachments.attached_object(await attachments.get_attached(call, store_id(call), file_id)))


async def get_text(call: Call) -> Response:
    """In pieces of at most 1 MiB, so that no text is ever whole in memory."""
    texts = await attachments.text_parts(call, store_id(call), call.request.path_params["file_id"])

    async def body() -> AsyncIterator[bytes]:
        yield b'{"object":"vector_store.file_content.page","data":['
        comma = b""
        async for text in texts:
            yield comma + orjson.dumps({"type": "text", "text": text})
            comma = b","
        yield b'],"has_more":false,"next_page":null}'

    return StreamingResponse(body(), media_type="application/json")


async def detach_file(call: Call) -> Response:
    file_id = call.request.path_params["file_id"]
    await attachments.detach(call, store_id(call), file_id)
    return deleted(file_id, "vector_store.file")


async def search_store(call: Call) -> Response:
    await documents.get_store(call, store_id(call))
    body = await call.json()
    fields.only(body, frozenset({"query", "filters", "max_num_results", "ranking_options", "rewrite_query"}))
    query = body.get("query")
    queries = [query] if isinstance(query, str) else query
    if not isinstance(queries, list) or not 1 <= len(queries) <= 10 or not all(isinstance(q, str) for q in queries):
        raise errors.invalid("query must be a text, or a list of 1 to 10 texts.", "query")
    question = "\n".join(queries)
    if not question.strip() or len(question) > MAX_QUESTION:
        raise errors.invalid(f"query must have 1 to {MAX_QUESTION} characters.", "query")
    ranking = fields.mapping(body, "ranking_options") or {}
    fields.only(ranking, frozenset({"score_threshold", "ranker"}), "ranking_options")
    threshold = fields.number(ranking, "score_threshold", -1, 1)
    wanted = filters.read(body.get("filters"))
    call.model = call.configuration.embedding.model
    hits = await search(
        call,
        "search",
        question,
        top_k=fields.integer(body, "max_num_results", 1, 50, 10) or 10,
        min_score=-1 if threshold is None else threshold,
        store_ids=[store_id(call)],
        filters=wanted,
    )
    data = [
        {
            "file_id": hit.file_id,
            "filename": hit.filename,
            "score": hit.score,
            "attributes": hit.attributes,
            "content": [{"type": "text", "text": hit.text}],
            "tenantry": {"chunk": hit.chunk, "created_at": documents.seconds(hit.created_at)},
        }
        for hit in hits
    ]
    return json_answer(
        {
            "object": "vector_store.search_results.page",
            "search_query": queries,
            "data": data,
            "has_more": False,
            "next_page": None,
        }
    )


_endpoint = Family("vector_stores", scope="documents", resource="vector_store")

_LABELS = {"type": ["object", "null"], "maxProperties": 16}
ATTRIBUTES = {
    "attributes": _LABELS,
    "chunking_strategy": {"type": "object", "properties": {"type": {"type": "string", "enum": ["auto"]}}},
}
_NAMED = {"name": {"type": "string", "maxLength": 256}, "metadata": _LABELS}
STORE = "/v1/vector_stores/{vector_store_id}"
_FILE = f"{STORE}/files/{{file_id}}"

ROUTES = (
    _endpoint(
        "POST",
        "/v1/vector_stores",
        "create",
        "Make a vector store.",
        create_store,
        body={
            "type": "object",
            "properties": {"file_ids": {"type": "array", "items": {"type": "string"}, "maxItems": 100}, **_NAMED},
        },
    ),
    _endpoint("GET", "/v1/vector_stores", "list", "List vector stores.", list_stores, query=PAGE),
    _endpoint("GET", STORE, "retrieve", "One vector store.", get_store),
    _endpoint(
        "POST",
        STORE,
        "update",
        "Change a vector store's name or metadata.",
        change_store,
        body={"type": "object", "properties": _NAMED},
    ),
    _endpoint("DELETE", STORE, "delete", "Delete a vector store; its files stay.", delete_store),
    _endpoint(
        "POST",
        f"{STORE}/files",
        "files.create",
        "Put a file into a vector store.",
        attach_file,
        body={
            "type": "object",
            "required": ["file_id"],
            "properties": {"file_id": {"type": "string"}, **ATTRIBUTES},
        },
    ),
    _endpoint("GET", f"{STORE}/files", "files.list", "List the files of a vector store.", list_attached, query=PAGE),
    _endpoint("GET", _FILE, "files.retrieve", "How far a file's ingestion is.", get_attached, "file"),
    _endpoint(
        "POST",
        _FILE,
        "files.update",
        "Replace a file's attributes in a vector store.",
        change_attached,
        "file",
        body={"type": "object", "required": ["attributes"], "properties": {"attributes": _LABELS}},
    ),
    _endpoint("GET", f"{_FILE}/content", "files.content", "The text that was read from a file.", get_text, "file"),
    _endpoint("DELETE", _FILE, "files.delete", "Take a file out of a vector store.", detach_file, "file"),
    _endpoint(
        "POST",
        f"{STORE}/search",
        "search",
        "Search a vector store.",
        search_store,
        event="data_access",
        body={
            "type": "object",
            "required": ["query"],
            "properties": {
                "query": {
                    "oneOf": [
                        {"type": "string", "minLength": 1},
                        {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 10},
                    ]
                },
                "filters": filters.SCHEMA,
                "max_num_results": {"type": "integer", "minimum": 1, "maximum": 50},
                "ranking_options": {
                    "type": "object",
                    "properties": {"score_threshold": {"type": "number", "minimum": -1, "maximum": 1}},
                },
            },
        },
    ),
)
