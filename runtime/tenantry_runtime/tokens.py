"""How many tokens a text may have, before a call: without a tokenizer.

Two numbers, for two uses.  The minute's and day's limits take an estimate, which the settlement corrects by
the provider's own count.  Money takes a bound that no byte-level tokenizer can exceed (a token is at least one
byte), so that what was reserved always covers what is owed.  A tokenizer's count would be nearer, and could be less
than the provider's own; it serves where a provider does not say what a call did use (see `tokenizer`).
"""

import math
from typing import Any

import orjson

PER_MESSAGE = 4
"""Tokens of the frame around a message (OpenAI's cookbook counts 3, and 1 for a name)."""
PER_CALL = 3
BOUND_PER_MESSAGE = 16
BOUND_PER_CALL = 64


def estimate(text: str) -> int:
    """About the tokens of a text: 3.5 ASCII characters each; more for what UTF-8 takes several bytes for."""
    if not text:
        return 0
    return math.ceil(len(text) / 3.5 + 0.6 * (byte_length(text) - len(text)))


def byte_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def message_text(message: dict[str, Any]) -> str:
    """The text of a message's content: a string, or the text parts of a list."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return ""


def prompt_size(body: dict[str, Any]) -> tuple[int, int]:
    """The estimate and the bound of what a chat request sends: messages, tools and the answer's schema."""
    count, size = PER_CALL, BOUND_PER_CALL
    for message in body["messages"]:
        count += PER_MESSAGE + estimate(message_text(message))
        size += BOUND_PER_MESSAGE + len(orjson.dumps(message))
        if calls := message.get("tool_calls"):
            count += estimate(orjson.dumps(calls).decode())
    for field in ("tools", "functions", "response_format"):
        if body.get(field):
            encoded = orjson.dumps(body[field])
            count += estimate(encoded.decode())
            size += 2 * len(encoded)  # providers rewrite schemas into text of their own
    return count, size
