"""What one connection may take of the process, whoever is at its other end, and refusals in OpenAI's own shape.

uvicorn with httptools limits neither how long a head or a body may take, nor how large a head may be, and answers
what it can't read in plain text.  Here every phase of a connection has an end:

- nothing sent: `HEAD_SECONDS` for the first request, the server's keep-alive between two
- the head of a request: `MAX_HEAD` bytes (431), `HEAD_SECONDS` (408)
- its body: `BODY_SECONDS`, and a second more for each `RATE` bytes (408); time in which we did not read is ours
- what is still sent after the answer (a body that was too large) is read and thrown away for `LINGER_SECONDS`
- an answer that the client does not read: `UNREAD_SECONDS`, and a second more for each `RATE` bytes that it has taken

What all clients of a port leave unread is bounded, too (`MAX_UNREAD`): above it those whose end is nearest, so who read
least for longest, are cut at once.  To know it, a whole answer goes to the transport in pieces, once the application
has returned: a transport holds what it was given until the last byte of it is sent, and tells only of what is not.

Deadlines are looked at once a second for all connections together: a request sets no timer.
"""

import asyncio
import contextlib
import math
import socket
import struct
from collections import deque
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import Any, Literal

import orjson
import uvicorn
from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope
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
MAX_UNREAD = 96 * 1024 * 1024
"""Bytes of whole answers that all clients of a port together may leave unread, beside `PIECE` and `AHEAD` of each: more
than two of the largest there are (`provider.MAX_ANSWER`)."""
PIECE = 32 * 1024
AHEAD = 16 * 1024
"""Bytes that a transport takes before it asks to wait."""
SYSTEM = 128 * 1024
"""Bytes of a connection (twice that, as Linux counts) that the system takes; by itself it takes up to 4 MB, which are
the Pod's memory too, and would tell of a slow reader's progress only when a third of them has been read."""
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
        self._stalled: float | None = None  # since when the client has not read all of an answer
        self._unread = 0  # and how much it left then
        self._waiting = 0  # bytes of a whole answer that the transport has not been given
        self._answering: Any = None  # the cycle whose answer is under way: with pipelining `cycle` is a later one
        self._application = self.app
        self.app = self._run
        self._ended: float | None = None  # when we had said our last word

    # --- What the transport tells ----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self.transport.set_write_buffer_limits(high=AHEAD)
        if len(self.connections) > MAX_CONNECTIONS:
            self.refuse(errors.unavailable("Too many connections are open here.", "too_many_connections"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._ended is not None:
            return
        self._unparsed += len(data)
        super().data_received(data)
        if self._unparsed > MAX_HEAD and self._ended is None:
            self.refuse(_head_too_large())

    def pause_writing(self) -> None:
        super().pause_writing()
        if not self._waiting:
            self._stalls()  # else `_send` says so, once for a whole answer

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self._waiting:
            self._stalled = None

    def shutdown(self) -> None:
        if self._ended is not None:
            self.transport.close()
        else:
            super().shutdown()

    # --- What the application answers ------------------------------------------------------------------------

    async def _run(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """The application; a whole answer is sent when it has returned, and has let go what it held of the request."""
        self._answering = getattr(send, "__self__", None)
        start: Any = None
        whole: list[Any] = []

        async def answer(message: Any) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message  # what is sent waits for the answer before this one, and would hold this one unseen
                return
            if start is not None:
                if message["type"] == "http.response.body" and not message.get("more_body", False):
                    whole.extend((start, message.get("body", b"")))
                    return
                await send(start)
                start = None
            await send(message)

        try:
            await self._application(scope, receive, answer)
        finally:  # an error has its answer, too
            if whole:
                first, body = whole
                whole.clear()
                pieces = deque(body[place : place + PIECE] for place in range(0, len(body), PIECE)) or deque([b""])
                del body
                await self._send(first, pieces, send)

    async def _send(self, start: Any, pieces: "deque[bytes]", send: ASGISendCallable) -> None:
        if len(pieces) == 1:
            with _joined(self._answering):
                await send(start)
                await send({"type": "http.response.body", "body": pieces.popleft(), "more_body": False})
            return
        self._waiting, looked = sum(map(len, pieces)), False
        try:
            await send(start)
            while pieces:  # also where the client has gone: `send` tells of that by doing nothing
                piece = pieces.popleft()
                await send({"type": "http.response.body", "body": piece, "more_body": bool(pieces)})
                self._waiting = max(0, self._waiting - len(piece))
                if not looked and self.flow.write_paused:
                    looked = True
                    self._stalls()  # not before: what the system took at once says nothing of the client
                    make_room(self.connections)
        finally:
            self._waiting = 0
            if not self.flow.write_paused:
                self._stalled = None

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
        if self._stalled is not None and now > self.patience:
            self.cut()
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

    # --- What is left unread ---------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Bytes of a whole answer that wait until the client has taken what was sent before them."""
        return self._waiting

    @property
    def _left(self) -> int:
        return self._waiting + self.transport.get_write_buffer_size()

    def _leave(self) -> None:
        """Tell the application that the client has gone."""
        cycle = self._answering
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()

    def cut(self) -> None:
        """Let go at once, with what the system still holds of the answer."""
        self._leave()
        if held := self.transport.get_extra_info("socket"):
            held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _stalls(self) -> None:
        self._stalled, self._unread = self.loop.time(), self._left

    @property
    def patience(self) -> float:
        """Until when, on the loop's clock, a client may leave an answer unread."""
        if self._stalled is None:
            return math.inf
        return self._stalled + UNREAD_SECONDS + (self._unread - self._left) / RATE


class _Joining(asyncio.Transport):
    """Keeps the first thing that is written, and writes it together with the second."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport, self._first = transport, b""
        self._joins = True

    def write(self, data: Any) -> None:
        if self._joins and not self._first:
            self._first = data
        else:
            self._transport.write(self._first + data)
            self._first, self._joins = b"", False

    def flush(self) -> None:
        if self._first:
            self._transport.write(self._first)
            self._first, self._joins = b"", False

    def close(self) -> None:
        self.flush()
        self._transport.close()


@contextlib.contextmanager
def _joined(cycle: Any) -> Iterator[None]:
    """A short answer's head and body are one write: each is a system call, and wakes the client."""
    transport = cycle.transport
    cycle.transport = joining = _Joining(transport)
    try:
        yield
    finally:
        joining.flush()
        cycle.transport = transport


def make_room(connections: Iterable[object]) -> None:
    """Cut those whose end is nearest, while all leave more unread than they may."""
    slow = [each for each in connections if isinstance(each, Connection) and each.waiting]
    unread = sum(each.waiting for each in slow)
    if unread > MAX_UNREAD:
        for each in sorted(slow, key=lambda each: each.patience):
            unread -= each.waiting
            each.cut()
            if unread <= MAX_UNREAD:
                return


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
