"""The items of a conversation: OpenAI's shapes read from a client, and made into chat messages and from them.

An item here is a finished object as `ConversationItem` of the SDK has it, with an id of ours.  Kept are messages of
text, function calls, their outputs, and file searches; images, files and other tools' items are refused.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from tenantry_runtime import errors, fields, tokens
from tenantry_runtime.documents import new_id

Item = dict[str, Any]

MAX_BATCH = 20
"""Items that one request may add, as with OpenAI."""
MAX_ITEM_BYTES = 1024 * 1024
"""JSON bytes of an item that a client adds."""
MAX_ANSWER = 1024 * 1024
"""Characters of an answer that are kept; what is longer is kept as `incomplete`."""

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


# --- Chat messages -------------------------------------------------------------------------------------------


def to_messages(items: Sequence[Item], answered: frozenset[str] = frozenset(), orphans: bool = False) -> list[Item]:
    """Chat messages of items, each call of a function directly followed by its output, as providers want it.

    Calls without an output, and outputs without a call, are left out: a cut at a token budget, or a client that
    went away, leaves such behind.  `answered`: ids of calls whose output begins the messages that follow;
    `orphans`: whether outputs stay whose calls were made in messages before.
    """
    calls = {item["call_id"] for item in items if item["type"] == "function_call"}
    outputs = {item["call_id"]: item["output"] for item in items if item["type"] == "function_call_output"}
    messages: list[Item] = []
    group: list[Item] = []
    last: list[Item] = []
    for item in items:
        kind = item["type"]
        if kind == "function_call" and item["call_id"] in answered:
            last.append(item)
        elif kind == "function_call" and item["call_id"] in outputs:
            group.append(item)
        elif kind == "message":
            _calls(messages, group, outputs)
            group = []
            messages.append({"role": item["role"], "content": _content(item["content"])})
        elif kind == "function_call_output" and orphans and item["call_id"] not in calls:
            messages.append({"role": "tool", "tool_call_id": item["call_id"], "content": item["output"]})
    _calls(messages, group, outputs)
    _calls(messages, last, {}, alone=bool(last) and items[-1] is not last[-1])
    return messages


def _calls(messages: list[Item], group: Sequence[Item], outputs: dict[str, str], alone: bool = False) -> None:
    """Add calls that were made together, and their outputs; to the answer they came with, unless they are `alone`."""
    if not group:
        return
    if alone or not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    messages[-1]["tool_calls"] = [
        {
            "id": item["call_id"],
            "type": "function",
            "function": {"name": item["name"], "arguments": item["arguments"]},
        }
        for item in group
    ]
    for item in group:
        if item["call_id"] in outputs:
            messages.append({"role": "tool", "tool_call_id": item["call_id"], "content": outputs[item["call_id"]]})


def _content(parts: Sequence[Item]) -> Any:
    if len(parts) == 1 and "text" in parts[0]:
        return parts[0]["text"]
    return [
        {"type": "refusal", "refusal": part["refusal"]}
        if part["type"] == "refusal"
        else {"type": "text", "text": part["text"]}
        for part in parts
    ]


def from_messages(messages: Sequence[Item]) -> list[Item]:
    """Items of a chat request's messages (read by chat_request); raises 422 and 413 as `read` does.

    System and developer messages hold for their call alone, as `instructions` do in OpenAI's Responses: a client
    that sends the same ones with each call would else say them again and again.
    """
    items = []
    for index, given in enumerate(messages):
        where, role = f"messages.{index}", given["role"]
        if role in ("system", "developer"):
            continue
        if role == "function":
            raise errors.invalid(f"{where}.role can't be function in a conversation: use tool.", f"{where}.role")
        if role == "tool":
            output = {"call_id": given.get("tool_call_id"), "output": tokens.message_text(given)}
            items.append(read(output | {"type": "function_call_output"}, where))
            continue
        if given.get("content"):
            items.append(read({"type": "message", "role": role, "content": given["content"]}, where))
        items.extend(_tool_calls(given, where))
    return items


def _tool_calls(given: Item, where: str) -> list[Item]:
    calls = given.get("tool_calls")
    if calls is None:
        return []
    if not isinstance(calls, list) or len(calls) > 128:
        raise errors.invalid(f"{where}.tool_calls must be a list of at most 128 calls.", f"{where}.tool_calls")
    items = []
    for index, call in enumerate(calls):
        place = f"{where}.tool_calls.{index}"
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise errors.invalid(f"{place} must be a call of a function.", place)
        items.append(read(function | {"type": "function_call", "call_id": call.get("id")}, place))
    return items


def answer_items(given: Item, status: str, identity: str) -> list[Item]:
    """Items of a chat answer's message, whole or as far as it was produced; `identity` is the first message's."""
    items = []
    parts: list[Item] = []
    if text := given.get("content"):
        if len(text) > MAX_ANSWER:
            text, status = text[:MAX_ANSWER], "incomplete"
        parts.append(output_text(text))
    if refusal := given.get("refusal"):
        parts.append({"type": "refusal", "refusal": refusal[:MAX_ANSWER]})
    if parts:
        items.append(message("assistant", parts, status, identity))
    for position, call in enumerate(given.get("tool_calls") or ()):
        function = call.get("function") or {}
        name, arguments = str(function.get("name") or ""), str(function.get("arguments") or "")
        own = call_identity(identity, call.get("index", position))
        items.append(function_call(str(call.get("id") or ""), name, arguments[:MAX_ANSWER], status, own))
    return items


def cited(items: list[Item], files: Mapping[str, str]) -> list[Item]:
    """The same, each text with a citation of each of these files (id -> name), whose text the model was given."""
    for item in items:
        for part in item.get("content", ()):
            if part["type"] == "output_text":
                part["annotations"] = [
                    {"type": "file_citation", "index": index, "file_id": file_id, "filename": filename}
                    for index, (file_id, filename) in enumerate(files.items())
                ]
    return items


def call_identity(answer: str, number: int) -> str:
    """The id of an answer's n-th call of a function, by the id of its message."""
    return f"fc_{answer.removeprefix('msg_')}{number:02}"
