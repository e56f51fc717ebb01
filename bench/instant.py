"""A model provider whose answer is fixed and instant: ``python -m bench.instant PORT``.

The stand-in provider computes its answers, which takes milliseconds that would be somebody else's in a measurement.
This one parses as little HTTP as it must: some 15 microseconds of CPU an answer.
"""

import asyncio
import base64
import json
import struct
import sys
from typing import Any

import uvloop

WORDS = ("Refunds are paid within 30 days of the return, to the account that the order was paid from. " * 2).split()
PROMPT_TOKENS, ANSWER_TOKENS = 60, len(WORDS)
USAGE = {
    "prompt_tokens": PROMPT_TOKENS,
    "completion_tokens": ANSWER_TOKENS,
    "total_tokens": PROMPT_TOKENS + ANSWER_TOKENS,
}
_VECTOR = base64.b64encode(struct.pack("<256f", *[0.0625] * 256)).decode()
_HEAD = {"id": "chatcmpl-instant", "created": 1, "model": "gpt-4o-mini"}


def _answer(body: bytes, kind: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def _chunk(choices: list[dict[str, Any]], **more: Any) -> bytes:
    return b"data: " + json.dumps({**_HEAD, "object": "chat.completion.chunk", "choices": choices, **more}).encode()


def _whole() -> bytes:
    message = {"role": "assistant", "content": " ".join(WORDS)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps({**_HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE}).encode()


def _events() -> bytes:
    """A word a chunk, then the end, the usage and the mark; all at once, so that nobody waits for the next one."""
    deltas = [{"role": "assistant", "content": ""}, *({"content": f" {word}"} for word in WORDS)]
    chunks = [_chunk([{"index": 0, "delta": delta, "finish_reason": None}]) for delta in deltas]
    chunks += [_chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}]), _chunk([], usage=USAGE), b"data: [DONE]"]
    return b"".join(chunk + b"\n\n" for chunk in chunks)


WHOLE = _answer(_whole(), "application/json")
STREAM = _answer(_events(), "text/event-stream")


def _embeddings(body: bytes) -> bytes:
    given = json.loads(body)
    texts = [given["input"]] if isinstance(given["input"], str) else given["input"]
    vector = _VECTOR if given.get("encoding_format") == "base64" else [0.0625] * 256
    data = [{"object": "embedding", "index": n, "embedding": vector} for n in range(len(texts))]
    usage = {"prompt_tokens": 8 * len(texts), "total_tokens": 8 * len(texts)}
    return _answer(
        json.dumps({"object": "list", "data": data, "model": given["model"], "usage": usage}).encode(),
        "application/json",
    )


class Instant(asyncio.Protocol):
    """Requests with a Content-Length, one after the other."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            at = head.find(b"\r\ncontent-length:")
            length = int(head[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._buffer) < end + 4 + length:
                return
            body, self._buffer = self._buffer[end + 4 : end + 4 + length], self._buffer[end + 4 + length :]
            self._transport.write(self._reply(head, body))

    def _reply(self, head: bytes, body: bytes) -> bytes:
        if b"/embeddings" in head.split(b"\r\n", 1)[0]:
            return _embeddings(body)
        return STREAM if b'"stream":true' in body or b'"stream": true' in body else WHOLE


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Instant, "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.Runner(loop_factory=uvloop.new_event_loop).run(serve(int(sys.argv[1])))
