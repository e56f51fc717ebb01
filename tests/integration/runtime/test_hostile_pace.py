"""Clients that send or read as slowly as they can, over real sockets: others get on, memory and money are let go."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from tenantry_runtime.config import Documents
from tenantry_runtime.connection import MAX_UNREAD, UNREAD_SECONDS
from tenantry_runtime.service import UPLOADS
from tests.integration.runtime.samples import TEXT, Sample, send
from tests.integration.runtime.stack import Replica, Stack, Tenant, eventually
from tests.integration.runtime.upstream import Upstream, delta
from tests.integration.runtime.wire import address, connect, head, memory, read_answer, refused

SIZE = 900_000
PIECE, EVERY = 4096, 0.25
"""16 KiB a second: enough for the connection, too slow for others to wait for."""
FORM = "Content-Type: multipart/form-data; boundary=b"
BEGUN = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
CHUNK = 16 * 1024
MANY = 8000
"""Chunks of an answer that nobody could hold: 130 MB."""


@pytest.fixture(scope="module")
def tenant(stack: Stack, upstream: Upstream) -> Tenant:
    return stack.tenant(
        provider_url=upstream.url, documents=Documents(max_files=100, max_file_bytes=1_000_000), budget=None
    )


@pytest.fixture(scope="module")
def replica(tenant: Tenant) -> Iterator[Replica]:
    with tenant.replica("tests.integration.runtime.impatient") as replica:
        yield replica
        errors = [line for line in replica.log.read_text().splitlines() if '"level": "error"' in line]
        assert not errors, "\n".join(errors[:3])


class SlowUpload(threading.Thread):
    """Sends a file at 16 KiB a second until it is answered or closed, or `leave` is set."""

    def __init__(self, target: Replica, key: str, leave: threading.Event) -> None:
        super().__init__(daemon=True)
        self.connection, self.leave = connect(target), leave
        self.begin = head(key, "/v1/files", "POST", FORM, f"Content-Length: {SIZE}") + b"\r\n" + BEGUN
        self.answer: tuple[int, bytes] | None = None
        self.start()

    def run(self) -> None:
        with self.connection:
            self.connection.sendall(self.begin)
            self.connection.settimeout(EVERY)
            while not self.leave.is_set():
                try:
                    if self.connection.recv(1, socket.MSG_PEEK):
                        self.connection.settimeout(30)
                        self.answer = read_answer(self.connection)
                    return
                except TimeoutError:
                    pass
                with suppress(TimeoutError):  # where its turn has not come, nothing of it is read
                    self.connection.sendall(b"x" * PIECE)


def ended(slow: list[SlowUpload]) -> list[SlowUpload]:
    return [each for each in slow if each.answer]


def test_slow_uploads_make_room_for_those_who_wait(tenant: Tenant, replica: Replica) -> None:
    before, leave = memory(replica), threading.Event()
    fast = Sample(file=TEXT, form={"purpose": "assistants"})
    slow = [SlowUpload(replica, tenant.key, leave) for _ in range(UPLOADS + 2)]
    try:
        # All places are taken, and two wait: so many of the first make room.
        eventually(lambda: len(ended(slow)) >= 2)
        # Now the places are full of slow ones, and a fast one is let in nevertheless.
        assert send(replica, tenant.key, "POST", "/v1/files", fast).status_code == 200
        sent_away = eventually(lambda: ended(slow) if len(ended(slow)) >= 3 else None)
        for each in sent_away:
            error = refused(*each.answer)
            assert (each.answer[0], error["code"], error["param"]) == (408, "request_timeout", "file")
            assert "other uploads" in error["message"]
        assert len(ended(slow)) == 3  # nobody waits: the others may go on
        assert memory(replica) - before < 30
    finally:
        leave.set()
        for each in slow:
            each.join(60)
    # Their places are free again.
    with ThreadPoolExecutor(UPLOADS + 1) as pool:
        answers = pool.map(lambda _: send(replica, tenant.key, "POST", "/v1/files", fast), range(UPLOADS + 1))
        assert {answer.status_code for answer in answers} == {200}


def test_streams_that_nobody_reads_are_stopped_and_billed(tenant: Tenant, replica: Replica, upstream: Upstream) -> None:
    """The provider is no longer asked, what it made is billed, and no reservation is left."""
    before = memory(replica)
    upstream.events = [delta(f"{number:07} " * (CHUNK // 8)) for number in range(8)] * (MANY // 8)
    # One passes the provider's chunks on; the other is put together for the cache too, by a task of its own.
    unread = [unread_stream(replica, tenant.key, cached) for cached in (False, True)]
    try:
        rows = eventually(lambda: outcomes(tenant) if len(outcomes(tenant)) == len(unread) else None)
        assert rows == [("settled", True, True, "client_gone", "499")] * len(unread)
        assert memory(replica) - before < 110  # the tokenizer's vocabulary is loaded now
        assert 0 < upstream.sent < MANY // 2
        tokens, nano = tenant.sql("SELECT sum(tokens_out), sum(llm_nano) FROM ledger")[0]
        print(f"{upstream.sent} chunks of {MANY} were asked for; {tokens} tokens, {nano} nano-dollars")
        assert nano > 0
        assert tenant.sql("SELECT count(*) FROM ledger WHERE status = 'reserved'") == [(0,)]
    finally:
        for connection in unread:
            connection.close()


def test_whole_answers_that_nobody_reads_have_one_bound(tenant: Tenant) -> None:
    """Above it those who read least are cut at once; who reads, however slowly, gets it all."""
    vectors = {"input": ["x"] * 200, "dimensions": 8192, "encoding_format": "base64"}
    with tenant.replica() as replica, ExitStack() as stack:
        read_answer(stack.enter_context(embeddings(replica, tenant.key, vectors)))  # all is loaded, and works
        before, begun = memory(replica), time.monotonic()
        reader = Reader(stack.enter_context(connect(replica)), request(tenant.key, vectors))
        unread = []
        for number in range(40):  # 350 MB; half of them are closed by us after the answer, in a drain all are
            more = ["Connection: close"] * (number % 2)
            connection = stack.enter_context(embeddings(replica, tenant.key, vectors, *more))
            assert connection.recv(12) == b"HTTP/1.1 200"
            # The next request waits for this answer to be taken: it would be held, too.
            with suppress(OSError):
                connection.sendall(request(tenant.key, {**vectors, "input": ["y"] * 200}))
            unread.append(connection)
        took = time.monotonic() - begun
        assert took < UNREAD_SECONDS, f"{took:.0f} s: they were let go for another reason"
        held = memory(replica) - before
        cut = [connection for connection in unread if is_cut(connection)]
        print(f"{len(cut)} of {len(unread)} were cut after {took:.1f} s; {held:.0f} MB are held")
        assert held * 1e6 < MAX_UNREAD + 40e6
        assert unread[: len(cut)] == cut, "the first to leave it unread are the first to go"
        assert len(unread) - len(cut) > 5, "no more are cut than must be"
        for connection in unread:
            connection.close()
        reader.join(60)
        assert reader.answer is not None, "who reads is not cut"
        assert reader.answer[0] == 200
        assert len(json.loads(reader.answer[1])["data"]) == 200
        assert replica.client(tenant.key).embeddings.create(model="wordllama-256", input="x").data
        failed = [line for line in replica.log.read_text().splitlines() if '"level": "error"' in line]
        assert not failed, failed[0]


class Reader(threading.Thread):
    """Reads an answer at about 800 kB a second."""

    def __init__(self, connection: socket.socket, asks: bytes) -> None:
        super().__init__(daemon=True)
        self.connection, self.answer = connection, None
        connection.sendall(asks)
        self.start()

    answer: tuple[int, bytes] | None

    def run(self) -> None:
        received = b""
        while len(received) < 8_000_000:
            if not (more := self.connection.recv(40_000)):
                return
            received += more
            time.sleep(0.05)
        self.answer = read_answer(self.connection, received)


def request(key: str, body: dict[str, Any], *more: str) -> bytes:
    content = json.dumps(body).encode()
    return head(key, "/v1/embeddings", "POST", f"Content-Length: {len(content)}", *more) + b"\r\n" + content


def embeddings(target: Replica, key: str, body: dict[str, Any], *more: str) -> socket.socket:
    """A connection on which this was asked."""
    connection = unhurried(target)
    connection.sendall(request(key, body, *more))
    return connection


def is_cut(connection: socket.socket) -> bool:
    """Whether it was reset: what is left to be read is lost then."""
    return connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0 or not established(connection)


def established(connection: socket.socket) -> bool:
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == 1


def unread_stream(target: Replica, key: str, cached: bool) -> socket.socket:
    """A connection whose stream has begun, and of which nothing more is read."""
    asked = {
        "messages": [{"role": "user", "content": f"Talk for long, {cached}."}],
        "stream": True,
        "tenantry": {"cache": cached},
    }
    body = json.dumps(asked).encode()
    connection = unhurried(target)
    connection.sendall(head(key, "/v1/chat/completions", "POST", f"Content-Length: {len(body)}") + b"\r\n" + body)
    assert connection.recv(12) == b"HTTP/1.1 200"
    return connection


def unhurried(target: Replica) -> socket.socket:
    """A connection whose system takes little of what is not read."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(60)
    connection.connect(address(target))
    return connection


def outcomes(tenant: Tenant) -> list[tuple[Any, ...]]:
    return tenant.sql(
        "SELECT l.status, l.estimated, l.tokens_out > 0, a.error, a.status FROM ledger l "
        "JOIN audit a ON a.id = l.id AND a.phase = 'outcome' WHERE l.kind = 'chat'"
    )
