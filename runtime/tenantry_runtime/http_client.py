"""HTTP/1.1 to the model provider over kept connections: what is posted, and an answer that is read as it comes.

aiohttp's client took a fifth of a call's CPU (docs/performance.md, "What bounds it"), so this does only what a provider
needs: httptools parses, as for the server; a connection carries one request at a time; nothing is redirected,
compressed, sent a second time or sent through a proxy.
"""

import asyncio
import functools
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Self, cast
from urllib.parse import quote, urlsplit

import httptools

CONNECT_SECONDS = 10.0
"""For a connection, its TLS handshake included."""
KEEP_SECONDS = 60.0
"""An idle connection is kept for so long, and up to as much longer."""
MOST_REQUESTS = 512
"""At once; further ones wait."""
MOST_HEAD = 64 * 1024
"""Bytes of an answer's headers."""
AHEAD = 256 * 1024
"""Bytes of an answer that are read before somebody takes them."""


class HttpError(Exception):
    """There is no (whole) answer; whether the request was acted upon, nobody knows."""


class NotReachedError(HttpError):
    """No connection, or one that was closed in good order before anything of an answer."""


@dataclass(frozen=True)
class Target:
    """Where a request goes: `head` is all of its head but what differs from one to the next."""

    host: str
    port: int
    tls: bool
    head: bytes

    @classmethod
    @functools.lru_cache(maxsize=64)
    def of(cls, url: str, key: str) -> Self:
        """`key`: for `Authorization: Bearer`.  Raises NotReachedError for what can't be asked."""
        try:
            parts = urlsplit(url)
            port = parts.port or {"http": 80, "https": 443}[parts.scheme]
            path = quote(parts.path or "/", safe="/%~!$&'()*+,;=:@")
            host = (parts.hostname or "").encode("idna").decode()
            lines = (
                f"POST {path}{'?' if parts.query else ''}{quote(parts.query, safe='/%~!$&()*+,;=:@?-._')} HTTP/1.1",
                f"Host: {parts.netloc.rpartition('@')[2].encode('idna').decode()}",
                f"Authorization: Bearer {key}",
                "Content-Type: application/json",
                "Accept: */*",
                "Accept-Encoding: identity",
                "User-Agent: tenantry",
            )
            head = "\r\n".join(lines).encode("ascii")
        except (KeyError, ValueError) as error:
            raise NotReachedError("the URL or the key can't be sent") from error
        if not host or head.count(b"\r") != len(lines) - 1 or head.count(b"\n") != len(lines) - 1 or b"\0" in head:
            raise NotReachedError("the URL or the key can't be sent")
        return cls(host, port, parts.scheme == "https", head)


class Answer:
    """What comes back; `close` it, whatever happens."""

    def __init__(self, connection: "_Connection", seconds: float, at_end: Callable[[], None]) -> None:
        self.status = 0
        self._connection, self._at_end = connection, at_end
        self._pieces: deque[bytes] = deque()
        self._held = 0
        self._ended = False
        self._error: Exception | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(seconds, self._late)

    async def begun(self) -> None:
        """Wait for the head.  Raises HttpError, or TimeoutError."""
        while not self.status:
            await self._news()

    async def some(self) -> bytes:
        """What has come of the body, at least a byte; empty at its end.  Raises HttpError, or TimeoutError."""
        while not self._pieces:
            if self._ended and self._error is None:
                return b""
            await self._news()
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._held = 0
        if not self._ended:
            self._connection.go_on()
        return data

    async def pieces(self) -> AsyncIterator[bytes]:
        while piece := await self.some():
            yield piece

    async def read(self, limit: int) -> bytes:
        """The whole body; ValueError where it has more bytes than that."""
        raw = bytearray()
        async for piece in self.pieces():
            raw += piece
            if len(raw) > limit:
                raise ValueError("too long")
        return bytes(raw)

    def close(self) -> None:
        """Of an answer that is not whole the connection is closed too, which stops the provider's work."""
        if not self._ended:
            self.end(HttpError("closed here"))
            self._connection.abort()

    async def _news(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiting = asyncio.get_running_loop().create_future()
        try:
            await self._waiting
        finally:
            self._waiting = None
        if self._error is not None and not self._pieces:
            raise self._error

    def _wake(self) -> None:
        if self._waiting and not self._waiting.done():
            self._waiting.set_result(None)

    def _late(self) -> None:
        self.end(TimeoutError("the answer took too long"))
        self._connection.abort()

    # --- Called by the connection ---

    def begin(self, status: int) -> None:
        self.status = status
        self._wake()

    def feed(self, data: bytes) -> bool:
        """Whether more may come now."""
        self._pieces.append(data)
        self._held += len(data)
        self._wake()
        return self._held < AHEAD

    def end(self, error: Exception | None = None) -> None:
        if not self._ended:
            self._ended, self._error = True, error
            self._timer.cancel()
            self._wake()
            self._at_end()


class _Connection(asyncio.Protocol):
    """One request at a time, and its answer."""

    def __init__(self, client: "Client", origin: tuple[str, int, bool]) -> None:
        self._client, self.origin = client, origin
        self._answer: Answer | None = None
        self._parser: Any = None
        self._head = 0
        self._bounded = False  # by a length or chunks, not by the connection's end
        self._paused = False
        self.idle_since = 0.0
        self.usable = True

    def ask(self, target: Target, body: bytes, seconds: float, at_end: Callable[[], None]) -> Answer:
        self._answer = answer = Answer(self, seconds, at_end)
        self._parser = httptools.HttpResponseParser(self)
        self._head, self._bounded = 0, False
        self._transport.write(b"%b\r\nContent-Length: %d\r\n\r\n%b" % (target.head, len(body), body))
        return answer

    def go_on(self) -> None:
        if self._paused:
            self._paused = False
            self._transport.resume_reading()

    def abort(self) -> None:
        self.usable = False
        self._transport.abort()

    # --- asyncio's ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._answer is None:  # said without being asked
            self.abort()
            return
        try:
            self._parser.feed_data(data)
        except Exception:  # the parser's, for all that is no HTTP, and what is raised below
            self._end(HttpError("the answer is no HTTP"))
            self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.usable = False
        if self._answer is not None:
            if self._answer.status and not self._bounded and error is None:
                self._end(None)
            elif self._answer.status or self._head or error is not None:
                self._end(HttpError("the connection broke"))
            else:
                self._end(NotReachedError("the connection was closed"))
        self._client.lost(self)

    # --- httptools' ---

    def on_message_begin(self) -> None:
        if self._answer is None:  # more than was asked for
            self.abort()
        self._head, self._bounded = 1, False

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head += len(name) + len(value)
        if self._head > MOST_HEAD:
            raise ValueError("too many headers")
        if name.lower() in (b"content-length", b"transfer-encoding"):
            self._bounded = True

    def on_headers_complete(self) -> None:
        status: int = self._parser.get_status_code()
        if self._answer is not None and status >= 200:
            self._answer.begin(status)

    def on_body(self, data: bytes) -> None:
        if self._answer is not None and not self._answer.feed(data) and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if self._answer is None or self._answer.status == 0:  # 1xx: the answer is still to come
            return
        kept = self._parser.should_keep_alive() and not self._transport.get_write_buffer_size()
        self._end(None)
        self.go_on()
        if kept and self.usable:
            self._client.keep(self)
        else:
            self.abort()

    def _end(self, error: Exception | None) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.end(error)


class Client:
    """The connections, by where they go."""

    def __init__(self) -> None:
        self._idle: dict[tuple[str, int, bool], deque[_Connection]] = {}
        self._room = asyncio.Semaphore(MOST_REQUESTS)
        self._sweeping: asyncio.TimerHandle | None = None
        self._tls: ssl.SSLContext | None = None
        self._open: set[_Connection] = set()

    async def post(self, target: Target, body: bytes, seconds: float) -> Answer:
        """The answer, once its head is there; the whole of it may take so many seconds.

        Raises HttpError, NotReachedError where nothing was asked, and TimeoutError.
        """
        if self._room.locked():
            try:
                async with asyncio.timeout(seconds):
                    await self._room.acquire()
            except TimeoutError:
                raise NotReachedError("there are too many requests") from None
        else:
            await self._room.acquire()  # does not wait, and so needs no timer
        try:
            connection = self._take((target.host, target.port, target.tls)) or await self._connect(target)
            answer = connection.ask(target, body, seconds, self._room.release)
        except BaseException:
            self._room.release()
            raise
        try:
            await answer.begun()
        except BaseException:
            answer.close()
            raise
        return answer

    def close(self) -> None:
        for connection in list(self._open):
            connection.abort()
        if self._sweeping:
            self._sweeping.cancel()

    def _take(self, origin: tuple[str, int, bool]) -> _Connection | None:
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if connection.usable:
                return connection
        return None

    async def _connect(self, target: Target) -> _Connection:
        origin = target.host, target.port, target.tls
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                loop = asyncio.get_running_loop()
                context = await self._context() if target.tls else None
                _, connection = await loop.create_connection(
                    lambda: _Connection(self, origin), target.host, target.port, ssl=context
                )
        except (OSError, TimeoutError, ValueError) as error:  # ssl.SSLError is an OSError
            raise NotReachedError(f"no connection: {type(error).__name__}") from error
        self._open.add(connection)
        return connection

    async def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = await asyncio.to_thread(ssl.create_default_context)  # it reads the system's certificates
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls

    # --- Called by connections ---

    def keep(self, connection: _Connection) -> None:
        connection.idle_since = time.monotonic()
        self._idle.setdefault(connection.origin, deque()).append(connection)
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(KEEP_SECONDS, self._sweep)

    def lost(self, connection: _Connection) -> None:
        self._open.discard(connection)

    def _sweep(self) -> None:
        self._sweeping = None
        before = time.monotonic() - KEEP_SECONDS
        for origin, idle in list(self._idle.items()):
            while idle and (idle[0].idle_since <= before or not idle[0].usable):
                idle.popleft().abort()
            if not idle:
                del self._idle[origin]
        if self._idle:
            self._sweeping = asyncio.get_running_loop().call_later(KEEP_SECONDS, self._sweep)
