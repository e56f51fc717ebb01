"""The stand-in's HTTP side: `/v1/models`, `/v1/chat/completions`, `/v1/embeddings`."""

import asyncio
import hmac
import json
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from dev.provider import CHAT_MODELS, DIMENSION, EMBEDDING_MODEL, NAME
from dev.provider.answer import answer, text_of
from dev.provider.embedding import Embedder, to_base64

PER_MESSAGE = 4
"""Tokens that a chat format spends on a message's frame."""

_SLOWLY = re.compile(r"\(Take (\d{1,2}) s\.\)")
"""A question that begins so is streamed evenly over that time, as a real model's long answer is."""


class BadRequest(Exception):
    """Answered in OpenAI's error object; `param` names the field."""

    def __init__(self, message: str, param: str | None = None, status: int = 400, code: str | None = None):
        super().__init__(message)
        self.message, self.param, self.status, self.code = message, param, status, code


def create_app(api_key: str, embedder: Embedder | None = None) -> Starlette:
    """The application; every route but `/healthz` asks for `Authorization: Bearer <api_key>`."""
    model = embedder or Embedder()

    def guarded(
        handler: Callable[[dict[str, Any]], Response], body: bool = True
    ) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            given = request.headers.get("authorization", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {api_key}".encode()):
                raise BadRequest("Incorrect API key provided.", status=401, code="invalid_api_key")
            return handler(await _json(request) if body else {})

        return endpoint

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok", "name": NAME})

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/v1/models", guarded(_models, body=False)),
            Route("/v1/chat/completions", guarded(lambda body: _chat(body, model)), methods=["POST"]),
            Route("/v1/embeddings", guarded(lambda body: _embeddings(body, model)), methods=["POST"]),
        ],
        exception_handlers={BadRequest: _refuse},
    )


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, BadRequest)
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    body = {"message": error.message, "type": kind, "param": error.param, "code": error.code}
    return JSONResponse({"error": body}, status_code=error.status)


async def _json(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body())
    except ValueError:
        raise BadRequest("The body is no JSON.") from None
    if not isinstance(body, dict):
        raise BadRequest("The body must be a JSON object.")
    return body


def _models(_: dict[str, Any]) -> Response:
    data = [{"id": name, "object": "model", "created": 0, "owned_by": NAME} for name in (*CHAT_MODELS, EMBEDDING_MODEL)]
    return JSONResponse({"object": "list", "data": data})


def _positive(body: dict[str, Any], field: str, default: int | None = None) -> int | None:
    value = body.get(field)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise BadRequest(f"{field} must be a positive integer.", field)
    return value


def _chat(body: dict[str, Any], embedder: Embedder) -> Response:
    model, messages = body.get("model"), body.get("messages")
    if model not in CHAT_MODELS:
        raise BadRequest(f"The model `{model}` does not exist.", "model", 404, "model_not_found")
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        raise BadRequest("messages must be a list of messages with at least one.", "messages")
    shape = (body.get("response_format") or {}).get("type", "text")
    if shape not in ("text", "json_object"):
        raise BadRequest(f"{NAME} does not make {shape}.", "response_format")
    if body.get("tool_choice") not in (None, "auto", "none"):
        raise BadRequest(f"{NAME} calls no tools.", "tool_choice")
    choices = _positive(body, "n", 1) or 1
    limit = _positive(body, "max_completion_tokens") or _positive(body, "max_tokens")

    text = answer(messages, embedder)
    if shape == "json_object":
        text = json.dumps({"answer": text})
    text, tokens, cut = embedder.cut(text, limit) if limit else (text, embedder.count(text), False)
    prompt = 3 + sum(PER_MESSAGE + embedder.count(text_of(message)) for message in messages)
    prompt += embedder.count(json.dumps(body["tools"])) if body.get("tools") else 0
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": tokens * choices,
        "total_tokens": prompt + tokens * choices,
    }
    head = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": NAME,
    }
    reason = "length" if cut else "stop"
    if body.get("stream"):
        with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        slowly = _SLOWLY.match(text_of(messages[-1]))
        seconds = int(slowly[1]) if slowly else 0
        events = _events(head, text, choices, reason, usage if with_usage else None, seconds)
        return StreamingResponse(events, media_type="text/event-stream")
    return JSONResponse(
        {
            **head,
            "object": "chat.completion",
            "choices": [
                {
                    "index": index,
                    "message": {"role": "assistant", "content": text, "refusal": None},
                    "logprobs": None,
                    "finish_reason": reason,
                }
                for index in range(choices)
            ],
            "usage": usage,
        }
    )


async def _events(
    head: dict[str, Any], text: str, choices: int, reason: str, usage: dict[str, int] | None, seconds: int
) -> AsyncIterator[bytes]:
    """Server-sent events as OpenAI sends them: a word a chunk; usage, where asked for, in one last chunk.

    The words are spread over `seconds`.
    """
    common = {**head, "object": "chat.completion.chunk"} | ({"usage": None} if usage else {})

    def chunk(index: int, delta: dict[str, str], finish: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        return b"data: " + json.dumps({**common, "choices": [choice]}).encode() + b"\n\n"

    for index in range(choices):
        yield chunk(index, {"role": "assistant", "content": ""})
        words = text.split(" ")
        for number, word in enumerate(words):
            if seconds:
                await asyncio.sleep(seconds / choices / len(words))
            yield chunk(index, {"content": f" {word}" if number else word})
        yield chunk(index, {}, reason)
    if usage:
        yield b"data: " + json.dumps({**common, "choices": [], "usage": usage}).encode() + b"\n\n"
    yield b"data: [DONE]\n\n"


def _embeddings(body: dict[str, Any], embedder: Embedder) -> Response:
    if body.get("model") != EMBEDDING_MODEL:
        raise BadRequest(f"The model `{body.get('model')}` does not exist.", "model", 404, "model_not_found")
    given = body.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and t for t in texts):
        raise BadRequest(f"input must be a text or a list of texts, none empty: {NAME} takes no token ids.")
    if body.get("dimensions") not in (None, DIMENSION):
        raise BadRequest(f"{EMBEDDING_MODEL} has {DIMENSION} dimensions.", "dimensions")
    encoding = body.get("encoding_format", "float")
    if encoding not in ("float", "base64"):
        raise BadRequest("encoding_format must be float or base64.", "encoding_format")
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": to_base64(vector) if encoding == "base64" else vector.tolist(),
        }
        for index, vector in enumerate(embedder.embed(texts))
    ]
    tokens = sum(embedder.count(text) for text in texts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return JSONResponse({"object": "list", "model": EMBEDDING_MODEL, "data": data, "usage": usage})
