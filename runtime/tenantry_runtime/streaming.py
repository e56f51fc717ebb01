"""Answers as server-sent events: sent as they come, ended as soon as the client goes away."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Self

from starlette.responses import Response
from starlette.types import Receive, Scope, Send


class EventStream(Response):
    """Sends `first`, then what `source` yields.  When the client goes away, `source` is closed, wherever it waits.

    `source` has been started (it yielded `first`), so that closing it runs its clean-up: `started` does that.
    `at_end` is called when all is over.
    """

    media_type = "text/event-stream"

    def __init__(self, first: bytes, source: AsyncGenerator[bytes, None], headers: Mapping[str, str]) -> None:
        self._first, self._source = first, source
        self.status_code = 200
        self.background = None
        self.body = b""
        self.at_end: Callable[[], None] = lambda: None
        # X-Accel-Buffering: proxies in between must not hold the events back.
        self.init_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **headers})
        if "content-length" in self.headers:
            del self.headers["content-length"]

    @classmethod
    async def started(cls, source: AsyncGenerator[bytes, None], headers: Mapping[str, str]) -> Self:
        """With the first piece there: what is refused before it is an answer of its own, not a broken stream."""
        return cls(await anext(source), source, headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self._send(send))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
            self.at_end()

    async def _send(self, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": self._first, "more_body": True})
            async for piece in self._source:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await self._source.aclose()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
