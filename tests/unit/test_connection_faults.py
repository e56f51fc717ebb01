"""Whatever comes in place of the API server's answer is an ApiError: nobody else has to know of it."""

import asyncio
import gc
import json
import ssl
from asyncio import sslproto
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tenantry import lean
from tenantry.backends import connection as connections
from tenantry.backends.access import Access
from tenantry.backends.connection import ApiError, Connection
from tenantry.backends.fence import Fence, clock
from tests.certificates import Authority

PATH = "/api/v1/namespaces/default"


class Server:
    """Answers every request with the next of `answers` (the last one again and again), word for word."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next((int(h[15:]) for h in head.split(b"\r\n") if h.lower().startswith(b"content-length")), 0)
                await reader.readexactly(length)
                self.asked.append(head.split(b" ")[0].decode())
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if answer == b"hang":
                    await asyncio.sleep(60)
                writer.write(answer)
                await writer.drain()
                if b"Connection: close" in answer or not answer:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def http(status: int, body: bytes, *headers: str, length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status} x", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + body


@asynccontextmanager
async def served(
    handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], fence: Fence | None = None
) -> AsyncIterator[Connection]:
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    made = Access(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    connection = Connection(made, fence=fence)
    try:
        yield connection
    finally:
        await connection.close()
        server.close()


async def ask(connection: Connection, verb: str = "get") -> dict:
    return await connection.request(verb, PATH, resource="namespaces", body={} if verb != "get" else None)


@pytest.mark.parametrize(
    ("answer", "status", "says"),
    [
        (http(200, b"<html>Please log in</html>"), 0, "no JSON object"),
        (http(200, b"[1, 2]"), 0, "no JSON object"),
        (http(200, b"\xff\xfe\x00"), 0, "no JSON object"),
        (http(200, b"[" * 100_000), 0, "no JSON object"),
        (http(200, b'{"kind": "Namespace"', length=500), 0, "does not answer"),
        (b"not even HTTP\r\n\r\n", 0, "does not answer"),
        (b"", 0, "does not answer"),
        (http(500, b"oops"), 500, "oops"),
        (http(500, b""), 500, "HTTP 500"),
        (http(502, b"<html>Bad gateway</html>"), 502, "Bad gateway"),
        (http(409, b'{"reason": "Conflict", "message": "changed"}'), 409, "changed"),
        (http(400, b'{"reason": null, "message": null}'), 400, "null"),
        (http(404, b'"gone"'), 404, "gone"),
        (http(429, b"{}", "Retry-After: Wed, 21 Oct 2026 07:28:00 GMT"), 429, "{}"),
        (http(503, b"{}", "Retry-After: 0"), 503, "{}"),
        (http(302, b"", "Location: http://127.0.0.1:1/"), 0, "does not answer"),
    ],
)
async def test_every_odd_answer_is_an_api_error(
    answer: bytes, status: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "FIRST_PAUSE_SECONDS", 0.001)
    async with served(Server(answer)) as connection:
        with pytest.raises(ApiError) as raised:
            await ask(connection)
    assert raised.value.status == status
    assert says in raised.value.message
    assert raised.value.unavailable == (status in (0, 429) or status >= 500)


async def test_what_passes_is_asked_again_in_time_and_no_more_than_that() -> None:
    good = http(200, b'{"kind": "Namespace"}')
    server = Server(http(503, b""), b"", good)
    async with served(server) as connection:
        assert await ask(connection) == {"kind": "Namespace"}
    assert len(server.asked) >= 3  # aiohttp itself asks once more where a connection ended without a word
    server = Server(http(429, b"{}", "Retry-After: 1"), good)
    async with served(server) as connection:
        started = asyncio.get_running_loop().time()
        await ask(connection)
        assert asyncio.get_running_loop().time() - started >= 0.99
    server = Server(http(503, b""))
    async with served(server) as connection:
        with pytest.raises(ApiError):
            await ask(connection)
    assert len(server.asked) == connections.ATTEMPTS


async def test_a_creation_whose_answer_was_lost_is_not_sent_again() -> None:
    server = Server(http(201, b'{"kind"', length=100))
    async with served(server) as connection:
        with pytest.raises(ApiError):
            await ask(connection, "create")
    assert server.asked == ["POST"]


async def test_a_server_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "TIMEOUT_SECONDS", 0.1)
    async with served(Server(b"hang")) as connection:
        with pytest.raises(ApiError, match="TimeoutError"):
            await ask(connection)


async def test_a_certificate_of_somebody_else(tmp_path) -> None:
    (tmp_path / "theirs").mkdir()
    theirs = Authority(tmp_path / "theirs").issue("server", "somebody", hosts=["127.0.0.1"])
    (tmp_path / "ours").mkdir()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(theirs.certificate, theirs.key)
    server = await asyncio.start_server(Server(http(200, b"{}")), "127.0.0.1", 0, ssl=context)
    authority = str(Authority(tmp_path / "ours").certificate)
    connection = Connection(Access(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", authority))
    try:
        with pytest.raises(ApiError, match="TLS was not accepted") as raised:
            await ask(connection)
        assert raised.value.unavailable
    finally:
        await connection.close()
        server.close()


async def test_a_large_answer_comes_whole_through_a_small_buffer_of_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sslproto.SSLProtocol, "max_size", lean.TLS_BUFFER_BYTES)
    authority = Authority(tmp_path)
    own = authority.issue("server", "server", hosts=["127.0.0.1"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own.certificate, own.key)
    body = json.dumps({"text": "x" * 3_000_000}).encode()
    head = f"HTTP/1.1 200 x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    server = await asyncio.start_server(Server(head + body), "127.0.0.1", 0, ssl=context)
    address = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    connection = Connection(Access(address, str(authority.certificate)))
    try:
        assert len((await ask(connection))["text"]) == 3_000_000
        held = [len(p._ssl_buffer) for p in gc.get_objects() if isinstance(p, sslproto.SSLProtocol)]
        assert held.count(lean.TLS_BUFFER_BYTES) == 2, "this connection's two ends"
    finally:
        await connection.close()
        server.close()


async def test_nothing_is_written_while_the_fence_is_shut_but_where_a_lease_is() -> None:
    fence = Fence()
    server = Server(http(200, b"{}"))
    async with served(server, fence) as connection:
        await ask(connection, "patch")
        fence.open_until(clock() - 1)
        for verb in ("patch", "apply", "create", "delete"):
            with pytest.raises(ApiError, match="Lease has run out") as raised:
                await ask(connection, verb)
            assert raised.value.unavailable
        assert server.asked == ["PATCH"]
        await ask(connection, "get")
        leases = connection.for_leases()
        await ask(leases, "patch")
        await leases.close()
        fence.open_until(clock() + 60)
        await ask(connection, "delete")
    assert server.asked == ["PATCH", "GET", "PATCH", "DELETE"]


async def test_a_write_that_waited_for_a_connection_looks_at_the_fence_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CONNECTIONS", 1)
    fence, held, go = Fence(), asyncio.Event(), asyncio.Event()
    asked: list[str] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).split(b" ")[0].decode())
        held.set()
        await go.wait()
        writer.write(http(200, b"{}"))
        writer.close()

    async with served(handler, fence) as connection:
        reading = asyncio.create_task(connection.request("get", PATH, resource="namespaces"))
        await held.wait()
        writing = asyncio.create_task(connection.request("create", PATH, resource="namespaces", body={}))
        await asyncio.sleep(0.05)  # it passes the first look and waits
        fence.open_until(clock() - 1)
        go.set()
        with pytest.raises(ApiError) as caught:
            await writing
        await reading
    assert caught.value.reason == "Fenced"
    assert asked == ["GET"]
