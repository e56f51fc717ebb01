"""Request lines, headers, ids and parameters that no client means."""

import json
import random
import re
from collections.abc import Iterator

import pytest

from tests.integration.runtime.samples import World, operations, sample
from tests.integration.runtime.stack import Replica, Tenant
from tests.integration.runtime.wire import MORE, SEED, head, large, memory, raw, refused

OPERATIONS = operations()


def test_floods_of_headers(everything: Tenant, target: Replica) -> None:
    before = memory(target)

    def endless() -> Iterator[bytes]:
        yield b"GET / HTTP/1.1\r\nX: "
        yield from large()

    def many() -> Iterator[bytes]:
        yield b"GET / HTTP/1.1\r\n"
        yield from large(b"".join(b"x%d: y\r\n" % n for n in range(1000)))

    def trailers() -> Iterator[bytes]:
        yield head(everything.key) + b'Transfer-Encoding: chunked\r\n\r\n2\r\n{"\r\n0\r\n'
        yield from large(b"x: y\r\n" * 10_000)

    line = b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n"
    for sent in (endless(), many(), trailers(), line):
        assert refused(*raw(target, sent))["code"] == "headers_too_large"
    assert memory(target) - before < 30


@pytest.mark.parametrize(
    "sent",
    [
        b"\r\n\r\nhello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET\r\n\r\n",
        b"FOO /v1/models HTTP/1.1\r\nHost: h\r\n\r\n",
        b"CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /v1/\xff\xfe HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /v1/%ff%00%fe HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: h\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET http://other/v1/x HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX\x00Y: z\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: a\x00b\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_what_is_hardly_a_request(target: Replica, sent: bytes) -> None:
    refused(*raw(target, sent))


def test_strange_headers_and_parameters(everything: Tenant, world: World) -> None:
    acting = everything.add_key("acting", act=True)
    for key, more in (
        ("\xff\xfe", ()),
        ("x" * 20_000, ()),
        (acting, ("X-Tenantry-User: \xff\xfe",)),
        (acting, ("X-Tenantry-User: \xc3\x28",)),
        (acting, ("X-Tenantry-User:",)),
        (acting, (f"X-Tenantry-User: {'x' * 20_000}",)),
        (acting, ("X-Tenantry-User: a\x7fb",)),
        (acting, ("User-Agent: \xff\xfe\x01"[:-1], "X-Forwarded-For: \xff, ::::::1", "Referer: \xff")),
        (acting, ("Range: bytes=9999999999999999-0", "If-None-Match: *", "Accept: x/y", "Accept-Encoding: \xff")),
        (acting, ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: x")),
        (acting, ("Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: x")),
        (acting, ("Expect: 200-ok",)),
    ):
        status, body = raw(world.replica, head(key, "/v1/models", "GET", *more) + b"\r\n")
        assert status < 500, (more, body)
        json.loads(body)
    parameters = (
        "limit",
        "after",
        "before",
        "order",
        "filter",
        "purpose",
        "period",
        "type",
        "from",
        "to",
        "user",
        "format",
    )
    values = (
        "",
        "%00",
        "%ff",
        "-1",
        "0",
        "1e9",
        "9" * 40,
        "%D9%A3",
        "x" * 5000,
        "a&{name}=b",
        "[]",
        "null",
        "'",
        "%F0%9F%98%80",
    )
    for operation in OPERATIONS:
        if operation.method != "GET" or "{" in operation.path:
            continue
        query = [f"{name}={value.format(name=name)}" for name in parameters for value in values]
        for text in random.Random(f"{SEED}{operation}").sample(query, min(len(query), 40 * MORE)):
            status, body = raw(world.replica, head(acting, f"{operation.path}?{text}", "GET") + b"\r\n")
            assert status < 500, (operation, text, body)
            if status >= 400:
                refused(status, body)


def test_strange_ids_in_paths(world: World) -> None:
    for operation in OPERATIONS:
        if "{" not in operation.path:
            continue
        given = sample(world, operation)
        body = json.dumps(given.body).encode() if given.body is not None else b""
        for strange in (
            "%00",
            "%ff",
            "..",
            "%2e%2e%2f",
            "'",
            "x" * 5000,
            "%F0%9F%98%80",
            "file-%00",
            "%",
            "a%0d%0aX:y",
        ):
            path = re.sub(r"\{\w+\}", lambda _, strange=strange: strange, operation.path)
            sent = head(world.key, path, operation.method, f"Content-Length: {len(body)}") + b"\r\n" + body
            status, answer = raw(world.replica, sent)
            assert refused(status, answer)["code"] in ("not_found", "bad_request", "method_not_allowed"), path
