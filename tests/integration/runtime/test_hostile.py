"""What a client may send that nobody should: an error in OpenAI's shape, never a 500, never a hang, bounded memory.

Schemathesis goes over the service's own OpenAPI document; `test_hostile_bodies` and `test_hostile_heads` are written by
hand.  TENANTRY_HOSTILE=50 tries fifty times as many cases; TENANTRY_SEED repeats a run.
"""

import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tenantry_runtime.config import Documents
from tenantry_runtime.connection import BODY_SECONDS, HEAD_SECONDS
from tests.integration.runtime.samples import Sample, World, operations, send
from tests.integration.runtime.stack import Replica, Tenant, eventually, get
from tests.integration.runtime.wire import (
    LARGE,
    MORE,
    SEED,
    address,
    chunked,
    connect,
    head,
    large,
    memory,
    raw,
    read_answer,
    refused,
)


class Slow(threading.Thread):
    """Sends `begin`, then a byte a second until it is answered or closed."""

    def __init__(self, target: Replica, begin: bytes) -> None:
        super().__init__(daemon=True)
        self.connection, self.begin = connect(target), begin
        self.answer: tuple[int, bytes] = 0, b""
        self.took = 0.0

    def run(self) -> None:
        began = time.monotonic()
        self.connection.settimeout(1)
        self.connection.sendall(self.begin)
        while time.monotonic() < began + 120:
            try:
                if self.connection.recv(1, socket.MSG_PEEK):
                    self.answer = read_answer(self.connection)
                break
            except TimeoutError:
                self.connection.sendall(b"x")
            except ConnectionError:
                break
        self.took = time.monotonic() - began


FORM = "Content-Type: multipart/form-data; boundary=b"
UPLOAD = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'


@pytest.fixture(scope="module")
def slow(everything: Tenant, target: Replica) -> dict[str, Slow]:
    key = everything.key
    begun = {
        "head": Slow(target, head(key) + b"X: "),
        "stranger's head": Slow(target, b"GET / HTTP/1.1\r\nX: "),
        "body": Slow(target, head(key) + b'Content-Length: 100000\r\n\r\n{"a": "'),
        "chunked body": Slow(target, head(key) + b"Transfer-Encoding: chunked\r\n\r\nfffff\r\n"),
        "upload": Slow(
            target,
            head(key, "/v1/files", "POST", FORM, "Content-Length: 100000") + b"\r\n" + UPLOAD,
        ),
    }
    for client in begun.values():
        client.start()
    return begun


def test_schemathesis_finds_nothing(everything: Tenant, target: Replica, slow: dict[str, Slow], tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run"),
        f"{target.url}/openapi.json",
        *("--header", f"Authorization: Bearer {everything.key}"),
        *("--exclude-path-regex", "^/dashboard"),  # pages for browsers, whose refusals are pages: test_dashboard.py
        *("--phases", "coverage,fuzzing", "--max-examples", str(4 * MORE), "--seed", str(SEED)),
        *("--checks", ",".join(CHECKS), "--request-timeout", "30", "--continue-on-failure", "--no-shrink"),
        *("--generation-database", "none", "--suppress-health-check", "all", "--warnings", "off", "--no-color"),
    ]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240 * MORE, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2000:]


CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "ignored_auth",
)


def test_fifty_megabytes_are_refused_and_not_kept(everything: Tenant, target: Replica) -> None:
    key, before = everything.key, memory(target)
    begin = b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n'
    paths = [route.path.replace("{", "").replace("}", "") for route in operations() if route.takes_json]

    def told(path: str, *more: str) -> Iterator[bytes]:
        yield head(key, path, "POST", f"Content-Length: {LARGE}", *more) + b"\r\n"
        yield from large()

    def untold(path: str, first: bytes, *more: str) -> Iterator[bytes]:
        yield head(key, path, "POST", "Transfer-Encoding: chunked", *more) + b"\r\n"
        yield from chunked(piece for pieces in ([first], large()) for piece in pieces)

    requests = [
        *(told(path) for path in paths),
        *(untold(path, b'{"a": "') for path in paths),
        told("/v1/files", FORM),
        untold("/v1/files", UPLOAD, FORM),
        untold("/v1/files", begin % (b"purpose", b""), FORM),
        untold("/v1/files", begin % (b"x" * 60_000, b""), FORM),
        untold("/v1/files", b"x", FORM),
    ]
    with ThreadPoolExecutor(4) as pool:
        for status, body in pool.map(lambda request: raw(target, request), requests):
            # a path whose parameter is a word may be told that there is no such thing
            assert refused(status, body)["code"] in ("request_too_large", "not_found", "invalid_value")
    assert memory(target) - before < 64


def test_an_upload_is_never_whole_in_memory(everything: Tenant, both: tuple[Replica, Replica], world: World) -> None:
    before = everything.configuration.documents
    everything.apply(both, documents=Documents(max_files=2000, max_file_bytes=LARGE))
    held = memory(world.replica)
    text = b"All work and no play. " * (LARGE // 22)
    answer = send(world.replica, world.key, "POST", "/v1/files", Sample(file=text, form={"purpose": "assistants"}))
    assert answer.status_code == 200, answer.text
    assert memory(world.replica) - held < 40
    path = f"/v1/files/{answer.json()['id']}"
    assert send(world.replica, world.key, "GET", f"{path}/content", Sample()).content == text
    assert memory(world.replica) - held < 40
    assert send(world.replica, world.key, "DELETE", path, Sample()).status_code == 200
    everything.apply(both, documents=before)


MODELS = 10_000


def test_unknown_models_make_no_series(world: World) -> None:
    def ask(first: int) -> set[int]:
        connection, seen = http.client.HTTPConnection(*address(world.replica), timeout=60), set()
        with closing(connection):
            for number in range(first, MODELS, 8):
                body = {"model": f"unknown-{number}", "messages": [{"role": "user", "content": "x"}]}
                headers = {"Authorization": f"Bearer {world.key}"}
                connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
                answer = connection.getresponse()
                answer.read()
                seen.add(answer.status)
        return seen

    def series() -> int:
        return sum(not line.startswith("#") for line in world.replica.metrics().splitlines())

    before, held = series(), memory(world.replica)
    with ThreadPoolExecutor(8) as pool:
        assert set().union(*pool.map(ask, range(8))) == {403}
    after = series()
    grown = memory(world.replica) - held
    print(f"{MODELS} unknown models: {before} series before, {after} after; {grown:.0f} MB more")
    assert grown < 40
    assert "unknown-" not in world.replica.metrics()
    # one more of each kind at most, as `other`
    assert after - before < 40


def test_slow_clients_are_sent_away_and_hold_nobody_up(target: Replica, slow: dict[str, Slow]) -> None:
    for name, client in slow.items():
        client.join(120)
        assert client.took < 60, name
        assert refused(*client.answer)["code"] == "request_timeout", name
        assert client.took >= (HEAD_SECONDS if "head" in name else BODY_SECONDS) - 1, name
    assert get(f"{target.url}/readyz")[0] == 200


def test_what_slow_clients_send_is_bounded_for_all_of_them_together(everything: Tenant, world: World) -> None:
    """Two slow clients have the room; a third large body is refused, a small one is not; when they go it fits."""
    size, prompt = 900_000, b'{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "%s"}]}'
    begun = head(world.key, "/v1/chat/completions", "POST", f"Content-Length: {size}") + b"\r\n" + b" " * (size - 99)
    large = prompt % (b"x" * size)
    asked = head(world.key, "/v1/chat/completions", "POST", f"Content-Length: {len(large)}") + b"\r\n" + large
    with everything.replica(TENANTRY_BODY_BYTES="2000000") as replica:
        slow = [connect(replica), connect(replica)]
        try:
            for connection in slow:
                connection.sendall(begun)

            def busy() -> bytes | None:
                with connect(replica) as third:
                    third.sendall(asked)
                    answer = third.recv(65536, socket.MSG_PEEK)
                    status, body = read_answer(third)
                    return answer + body if status == 503 else None

            answer = eventually(busy)  # what a client has sent is not what is read
            assert b"bodies_busy" in answer
            assert b"retry-after: 2" in answer.lower()
            small = Sample(body={"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x"}]})
            assert send(replica, world.key, "POST", "/v1/chat/completions", small).status_code == 200
        finally:
            for connection in slow:
                connection.close()
        eventually(lambda: raw(replica, asked)[0] == 200)


def test_many_connections_that_say_nothing_hold_nobody_up(target: Replica) -> None:
    before = memory(target)
    silent = [connect(target) for _ in range(500)]
    try:
        assert get(f"{target.url}/readyz")[0] == 200
        assert memory(target) - before < 30
    finally:
        for connection in silent:
            connection.close()
    eventually(lambda: get(f"{target.url}/livez")[0] == 200)
