"""The items of a conversation: OpenAI's shapes, read from a client and made here.

An item here is a finished object as `ConversationItem` of the SDK has it, with an id of ours.  Kept are messages of
text, function calls, their outputs, and file searches; images, files and other tools' items are refused.
"""

from collections.abc import Sequence
from typing import Any

import orjson

from tenantry_runtime import errors, fields, tokens
from tenantry_runtime.documents import new_id

Item = dict[str, Any]

MAX_BATCH = 20
"""Items that one request may add, as with OpenAI."""
MAX_ITEM_BYTES = 1024 * 1024
"""JSON bytes of an item that a client adds."""

_ROLES = ("assistant", "developer", "system", "user")
_STATUSES = ("completed", "in_progress", "incomplete")
_TEXTS = frozenset({"input_text", "output_text", "text"})


def read_all(given: Any, name: str, most: int = MAX_BATCH) -> list[Item]:
    """Items as a client sends them.  Raises 422 or 413 with the field's name."""
    if not isinstance(given, list) or not 1 <= len(given) <= most:
        raise errors.invalid(f"{name} must be a list of 1 to {most} items.", name)
    return [read(item, f"{name}.{index}") for index, item in enumerate(given)]


def read(given: Any, where: str) -> Item:
    """One item; its id is ours, whatever id it came with."""
    if not isinstance(given, dict):
        raise errors.invalid(f"{where} must be an object.", where)
    kind = given.get("type") or ("message" if "role" in given else None)
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        raise errors.invalid(f"{where}.type must be one of {', '.join(_READERS)}.", f"{where}.type")
    item = reader(given, where)
    if item_bytes(item) > MAX_ITEM_BYTES:
        raise errors.too_large(f"{where} is larger than {MAX_ITEM_BYTES} bytes: split it.", where)
    return item


def _message(given: Item, where: str) -> Item:
    role = given.get("role")
    if role not in _ROLES:
        raise errors.invalid(f"{where}.role must be one of {', '.join(_ROLES)}.", f"{where}.role")
    content = given.get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list) or not parts:
        raise errors.invalid(f"{where}.content must be a text, or a list of text parts.", f"{where}.content")
    return message(role, [_part(part, role, f"{where}.content.{n}") for n, part in enumerate(parts)], _status(given))


def _part(part: Any, role: str, where: str) -> Item:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "refusal" and role == "assistant":
        return {"type": "refusal", "refusal": _text(part, "refusal", where)}
    if not isinstance(kind, str) or kind not in _TEXTS:
        raise errors.invalid(f"{where} must be a text part: images, sound and files are not kept here.", where)
    text = _text(part, "text", where)
    return output_text(text, _citations(part)) if role == "assistant" else {"type": "input_text", "text": text}


def _citations(part: Item) -> list[Item]:
    """The citations of files that a client hands back with an answer; others are left out."""
    found = part.get("annotations")
    return [
        {name: citation[name] for name in ("type", "index", "file_id", "filename")}
        for citation in (found if isinstance(found, list) else [])
        if isinstance(citation, dict)
        and citation.get("type") == "file_citation"
        and isinstance(citation.get("index"), int)
        and all(isinstance(citation.get(name), str) for name in ("file_id", "filename"))
    ][:100]


def _function_call(given: Item, where: str) -> Item:
    call_id, name = (_text(given, field, where, 256) for field in ("call_id", "name"))
    return function_call(call_id, name, _text(given, "arguments", where), _status(given))


def _function_output(given: Item, where: str) -> Item:
    output = given.get("output")
    if isinstance(output, list):
        texts = [_text(part, "text", f"{where}.output.{n}") for n, part in enumerate(output) if isinstance(part, dict)]
        if len(texts) != len(output):
            raise errors.invalid(f"{where}.output must be a text, or a list of text parts.", f"{where}.output")
        given = given | {"output": "\n".join(texts)}
    return function_output(_text(given, "call_id", where, 256), _text(given, "output", where))


def _file_search(given: Item, where: str) -> Item:
    queries = given.get("queries")
    if not isinstance(queries, list) or len(queries) > 10 or not all(isinstance(query, str) for query in queries):
        raise errors.invalid(f"{where}.queries must be a list of at most 10 texts.", f"{where}.queries")
    return file_search(queries)


_READERS = {
    "message": _message,
    "function_call": _function_call,
    "function_call_output": _function_output,
    "file_search_call": _file_search,
}


def _text(given: Item, name: str, where: str, longest: int = MAX_ITEM_BYTES) -> str:
    value = fields.text({f"{where}.{name}": given.get(name)}, f"{where}.{name}", longest=longest)
    if value is None:
        raise errors.invalid(f"{where}.{name} must be a text.", f"{where}.{name}")
    return value


def _status(given: Item) -> str:
    status = given.get("status")
    return status if isinstance(status, str) and status in _STATUSES else "completed"


# --- Making items --------------------------------------------------------------------------------------------


def message(role: str, content: list[Item], status: str = "completed", identity: str = "") -> Item:
    return {
        "id": identity or new_id("msg_"),
        "type": "message",
        "status": status,
        "role": role,
        "content": content,
    }


def output_text(text: str, annotations: Sequence[Item] = ()) -> Item:
    return {"type": "output_text", "text": text, "annotations": list(annotations), "logprobs": []}


def function_call(call_id: str, name: str, arguments: str, status: str = "completed", identity: str = "") -> Item:
    return {
        "id": identity or new_id("fc_"),
        "type": "function_call",
        "status": status,
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
    }


def function_output(call_id: str, output: str) -> Item:
    return {
        "id": new_id("fco_"),
        "type": "function_call_output",
        "status": "completed",
        "call_id": call_id,
        "output": output,
    }


def file_search(queries: Sequence[str], results: list[Item] | None = None, identity: str = "") -> Item:
    return {
        "id": identity or new_id("fs_"),
        "type": "file_search_call",
        "status": "completed",
        "queries": list(queries),
        "results": results,
    }


def item_bytes(item: Item) -> int:
    return len(orjson.dumps(item))


def item_tokens(item: Item) -> int:
    """About the tokens that an item takes when it is sent to a model."""
    if item["type"] == "file_search_call":
        return 0
    texts = [part.get("text") or part.get("refusal") or "" for part in item.get("content", ())]
    texts.extend(str(item[name]) for name in ("name", "arguments", "output") if item.get(name))
    return tokens.PER_MESSAGE + sum(map(tokens.estimate, texts))


def is_answer(item: Item) -> bool:
    """Whether an item is what a model said, and so can be rated."""
    return bool(item["type"] == "message" and item["role"] == "assistant")
