"""/v1/files: the tenant's documents."""

import codecs
import re
from collections.abc import AsyncIterator
from pathlib import PurePath
from urllib.parse import quote

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message

from tenantry_runtime import documents, errors, extract
from tenantry_runtime.answers import PAGE, json_answer, list_of, page
from tenantry_runtime.call import Call
from tenantry_runtime.endpoint import Family
from tenantry_runtime.store import Row

PURPOSES = ("assistants", "user_data")
TYPES = (".txt", ".md", ".markdown", ".json", ".csv", *extract.READ)
_FORM_BYTES = 64 * 1024
"""What a form may hold besides its file."""
_UTF8 = re.compile(r"""charset="?utf-?8"?""")


async def create_file(call: Call) -> Response:
    most = call.configuration.documents.max_file_bytes
    request = _limited(call.request, most)
    try:
        async with call.service.uploads.place() as place:
            coming = Request(request.scope, place.counted(request.receive))
            async with place.coming():
                form = await coming.form(max_files=1, max_fields=8, max_part_size=_FORM_BYTES)
            try:
                row = await _kept(call, form, most)
            finally:
                await form.close()
    except HTTPException:  # what Starlette makes of a form that it can't read
        raise errors.invalid("The body must be multipart/form-data with one file and its purpose.", "file") from None
    return json_answer(documents.file_object(row))


async def _kept(call: Call, form: FormData, most: int) -> Row:
    """The new file's row.  Raises 413 and 422 for what may not be kept."""
    upload, purpose = form.get("file"), form.get("purpose")
    if not isinstance(upload, UploadFile):
        raise errors.invalid("file must be a file, sent as multipart/form-data.", "file")
    if purpose not in PURPOSES:
        raise errors.invalid(f"purpose must be one of {', '.join(PURPOSES)}.", "purpose")
    name = _name(upload.filename or "")
    size = await (_size(upload) if extract.kind_of(name) else _check_text(upload))
    if size > most:
        raise _too_large(most)
    row = await documents.add_file(call, name, str(purpose), size, _parts(upload))
    call.event.resource_id = row[0]
    call.event.basic["bytes"] = size
    return row


def _too_large(most: int) -> errors.ApiError:
    return errors.too_large(f"A file of this tenant's may have {most} bytes: split it, or upload less.", "file")


def _limited(request: Request, most: int) -> Request:
    """The same request, cut off as soon as it is known to be too large."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most + _FORM_BYTES:
        raise _too_large(most)
    kind = request.headers.get("content-type", "").lower()
    # Names in another character set could be made to be no text at all.
    if not kind.startswith("multipart/form-data") or "charset" in _UTF8.sub("", kind):
        raise errors.invalid("The body must be multipart/form-data (UTF-8) with one file and its purpose.", "file")
    seen = 0

    async def receive() -> Message:
        nonlocal seen
        message = await request.receive()
        seen += len(message.get("body", b""))
        if seen > most + _FORM_BYTES:
            raise _too_large(most)
        return message

    return Request(request.scope, receive)


def _name(given: str) -> str:
    name = PurePath(given.replace("\\", "/")).name
    if not 1 <= len(name) <= 255 or any(ord(character) < 32 for character in name):
        raise errors.invalid("The file's name must have 1 to 255 characters, none of them a control character.", "file")
    if not name.lower().endswith(TYPES):
        raise errors.invalid(f"Only {', '.join(TYPES)} files are read: convert it.", "file", "unsupported_file")
    return name


async def _parts(upload: UploadFile) -> AsyncIterator[bytes]:
    await upload.seek(0)
    while data := await upload.read(documents.PART):
        yield data


async def _size(upload: UploadFile) -> int:
    return sum([len(data) async for data in _parts(upload)])


async def _check_text(upload: UploadFile) -> int:
    """The file's size; raises 422 for what is no UTF-8 text."""
    decoder, size = codecs.getincrementaldecoder("utf-8")(), 0
    try:
        async for data in _parts(upload):
            size += len(data)
            if "\x00" in decoder.decode(data):
                raise errors.invalid("The file holds NUL characters: it is no text.", "file", "invalid_file")
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise errors.invalid("The file is no UTF-8 text: convert it.", "file", "invalid_file") from None
    return size


async def list_files(call: Call) -> Response:
    limit, descending, after = page(call.request.query_params, most=10_000, default=1000)
    purpose = call.request.query_params.get("purpose")
    if purpose is not None and purpose not in PURPOSES:
        raise errors.invalid(f"purpose must be one of {', '.join(PURPOSES)}.", "purpose")
    order, compare = ("DESC", "<") if descending else ("ASC", ">")
    rows = await call.fetch(
        f"SELECT {documents.FILE_COLUMNS} FROM files "  # noqa: S608
        "WHERE status = 'uploaded' AND (%s::text IS NULL OR purpose = %s) AND (%s::text IS NULL OR "
        f"(created_at, id) {compare} (SELECT created_at, id FROM files WHERE id = %s)) "
        f"ORDER BY created_at {order}, id {order} LIMIT %s",
        (purpose, purpose, after, after, limit + 1),
    )
    return json_answer(list_of([documents.file_object(row) for row in rows[:limit]], len(rows) > limit))


async def get_file(call: Call) -> Response:
    return json_answer(documents.file_object(await documents.get_file(call, call.request.path_params["file_id"])))


async def get_content(call: Call) -> Response:
    row = await documents.get_file(call, call.request.path_params["file_id"])
    headers = {
        # Whatever is in it, a browser must not run it.
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(row[1])}",
        "Content-Length": str(row[3]),
        "X-Content-Type-Options": "nosniff",
    }
    return StreamingResponse(documents.file_bytes(call, row[0]), headers=headers, media_type="application/octet-stream")


async def delete_file(call: Call) -> Response:
    identity = call.request.path_params["file_id"]
    await documents.delete_file(call, identity)
    return json_answer({"id": identity, "object": "file", "deleted": True})


async def delete_all(call: Call) -> Response:
    """Asked for by name, so that it happens to the tenant that was meant, and to none by accident."""
    if call.request.query_params.get("confirm") != call.configuration.tenant:
        sentence = "This deletes all of the tenant's documents: say that you mean it with ?confirm=<the tenant's name>."
        raise errors.invalid(sentence, "confirm")
    count = await documents.delete_all_files(call)
    call.event.basic["files"] = count
    return json_answer({"object": "list.deleted", "deleted": True, "count": count})


_endpoint = Family("files", scope="documents", resource="file")

ROUTES = (
    _endpoint(
        "POST",
        "/v1/files",
        "create",
        "Upload a document (text, markdown, JSON, CSV, as UTF-8; HTML, PDF).",
        create_file,
        body_type="multipart/form-data",
        body={
            "type": "object",
            "required": ["file", "purpose"],
            "properties": {
                "file": {"type": "string", "format": "binary"},
                "purpose": {"type": "string", "enum": list(PURPOSES)},
            },
        },
    ),
    _endpoint("GET", "/v1/files", "list", "List documents.", list_files, query=PAGE),
    _endpoint("GET", "/v1/files/{file_id}", "retrieve", "One document.", get_file),
    _endpoint(
        "GET",
        "/v1/files/{file_id}/content",
        "content",
        "A document's content.",
        get_content,
        answer_types=("application/octet-stream",),
    ),
    _endpoint("DELETE", "/v1/files/{file_id}", "delete", "Delete a document, in all vector stores too.", delete_file),
    _endpoint(
        "DELETE",
        "/v1/files",
        "delete_all",
        "Delete all documents of the tenant's, in all vector stores too.",
        delete_all,
        query=(
            {
                "name": "confirm",
                "in": "query",
                "required": True,
                "description": "The tenant's name.",
                "schema": {"type": "string"},
            },
        ),
    ),
)
