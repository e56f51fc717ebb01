"""A provider that answers what a test tells it to, and remembers what it was asked."""

import asyncio
import base64
import functools
import hashlib
import json
import socket
import struct
import threading
from collections.abc import AsyncIterator
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.integration.runtime.stack import eventually


def chunk(**values: Any) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-mini", **values}


def delta(text: str) -> dict[str, Any]:
    return chunk(choices=[{"index": 0, "delta": {"content": text}, "finish_reason": None}])


EMBEDDING_TOKENS = 5
"""What each text that is embedded is said to have."""


@functools.lru_cache(64)
def _vector(text: str, dimensions: int, encoding: str) -> Any:
    """So many numbers, of length 1 together, that are the same for the same text."""
    seed = hashlib.sha256(text.encode()).digest()
    raw = [byte - 127.5 for byte in seed * -(-dimensions // len(seed))][:dimensions]
    length = sum(number * number for number in raw) ** 0.5
    vector = [number / length for number in raw]
    if encoding == "base64":
        return base64.b64encode(struct.pack(f"<{dimensions}f", *vector)).decode()
    return vector


class Upstream:
    """`events`: a stream's chunks, a number among them seconds to wait, an Event waited for; `answer`: a whole one.

    While `gate` is clear, requests wait; so many `failures` come before the answers.  `asked` holds what was asked of
    chat, `embedded` of embeddings, whose usage is told where `tells_usage`; `sent` counts a stream's chunks.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        app = Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/embeddings", self._embed, methods=["POST"]),
            ]
        )
        self._server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=2)
        )
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]}, daemon=True)
        self.reset()

    def __enter__(self) -> Self:
        self._thread.start()
        eventually(lambda: self._server.started)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(30)

    def reset(self) -> None:
        """Answer as at the start, and let go what waits."""
        if hasattr(self, "gate"):
            self.gate.set()
        self.asked: list[dict[str, Any]] = []
        self.embedded: list[dict[str, Any]] = []
        self.status = 200
        self.failures = 0
        self.all_that_is_granted = False
        self.tells_usage = True
        self.delay = 0.0
        self.gate = threading.Event()
        self.gate.set()
        self.sent = 0
        self.stopped = threading.Event()
        self.streaming = threading.Event()
        self.events: list[Any] = [delta("Hello"), delta(" there")]
        self.answer: dict[str, Any] = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "gpt-4o-mini",
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": "Hello there"}, "finish_reason": "stop"}
            ],
            "usage": {"prompt_tokens": 20, "completion_tokens": 2, "total_tokens": 22},
        }

    async def _embed(self, request: Request) -> Response:
        body = json.loads(await request.body())
        self.embedded.append(body)
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        how = body.get("dimensions", 256), body.get("encoding_format", "float")
        vectors = (_vector(json.dumps(text), *how) for text in texts)
        data = [{"object": "embedding", "index": n, "embedding": vector} for n, vector in enumerate(vectors)]
        used = EMBEDDING_TOKENS * len(texts)
        usage = {"prompt_tokens": used, "total_tokens": used}
        told = {"usage": usage} if self.tells_usage else {}
        return JSONResponse({"object": "list", "model": body["model"], "data": data, **told})

    async def _chat(self, request: Request) -> Response:
        body = json.loads(await request.body())
        self.asked.append(body)
        await asyncio.to_thread(self.gate.wait, 120)
        await asyncio.sleep(self.delay)
        if self.failures:
            self.failures -= 1
            return JSONResponse({"error": {"message": "Not now."}}, 500)
        if self.status != 200:
            error = {"message": "The provider's own words.", "type": "t", "param": "messages", "code": "c"}
            return JSONResponse({"error": error}, self.status)
        if body.get("stream"):
            return StreamingResponse(self._stream(), media_type="text/event-stream")
        if self.all_that_is_granted:
            return JSONResponse(
                {**self.answer, "usage": {"prompt_tokens": 20, "completion_tokens": body["max_tokens"]}}
            )
        return JSONResponse(self.answer)

    async def _stream(self) -> AsyncIterator[bytes]:
        try:
            for event in self.events:
                if isinstance(event, int | float):
                    self.streaming.set()
                    await asyncio.sleep(event)
                elif isinstance(event, threading.Event):
                    self.streaming.set()
                    await asyncio.to_thread(event.wait, 120)
                else:
                    self.sent += 1
                    await asyncio.sleep(0)  # to be stopped at
                    yield b"data: " + json.dumps(event).encode() + b"\n\n"
            yield b"data: [DONE]\n\n"
        finally:
            self.stopped.set()
