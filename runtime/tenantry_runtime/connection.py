"""What one connection may take of the process, whoever is at its other end, and refusals in OpenAI's own shape.

uvicorn with httptools limits neither how long a head or a body may take, nor how large a head may be, and answers
what it can't read in plain text.  Here every phase of a connection has an end:

- nothing sent: `HEAD_SECONDS` for the first request, the server's keep-alive between two
- the head of a request: `MAX_HEAD` bytes (431), `HEAD_SECONDS` (408)
- its body: `BODY_SECONDS`, and a second more for each `RATE` bytes (408); time in which we did not read is ours
- what is still sent after the answer (a body that was too large) is read and thrown away for `LINGER_SECONDS`
- an answer that the client does not read: `UNREAD_SECONDS`, and a second more for each `RATE` bytes that it has taken

Deadlines are looked at once a second for all connections together: a request sets no timer.
"""

import asyncio
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Literal

import orjson
import uvicorn
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from tenantry_runtime import errors

MAX_HEAD = 32 * 1024
"""Bytes of a request's line and headers, trailers included: a key, a user and a few dozen others."""
MAX_CONNECTIONS = 2048
HEAD_SECONDS = 15.0
BODY_SECONDS = 20.0
UNREAD_SECONDS = 40.0
"""With what a transport holds at `RATE` less than a reservation outlives its call (`service.LEASE_MARGIN`): a stream
that nobody reads is settled before its lease runs out."""
LINGER_SECONDS = 20.0
RATE = 4096
"""Bytes a second below which a client is too slow."""


class _HeadTooLargeError(Exception):
    """Raised inside the parser, which then stops."""


class Connection(HttpToolsProtocol):
    """uvicorn's protocol with the limits above."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._phase: Literal["idle", "head", "body"] = "idle"
        self._began = self._looked = self.loop.time()  # of the phase, and of the last look
        self._head = 0  # bytes of this request's line, headers and trailers
        self._unparsed = 0  # bytes since the parser last told of something complete
        self._received = 0  # bytes of this request's body
        self._stalled: float | None = None  # since when the client has not read
        self._unread = 0  # and how much it left then
        self._ended: float | None = None  # when we had said our last word

    # --- What the transport tells ----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        if len(self.connections) > MAX_CONNECTIONS:
            self.refuse(errors.unavailable("Too many connections are open here.", "too_many_connections"))

    def data_received(self, data: bytes) -> None:
        if self._ended is not None:
            return
        self._unparsed += len(data)
        super().data_received(data)
        if self._unparsed > MAX_HEAD and self._ended is None:
            self.refuse(_head_too_large())

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.time()
        self._unread = self.transport.get_write_buffer_size()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stalled = None

    def shutdown(self) -> None:
        if self._ended is not None:
            self.transport.close()
        else:
            super().shutdown()

    # --- What the parser tells -------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head = 0
        self._phase, self._began = "head", self.loop.time()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)  # an empty one takes memory too
        if self._phase == "head":  # a trailer is no header: nothing here reads one
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._phase, self._began = "body", self.loop.time()
        self._received = self._unparsed = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._received += len(body)
        self._unparsed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._phase, self._began = "idle", self.loop.time()
        self._unparsed = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._began = self.loop.time()
        if self._phase == "body" and self.expect_100_continue and not self._received and self.cycle.response_complete:
            # It was not told to go on, and will not: its next bytes are another request, not this one's body.
            self.transport.close()

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > MAX_HEAD:
            raise _HeadTooLargeError

    # --- Ends ------------------------------------------------------------------------------------------------

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls for anything that its parser stops at, our own limit included."""
        if self._head > MAX_HEAD:
            self.refuse(_head_too_large())
        else:
            self.refuse(errors.ApiError(400, "This is no HTTP/1.1 request that can be read.", code="bad_request"))

    def refuse(self, error: errors.ApiError) -> None:
        """Answer, and take no more: what still comes is thrown away, so that the answer is not lost with it."""
        if self.transport.is_closing():
            return
        self._ended = self.loop.time()
        self._unset_keepalive_if_required()
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True  # the application learns that the client has gone
            cycle.message_event.set()
            if cycle.response_started or self.pipeline:  # another answer is on its way: this one can't be told apart
                self.transport.close()
                return
        self.flow.resume_reading()
        self.transport.write(_answer(error))
        self.transport.write_eof()

    def look(self, now: float) -> None:
        """End what has taken too long."""
        step, self._looked = now - self._looked, now
        if self.transport.is_closing() or self._ended is not None:
            if self._ended is None:
                self._ended = now
            if now - self._ended > LINGER_SECONDS:
                self.transport.abort()
            return
        if self._stalled is not None:
            taken = self._unread - self.transport.get_write_buffer_size()
            if now - self._stalled > UNREAD_SECONDS + taken / RATE:
                self.transport.abort()
                return
        busy = self.cycle is not None and not self.cycle.response_complete
        if self.flow.read_paused or (busy and self._phase != "body"):
            self._began += step  # it is we who do not go on
            return
        waited = now - self._began
        if self._phase == "idle":
            if waited > (HEAD_SECONDS if self.cycle is None else self.timeout_keep_alive):
                self.transport.close()
        elif self._phase == "head":
            if waited > HEAD_SECONDS:
                self.refuse(_too_slow("head"))
        elif not busy:
            if waited > LINGER_SECONDS:
                self.transport.close()
        elif waited > BODY_SECONDS + self._received / RATE:
            self.refuse(_too_slow("body"))


async def look_after(servers: Iterable[uvicorn.Server], every: float = 1) -> None:
    """Look at all connections of these servers until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(every)
        for server in servers:
            for connection in list(server.server_state.connections):
                if isinstance(connection, Connection):
                    connection.look(loop.time())


def _head_too_large() -> errors.ApiError:
    return errors.ApiError(431, f"The request's headers are larger than {MAX_HEAD} bytes.", code="headers_too_large")


def _too_slow(part: str) -> errors.ApiError:
    return errors.ApiError(408, f"The request's {part} did not come in time: send it again.", code="request_timeout")


def _answer(error: errors.ApiError) -> bytes:
    body = orjson.dumps(error.body())
    lines = [
        f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        "connection: close",
        *(f"{name}: {value}" for name, value in error.headers.items()),
    ]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
