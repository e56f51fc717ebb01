"""The client of the model provider, against servers that say what a test has them say, byte for byte."""

import asyncio
import contextlib
import datetime
import itertools
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantry_runtime import http_client
from tenantry_runtime.http_client import AHEAD, Client, HttpError, NotReachedError, Target

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"

Script = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Runs `script` for each request; `connections` are all that came, `asked` the requests."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.connections = 0
        self.ended = 0
        self.asked: list[bytes] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                request = head + await reader.readexactly(length)
                self.asked.append(request)
                await self._script(request, writer)
                await writer.drain()
        self.ended += 1
        writer.close()

    def target(self, tls: bool = False) -> Target:
        return Target.of(f"http{'s' if tls else ''}://localhost:{self.port}/v1/chat", "sk-1")


@contextlib.asynccontextmanager
async def serving(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[Server, Client]]:
    server, client = Server(script), Client()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server, client
    finally:
        client.close()
        listening.close()


def saying(*pieces: bytes, close: bool = False) -> Script:
    async def script(_: bytes, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        if close:
            writer.close()

    return script


async def whole(client: Client, target: Target, seconds: float = 30, limit: int = 1 << 24) -> tuple[int, bytes]:
    answer = await client.post(target, b"{}", seconds)
    try:
        return answer.status, await answer.read(limit)
    finally:
        answer.close()


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not check():
            await asyncio.sleep(0.005)


async def test_a_request_is_what_was_asked_and_the_connection_is_kept() -> None:
    async with serving(saying(OK)) as (server, client):
        for _ in range(3):
            assert await whole(client, server.target()) == (200, b"hello")
        assert server.connections == 1
        head, _, body = server.asked[0].partition(b"\r\n\r\n")
        assert body == b"{}"
        assert head.startswith(b"POST /v1/chat HTTP/1.1\r\nHost: localhost:%d\r\n" % server.port)
        assert b"\r\nAuthorization: Bearer sk-1\r\n" in head


@pytest.mark.parametrize(
    "said",
    [
        OK,
        CHUNKED,
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + CHUNKED,
    ],
    ids=["length", "chunks", "100", "102 and 103"],
)
async def test_answers_that_end_by_themselves(said: bytes) -> None:
    async with serving(saying(said)) as (server, client):
        for _ in range(2):
            assert await whole(client, server.target()) == (200, b"hello")
        assert server.connections == 1


async def test_an_answer_may_end_with_its_connection() -> None:
    async with serving(saying(b"HTTP/1.1 200 OK\r\n\r\nhello", close=True)) as (server, client):
        for _ in range(2):
            assert await whole(client, server.target()) == (200, b"hello")
        assert server.connections == 2


async def test_a_connection_that_the_server_closes_is_not_used_again() -> None:
    closing = OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n")
    async with serving(saying(closing)) as (server, client):
        for _ in range(2):
            assert await whole(client, server.target()) == (200, b"hello")
        assert server.connections == 2


async def test_statuses_are_told_and_redirects_are_not_followed() -> None:
    moved = b"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    async with serving(saying(moved)) as (server, client):
        assert await whole(client, server.target()) == (307, b"")


@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.integers(0, len(CHUNKED)), max_size=12), continued=st.booleans())
def test_it_does_not_matter_where_an_answer_is_cut(cuts: list[int], continued: bool) -> None:
    said = b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKED if continued else CHUNKED
    borders = [0, *sorted(cuts), len(said)]
    pieces = [said[a:b] for a, b in itertools.pairwise(borders)]

    async def run() -> None:
        async with serving(saying(*pieces)) as (server, client):
            assert await whole(client, server.target()) == (200, b"hello")

    asyncio.run(run())


async def test_pieces_come_as_they_are_sent() -> None:
    more = asyncio.Event()

    async def script(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
        await writer.drain()
        await more.wait()
        writer.write(b"after")

    async with serving(script) as (server, client):
        answer = await client.post(server.target(), b"{}", 30)
        assert await answer.some() == b"first"
        more.set()
        assert [piece async for piece in answer.pieces()] == [b"after"]
        answer.close()


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"SSH-2.0-OpenSSH_9\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X-A: " + b"a" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X-A: aaaaaaaa\r\n" * 6000 + b"Content-Length: 0\r\n\r\n",
    ],
    ids=["short", "short chunks", "half a head", "no HTTP", "no chunk", "a long header", "many headers"],
)
async def test_what_broke_off_or_is_no_answer_is_an_error(said: bytes) -> None:
    async with serving(saying(said, close=True)) as (server, client):
        with pytest.raises(HttpError) as broken:
            await whole(client, server.target())
        assert not isinstance(broken.value, NotReachedError)
        assert client._room._value == http_client.MOST_REQUESTS


async def test_a_connection_closed_before_anything_was_said() -> None:
    async with serving(saying(close=True)) as (server, client):
        with pytest.raises(NotReachedError):
            await whole(client, server.target())


async def test_no_server() -> None:
    async with serving(saying(OK)) as (server, client):
        target = server.target()
    with pytest.raises(NotReachedError):
        await whole(client, target)
    assert client._room._value == http_client.MOST_REQUESTS


async def test_more_than_was_asked_for_is_nobodys_answer() -> None:
    async with serving(saying(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")) as (server, client):
        assert await whole(client, server.target()) == (200, b"hello")
        assert await whole(client, server.target()) == (200, b"hello")
        assert server.connections == 2


async def test_what_is_said_on_an_idle_connection_is_nobodys_answer() -> None:
    said: list[asyncio.StreamWriter] = []

    async def script(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        said.append(writer)

    async with serving(script) as (server, client):
        assert await whole(client, server.target()) == (200, b"hello")
        said[0].write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        await until(lambda: not client._open)
        assert await whole(client, server.target()) == (200, b"hello")
        assert server.connections == 2


async def test_time_is_for_the_whole_answer() -> None:
    async def script(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"1\r\na\r\n")
            await writer.drain()
            await asyncio.sleep(0.05)

    async with serving(script) as (server, client):
        with pytest.raises(TimeoutError):
            await whole(client, server.target(), seconds=0.3)
        await until(lambda: server.ended == 1)
        assert client._room._value == http_client.MOST_REQUESTS


@pytest.mark.parametrize("begun", [False, True])
async def test_who_leaves_closes_the_connection(begun: bool) -> None:
    async def script(_: bytes, writer: asyncio.StreamWriter) -> None:
        if begun:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")

    async with serving(script) as (server, client):
        asking = asyncio.create_task(whole(client, server.target()))
        await until(lambda: len(server.asked) == 1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await until(lambda: server.ended == 1)
        assert client._room._value == http_client.MOST_REQUESTS


async def test_no_more_is_read_ahead_than_is_allowed_and_nothing_is_lost() -> None:
    size = 8 * AHEAD

    async def script(_: bytes, writer: asyncio.StreamWriter) -> None:
        sent = 0
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while sent < size:
            writer.write(b"x" * 8192)
            sent += 8192
            await writer.drain()

    async with serving(script) as (server, client):
        answer = await client.post(server.target(), b"{}", 30)
        await until(lambda: answer._connection._paused)
        await asyncio.sleep(0.05)
        assert answer._held < 2 * AHEAD
        assert len(await answer.read(size)) == size
        answer.close()
        assert await whole_is_too_long(client, server.target(), size)


async def whole_is_too_long(client: Client, target: Target, size: int) -> bool:
    with pytest.raises(ValueError, match="too long"):
        await whole(client, target, limit=size // 8)
    return True


async def test_only_so_many_ask_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "MOST_REQUESTS", 2)
    go, open_now, most = asyncio.Event(), 0, 0

    async def script(_: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        await go.wait()
        open_now -= 1
        writer.write(OK)

    async with serving(script) as (server, client):
        asking = [asyncio.create_task(whole(client, server.target())) for _ in range(6)]
        await until(lambda: open_now == 2)
        with pytest.raises(NotReachedError):
            await whole(client, server.target(), seconds=0.05)
        go.set()
        assert await asyncio.gather(*asking) == [(200, b"hello")] * 6
        assert most == 2
        assert server.connections <= 4


async def test_idle_connections_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "KEEP_SECONDS", 0.05)
    async with serving(saying(OK)) as (server, client):
        assert await whole(client, server.target()) == (200, b"hello")
        await until(lambda: server.ended == 1)
        await until(lambda: not client._idle and client._sweeping is None)


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("ftp://provider/v1", "k"),
        ("http:///v1", "k"),
        ("http://provider:port/v1", "k"),
        ("nothing", "k"),
        ("http://provider/v1", "k\r\nX-Forged: 1"),
        ("http://provider/v1", "k\0"),
        ("http://provider/v1", "ключ"),
    ],
)
def test_what_cannot_be_asked(url: str, key: str) -> None:
    with pytest.raises(NotReachedError) as refused:
        Target.of(url, key)
    assert str(refused.value) == "the URL or the key can't be sent"


@pytest.mark.parametrize(
    ("url", "host", "port", "line"),
    [
        ("https://api.openai.com/v1/chat", "api.openai.com", 443, b"POST /v1/chat HTTP/1.1"),
        ("http://[::1]:8080/v1", "::1", 8080, b"POST /v1 HTTP/1.1"),
        ("http://provider", "provider", 80, b"POST / HTTP/1.1"),
        ("https://p/openai?api-version=2026-01-01", "p", 443, b"POST /openai?api-version=2026-01-01 HTTP/1.1"),
        ("https://p/a b/ü%20", "p", 443, b"POST /a%20b/%C3%BC%20 HTTP/1.1"),
    ],
)
def test_where_a_url_leads(url: str, host: str, port: int, line: bytes) -> None:
    target = Target.of(url, "k")
    assert (target.host, target.port, target.tls) == (host, port, url.startswith("https"))
    assert target.head.split(b"\r\n")[0] == line


def certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate of its own for localhost: its file, and a server's context."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "both.pem"
    pem, private = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    path.write_bytes(key.private_bytes(pem, private, serialization.NoEncryption()) + made.public_bytes(pem))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(path)
    trusted = folder / "trusted.pem"
    trusted.write_bytes(made.public_bytes(pem))
    return trusted, context


async def test_tls_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trusted, context = certificate(tmp_path)
    async with serving(saying(OK), context) as (server, client):
        with pytest.raises(NotReachedError):
            await whole(client, server.target(tls=True))
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        believing = Client()
        assert await whole(believing, server.target(tls=True)) == (200, b"hello")
        elsewhere = Target.of(f"https://127.0.0.1:{server.port}/", "k")
        with pytest.raises(NotReachedError):  # the name is another
            await whole(believing, elsewhere)
        believing.close()
