"""POST /v1/chat/completions: the tenant's prompt and documents around the client's messages, metered."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import orjson
from starlette.responses import Response

from tenantry_runtime import chat_request, completion, filters
from tenantry_runtime.answers import json_answer
from tenantry_runtime.call import Call
from tenantry_runtime.completion import Prepared
from tenantry_runtime.endpoint import Endpoint
from tenantry_runtime.streaming import EventStream

TOGETHER = 64
"""Events that are sent as one piece at most."""


async def create_completion(call: Call) -> Response:
    request = chat_request.read(await call.json(), call.configuration)
    prepared = await completion.prepare(call, request)
    if not request.stream:
        return json_answer(await completion.whole(call, prepared), prepared.headers)
    events = _events(completion.stream(call, prepared), prepared)
    return await EventStream.started(events, prepared.headers)


async def _events(chunks: AsyncGenerator[dict[str, Any], None], prepared: Prepared) -> AsyncGenerator[bytes, None]:
    """The client's events, the last one ``[DONE]``; the SDK raises for one with `error`.

    What has come together goes on together.
    """
    held: list[bytes] = []
    async with aclosing(chunks):
        async for chunk in chunks:
            if (shown := _shown(chunk, prepared.request.include_usage)) is not None:
                held.append(b"data: " + orjson.dumps(shown) + b"\n\n")
            if held and (not prepared.ahead or len(held) == TOGETHER):
                yield b"".join(held)
                held.clear()
    yield b"data: [DONE]\n\n"


def _shown(chunk: dict[str, Any], include_usage: bool) -> dict[str, Any] | None:
    """The chunk without a usage that was not asked for; None where it is only for us."""
    if include_usage or "usage" not in chunk:
        return chunk
    return {name: value for name, value in chunk.items() if name != "usage"} if chunk.get("choices") else None


ROUTES = (
    Endpoint(
        method="POST",
        path="/v1/chat/completions",
        summary="An answer to a conversation, from the tenant's documents, whole or as a stream.",
        scope="chat",
        kind="chat",
        action="chat.completions.create",
        resource="model",
        handler=create_completion,
        answer_types=("application/json", "text/event-stream"),
        body={
            "type": "object",
            "required": ["messages"],
            "properties": {
                "model": {"type": "string", "description": "One of GET /v1/models; default: the tenant's."},
                "messages": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": chat_request.MAX_MESSAGES,
                    "items": {
                        "type": "object",
                        "required": ["role"],
                        "properties": {"role": {"type": "string"}, "content": {}},
                    },
                },
                "stream": {"type": "boolean"},
                "n": {"type": "integer", "minimum": 1, "maximum": chat_request.MAX_CHOICES},
                "temperature": {"type": "number", "minimum": 0, "maximum": 2},
                "max_tokens": {"type": "integer", "minimum": 1},
                "max_completion_tokens": {"type": "integer", "minimum": 1},
                "tenantry": {
                    "type": "object",
                    "properties": {
                        "conversation": {"type": "string", "description": "Go on from it, and add to it."},
                        "retrieval": {
                            "description": "false: answer without documents.",
                            "oneOf": [
                                {"type": "boolean"},
                                {
                                    "type": "object",
                                    "properties": {
                                        "topK": {"type": "integer", "minimum": 1, "maximum": 50},
                                        "minScore": {"type": "number", "minimum": -1, "maximum": 1},
                                        "vectorStoreIds": {"type": "array", "items": {"type": "string"}},
                                        "filters": filters.SCHEMA,
                                    },
                                },
                            ],
                        },
                        "cache": {"type": "boolean", "description": "false: a new answer, which is not kept."},
                    },
                },
            },
        },
    ),
)
