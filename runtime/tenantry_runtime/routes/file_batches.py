"""/v1/vector_stores/{id}/file_batches: many files put into a store with one request."""

from starlette.responses import Response

from tenantry_runtime import attachments, documents, errors, fields
from tenantry_runtime.answers import PAGE, json_answer
from tenantry_runtime.call import Call
from tenantry_runtime.endpoint import Family
from tenantry_runtime.routes.vector_stores import ATTRIBUTES, STORE, attached_page, auto_chunking, store_id

MAX_BATCH = 2000
_BATCH = f"{STORE}/file_batches/{{batch_id}}"


async def create_batch(call: Call) -> Response:
    await documents.get_store(call, store_id(call))
    body = await call.json()
    fields.only(body, frozenset({"file_ids", "files", "attributes", "chunking_strategy"}))
    auto_chunking(body)
    identity = documents.new_id("vsfb_")
    await attachments.attach(call, store_id(call), _files(body), identity)
    call.event.resource_id = identity
    return json_answer(attachments.batch_object(identity, await attachments.get_batch(call, store_id(call), identity)))


def _files(body: fields.Body) -> dict[str, fields.Body]:
    """The files, each with its attributes; raises 422."""
    given = body.get("files")
    if given is None:
        attributes = fields.labels(body, "attributes")
        files = dict.fromkeys(fields.ids(body, "file_ids", MAX_BATCH), attributes)
        if not files:
            raise errors.invalid(f"file_ids must be a list of 1 to {MAX_BATCH} ids of uploaded files.", "file_ids")
        return files
    if body.get("file_ids") is not None or body.get("attributes") is not None:
        raise errors.invalid("files says the ids and attributes: leave file_ids and attributes out.", "files")
    if not isinstance(given, list) or not 1 <= len(given) <= MAX_BATCH:
        raise errors.invalid(f"files must be a list of 1 to {MAX_BATCH} objects with a file_id.", "files")
    files = {}
    for number, file in enumerate(given):
        where = f"files.{number}"
        if not isinstance(file, dict):
            raise errors.invalid(f"{where} must be an object with a file_id.", where)
        fields.only(file, frozenset({"file_id", "attributes", "chunking_strategy"}), where)
        auto_chunking(file)
        file_id = file.get("file_id")
        if not isinstance(file_id, str) or not fields.is_id(file_id) or file_id in files:
            raise errors.invalid(f"{where}.file_id must be the id of an uploaded file, each once.", where)
        files[file_id] = fields.labels(file, "attributes")
    return files


async def get_batch(call: Call) -> Response:
    return await _shown(call)


async def cancel_batch(call: Call) -> Response:
    await attachments.cancel_batch(call, store_id(call), _batch_id(call))
    return await _shown(call)


async def list_batch(call: Call) -> Response:
    await attachments.get_batch(call, store_id(call), _batch_id(call))
    return await attached_page(call, _batch_id(call))


async def _shown(call: Call) -> Response:
    row = await attachments.get_batch(call, store_id(call), _batch_id(call))
    return json_answer(attachments.batch_object(_batch_id(call), row))


def _batch_id(call: Call) -> str:
    return str(call.request.path_params["batch_id"])


_endpoint = Family("vector_stores.file_batches", scope="documents", resource="file_batch")

_FILE = {"type": "object", "required": ["file_id"], "properties": {"file_id": {"type": "string"}, **ATTRIBUTES}}

ROUTES = (
    _endpoint(
        "POST",
        f"{STORE}/file_batches",
        "create",
        "Put several files into a vector store.",
        create_batch,
        body={
            "type": "object",
            "properties": {
                "file_ids": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_BATCH},
                "files": {"type": "array", "items": _FILE, "minItems": 1, "maxItems": MAX_BATCH},
                **ATTRIBUTES,
            },
        },
    ),
    _endpoint("GET", _BATCH, "retrieve", "How far a batch is.", get_batch),
    _endpoint("POST", f"{_BATCH}/cancel", "cancel", "Leave out what a batch has not completed.", cancel_batch),
    _endpoint("GET", f"{_BATCH}/files", "list_files", "List the files of a batch.", list_batch, query=PAGE),
)
