"""A conversation's items made into chat messages, and from them."""

from collections.abc import Mapping, Sequence
from typing import Any

from tenantry_runtime import errors, tokens
from tenantry_runtime.conversation_items import Item, function_call, message, output_text, read

MAX_ANSWER = 1024 * 1024
"""Characters of an answer that are kept; what is longer is kept as `incomplete`."""


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
