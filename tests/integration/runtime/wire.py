"""Requests that no client library would send: bytes on a connection, and what is answered to them."""

import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.integration.runtime.stack import Replica

MORE = int(os.environ.get("TENANTRY_HOSTILE", "1"))
"""So many times as many cases, where a test has a number of its own."""
SEED = int(os.environ.get("TENANTRY_SEED", "20261122"))
"""Repeats a run."""
LARGE = 50 * 1024 * 1024


def memory(replica: Replica) -> float:
    """Megabytes of its process."""
    status = Path(f"/proc/{replica.child.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


def address(replica: Replica) -> tuple[str, int]:
    url = urlsplit(replica.url)
    return url.hostname or "", url.port or 0


def connect(replica: Replica) -> socket.socket:
    return socket.create_connection(address(replica), timeout=60)


def read_answer(connection: socket.socket, received: bytes = b"") -> tuple[int, bytes]:
    """Status and body of what is answered, of which `received` has been read; fails where nothing is in a minute."""
    while b"\r\n\r\n" not in received:
        more = connection.recv(65536)
        assert more, f"closed without an answer: {received!r}"
        received += more
    head, _, body = received.partition(b"\r\n\r\n")
    told = re.search(rb"content-length: (\d+)", head)
    while len(body) < int(told[1]) if told else not body.endswith(b"0\r\n\r\n"):
        more = connection.recv(65536)
        assert more, f"closed in the midst of an answer: {head!r}"
        body += more
    return int(head.split()[1]), body


def raw(replica: Replica, data: bytes | Iterator[bytes]) -> tuple[int, bytes]:
    """Send these bytes, for as long as they are taken, and read an answer."""
    with connect(replica) as connection:
        try:
            for piece in [data] if isinstance(data, bytes) else data:
                connection.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass
        return read_answer(connection)


def head(key: str, path: str = "/v1/chat/completions", method: str = "POST", *more: str) -> bytes:
    """A request's head without its end."""
    lines = [f"{method} {path} HTTP/1.1", "Host: h", f"Authorization: Bearer {key}", *more]
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1")


def refused(status: int, body: bytes) -> dict[str, Any]:
    assert 400 <= status < 500, (status, body)
    error = json.loads(body)["error"]
    assert error["message"]
    assert error["type"]
    return dict(error)


def chunked(body: Iterator[bytes]) -> Iterator[bytes]:
    for piece in body:
        yield b"%x\r\n%s\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


def large(piece: bytes = b"x" * 65536) -> Iterator[bytes]:
    for _ in range(LARGE // len(piece)):
        yield piece
