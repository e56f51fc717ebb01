"""The limits of one connection, with a clock that the test moves."""

import asyncio
import json
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from tenantry_runtime import connection
from tenantry_runtime.connection import (
    AHEAD,
    BODY_SECONDS,
    HEAD_SECONDS,
    LINGER_SECONDS,
    MAX_HEAD,
    PIECE,
    RATE,
    UNREAD_SECONDS,
)
from tenantry_runtime.connection import Connection as Protocol
from tenantry_runtime.service import LEASE_MARGIN

HEAD = b"POST /x HTTP/1.1\r\nHost: h\r\n"


class Transport(asyncio.Transport):
    """What a socket would have been told."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.writes = 0
        self.buffered = 0
        self.closing = self.aborted = self.reading = False

    def write(self, data: Any) -> None:
        assert not self.closing
        self.writes += 1
        self.written += bytes(data)

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def write_eof(self) -> None: ...

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == AHEAD

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True

    def is_closing(self) -> bool:
        return self.closing

    def refusal(self) -> tuple[int, str | None]:
        """Status and code of the one answer that was written; 0 for none."""
        if not self.written:
            return 0, None
        head, _, body = self.written.partition(b"\r\n\r\n")
        error = json.loads(body)["error"]
        assert error["message"].endswith(".")
        assert b"connection: close" in head
        return int(head.split()[1]), error["code"]


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Reads all of the body, unless the path says to refuse it."""
    more = scope["path"] != "/refuse"
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        more = message["more_body"]
    body = json.dumps({"headers": len(scope["headers"])}).encode()
    length = str(len(body)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    await send({"type": "http.response.body", "body": body})


class Peer:
    """A connection and the client at its other end."""

    def __init__(self, state: ServerState | None = None) -> None:
        self.state = state or ServerState()
        self.transport = Transport()
        self.protocol = Protocol(uvicorn.Config(application, log_config=None, timeout_keep_alive=75), self.state, {})
        self.began = asyncio.get_running_loop().time()
        self.protocol.connection_made(self.transport)

    def look(self, seconds: float, every: float = 1) -> None:
        """As if so long had passed since the start, looked at all the time."""
        now = self.protocol._looked
        while now < self.began + seconds:
            now = min(now + every, self.began + seconds)
            self.protocol.look(now)

    async def send(self, data: bytes) -> None:
        self.protocol.data_received(data)
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.mark.parametrize("last", [b"", b"Connection: close\r\n"])
async def test_a_short_answer_is_one_write(last: bytes) -> None:
    peer = Peer()
    request = HEAD + b"Content-Length: 0\r\n"
    await peer.send((request + b"\r\n") * 2 + request + last + b"\r\n")
    for _ in range(20):
        await asyncio.sleep(0)
    assert peer.transport.writes == 3
    assert peer.transport.written.count(b"HTTP/1.1 200 OK") == 3
    assert peer.transport.written.endswith(b'{"headers": %d}' % (3 if last else 2))
    assert peer.transport.closing == bool(last)


async def test_who_sends_nothing_is_closed_without_a_word() -> None:
    peer = Peer()
    peer.look(HEAD_SECONDS - 0.1)
    assert not peer.transport.closing
    peer.look(HEAD_SECONDS + 1)
    assert peer.transport.closing
    assert not peer.transport.written


@pytest.mark.parametrize("pieces", [[HEAD], [b"P"], [HEAD, b"X-A: 1\r\n"], [b"\r\n", b"GET / HT"]])
async def test_a_slow_head_is_told_so(pieces: list[bytes]) -> None:
    peer = Peer()
    for piece in pieces:
        await peer.send(piece)
    peer.look(HEAD_SECONDS - 0.1)
    assert not peer.transport.written
    peer.look(HEAD_SECONDS + 1)
    assert peer.transport.refusal() == (408, "request_timeout")


async def test_line_ends_alone_keep_no_connection() -> None:
    peer = Peer()
    await peer.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    assert b"200 OK" in peer.transport.written
    for second in range(0, 100, 10):
        peer.look(second)
        await peer.send(b"\r\n")
    assert peer.transport.closing


async def test_a_slow_body_is_told_so_and_the_application_with_it() -> None:
    peer = Peer()
    await peer.send(HEAD + b"Content-Length: 100\r\n\r\n12345")
    peer.look(BODY_SECONDS - 0.1)
    assert not peer.transport.written
    peer.look(BODY_SECONDS + 1)
    assert peer.transport.refusal() == (408, "request_timeout")
    for _ in range(5):
        await asyncio.sleep(0)
    assert not peer.state.tasks


async def test_a_body_may_take_as_long_as_its_bytes_do() -> None:
    peer = Peer()
    size = 100 * RATE
    await peer.send(HEAD + b"Content-Length: %d\r\n\r\n" % size + b"x" * (size - 1))
    peer.look(BODY_SECONDS + 90)
    assert not peer.transport.written
    await peer.send(b"x")
    assert b"200 OK" in peer.transport.written


async def test_time_in_which_nothing_was_read_is_not_the_clients() -> None:
    peer = Peer()
    await peer.send(HEAD + b"Content-Length: 100\r\n\r\n12345")
    peer.protocol.flow.pause_reading()
    peer.look(10 * BODY_SECONDS)
    assert not peer.transport.written


async def test_a_body_that_nobody_wants_is_thrown_away_for_a_while() -> None:
    peer = Peer()
    await peer.send(b"POST /refuse HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1000)
    assert b"200 OK" in peer.transport.written
    for _ in range(50):
        await peer.send(b"x" * 1000)
    peer.look(LINGER_SECONDS - 0.1)
    assert not peer.transport.closing
    peer.look(LINGER_SECONDS + 1)
    assert peer.transport.closing


async def test_who_waits_to_be_told_to_go_on_and_is_refused_must_come_anew() -> None:
    """Else its next request would be read as this one's body."""
    peer = Peer()
    await peer.send(b"POST /refuse HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n")
    assert b"200 OK" in peer.transport.written
    assert peer.transport.closing


@pytest.mark.parametrize(
    "sent",
    [
        [b"GET /" + b"x" * MAX_HEAD],
        [b"GET / HTTP/1.1\r\nX: " + b"x" * MAX_HEAD],
        [b"GET / HTTP/1.1\r\nX: " + b"x" * MAX_HEAD + b"\r\n\r\n"],
        [b"GET / HTTP/1.1\r\n" + b"a:\r\n" * (MAX_HEAD // 4) + b"\r\n"],
        [b"GET / HTTP/1.1\r\n", *[b"X: " + b"x" * 1000 + b"\r\n"] * 40],
        [b"GET / HTTP/1.1\r\nX: ", *[b"x" * 1000] * 40],
        [HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", *[b"X: " + b"x" * 1000 + b"\r\n"] * 40],
        [HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: ", *[b"x" * 1000] * 40],
        [HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", *[b"x" * 1000] * 40],
    ],
    ids=["line", "value", "whole", "many", "pieces", "endless", "trailers", "trailer", "extension"],
)
async def test_a_flood_of_headers_is_refused(sent: list[bytes]) -> None:
    peer = Peer()
    for piece in sent:
        await peer.send(piece)
    assert peer.transport.refusal() == (431, "headers_too_large")


async def test_trailers_are_no_headers() -> None:
    peer = Peer()
    await peer.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nAuthorization: Bearer x\r\n\r\n")
    assert b'{"headers": 2}' in peer.transport.written


async def test_many_requests_on_one_connection_are_no_flood() -> None:
    peer = Peer()
    for _ in range(3 * MAX_HEAD // len(HEAD)):
        peer.transport.written = b""
        await peer.send(HEAD + b"Content-Length: 3\r\n\r\nabc")
        assert b"200 OK" in peer.transport.written


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"FOO / HTTP/1.1\r\n\r\n",
        b"GET \xff HTTP/1.1\r\n\r\n",
    ],
    ids=["tls", "http2", "method", "path"],
)
async def test_what_is_no_request_is_told_so(sent: bytes) -> None:
    peer = Peer()
    await peer.send(sent)
    assert peer.transport.refusal() == (400, "bad_request")
    await peer.send(b"GET / HTTP/1.1\r\n\r\n")  # thrown away
    peer.look(LINGER_SECONDS + 2)
    assert peer.transport.aborted


async def test_a_client_that_does_not_read_is_let_go() -> None:
    peer = Peer()
    await peer.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    peer.transport.buffered = 1000 * RATE
    peer.protocol.pause_writing()
    peer.look(UNREAD_SECONDS - 1)
    assert not peer.transport.aborted
    peer.look(UNREAD_SECONDS + 2)  # however much there is to be read
    assert peer.transport.aborted


async def test_a_client_that_reads_slowly_may_take_as_long_as_what_it_takes() -> None:
    peer = Peer()
    await peer.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    peer.transport.buffered = 1000 * RATE
    peer.protocol.pause_writing()
    peer.look(1)
    peer.transport.buffered -= 10 * RATE
    peer.look(UNREAD_SECONDS + 9)
    assert not peer.transport.aborted
    peer.look(UNREAD_SECONDS + 12)
    assert peer.transport.aborted


def test_a_stream_that_nobody_reads_ends_before_its_lease() -> None:
    assert UNREAD_SECONDS + (AHEAD + PIECE) / RATE < LEASE_MARGIN


async def test_a_client_that_reads_again_stays() -> None:
    peer = Peer()
    await peer.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    peer.transport.buffered = RATE
    peer.protocol.pause_writing()
    peer.look(UNREAD_SECONDS - 1)
    peer.protocol.resume_writing()
    peer.look(UNREAD_SECONDS + 12)
    assert not peer.transport.aborted


class Reader(Peer):
    """A client that is sent an answer of so many pieces, and takes what it is told to."""

    def __init__(self, state: ServerState | None = None) -> None:
        super().__init__(state)
        self.transport.write = self.write  # type: ignore[method-assign]

    def write(self, data: Any) -> None:
        self.transport.written += bytes(data)
        self.transport.buffered += len(data)
        if self.transport.buffered > AHEAD and not self.protocol.flow.write_paused:
            self.protocol.pause_writing()

    async def take(self, seconds: float = 0) -> None:
        """All that the transport holds, so much later."""
        self.look(seconds)
        self.transport.buffered = 0
        self.protocol.resume_writing()
        await turns()

    async def ask(self, pieces: int, times: int = 1) -> None:
        await self.send(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % (pieces * PIECE) * times)
        await turns()


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def large(scope: Any, receive: Any, send: Any) -> None:
    body = b"x" * int(scope["path"][1:])
    length = str(len(body)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def large_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "application", large)


@pytest.mark.usefixtures("large_answers")
async def test_a_large_answer_goes_as_it_is_taken_and_is_whole() -> None:
    peer = Reader()
    await peer.ask(5, times=2)  # the second waits for the first
    assert peer.protocol.waiting == 4 * PIECE
    assert not peer.state.tasks or len(peer.state.tasks) == 1
    for left in (3, 2, 1):
        await peer.take()
        assert peer.protocol.waiting == left * PIECE
    for _ in range(7):
        await peer.take()
    assert peer.protocol.waiting == 0
    assert peer.transport.written.count(b"200 OK") == 2
    assert peer.transport.written.count(b"x") == 10 * PIECE
    assert not peer.transport.closing


@pytest.mark.usefixtures("large_answers")
async def test_a_client_that_takes_a_large_answer_too_slowly_is_let_go() -> None:
    """A piece now and then gives it no more time than its bytes do."""
    peer = Reader()
    await peer.ask(100)
    a_piece = PIECE / RATE
    for taken in range(100):
        await peer.take((a_piece + 4) * taken)
        if peer.transport.aborted:
            break
    assert UNREAD_SECONDS / 4 <= taken <= UNREAD_SECONDS / 4 + 4
    peer.protocol.connection_lost(None)
    await turns()
    slow = Reader()
    await slow.ask(100)
    for taken in range(100):
        await slow.take((a_piece - 1) * taken)
    assert not slow.transport.aborted
    assert slow.transport.written.count(b"x") == 100 * PIECE


@pytest.mark.usefixtures("large_answers")
async def test_what_all_leave_unread_is_bounded_and_who_reads_least_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_UNREAD", 100 * PIECE)
    state = ServerState()
    reading, slow, small, fresh = (Reader(state) for _ in range(4))
    await reading.ask(50)
    for _ in range(5):
        await reading.take()
    await slow.ask(50)
    await small.ask(1)
    assert not slow.transport.aborted
    await fresh.ask(40)
    assert [peer.transport.aborted for peer in (reading, slow, small, fresh)] == [False, True, False, False]
    for peer in (slow, reading, fresh):
        peer.protocol.connection_lost(None)
        await turns()
        assert peer.protocol.waiting == 0


async def test_a_connection_too_many_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_CONNECTIONS", 2)
    state = ServerState()
    peers = [Peer(state) for _ in range(3)]
    assert [peer.transport.refusal()[0] for peer in peers] == [0, 0, 503]


async def test_a_stop_closes_what_was_refused() -> None:
    peer = Peer()
    await peer.send(b"FOO")
    peer.protocol.shutdown()
    assert peer.transport.closing
