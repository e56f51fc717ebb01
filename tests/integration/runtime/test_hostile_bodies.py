"""Bodies that no client means: wrong values in every field of every route, what is no JSON, absurd forms."""

import copy
import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.runtime.samples import TEXT, Operation, World, operations, sample, send
from tests.integration.runtime.test_no_side_door import error_of
from tests.integration.runtime.wire import MORE, SEED, head, raw, refused

JSON_ROUTES = [operation for operation in operations() if operation.takes_json]

RICH: dict[str, dict[str, Any]] = {
    "POST /v1/chat/completions": {
        "model": "gpt-4o-mini",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hello?"}], "name": "n"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            {"role": "tool", "content": "4", "tool_call_id": "1"},
        ],
        "max_tokens": 5,
        "max_completion_tokens": 5,
        "n": 1,
        "temperature": 0.1,
        "top_p": 0.5,
        "stop": ["a"],
        "seed": 1,
        "user": "u",
        "stream": False,
        "stream_options": {"include_usage": True},
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "tool_choice": "auto",
        "functions": [{"name": "f"}],
        "response_format": {"type": "json_object"},
        "logit_bias": {"1": 1},
        "metadata": {"a": "b"},
        "tenantry": {"retrieval": {"topK": 3, "minScore": 0.1, "vectorStoreIds": []}},
    },
    "POST /v1/embeddings": {
        "model": "wordllama-256",
        "input": ["one", "two"],
        "encoding_format": "float",
        "dimensions": 256,
        "user": "u",
    },
    "POST /v1/vector_stores/{vector_store_id}/search": {
        "query": "Refunds?",
        "max_num_results": 3,
        "ranking_options": {"score_threshold": 0.1, "ranker": "auto"},
        "rewrite_query": False,
    },
}
"""What a sample leaves out."""


def nested(levels: int, kind: str = "{") -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value} if kind == "{" else [value]
    return value


NASTY: list[Any] = [
    None,
    True,
    0,
    -1,
    2**63,
    2**64,
    10**30,
    1e308,
    -1e308,
    5e-324,
    1.5,
    "",
    " ",
    "\x00",
    "a\x00b",
    "\u202e\ufeff\U0001f600",
    "x" * 70_000,
    "../../../etc/passwd",
    "'; DROP TABLE ledger; --",
    "{{ 7 * 7 }}",
    [],
    [[]],
    [None],
    [0.5],
    [{}],
    ["\x00"],
    ["x"] * 3000,
    {},
    {"": ""},
    {"a": {}},
    {"\x00": "\x00"},
    {"type": "\x00", "text": 5},
    nested(99),
    nested(99, "["),
    nested(200),
]


def places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to everything inside a body."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, item in inside for found in ((*way, key), *places(item, (*way, key)))]


def mutated(body: dict[str, Any], way: tuple[Any, ...], change: Callable[[Any, Any], None]) -> dict[str, Any]:
    made = copy.deepcopy(body)
    parent: Any = made
    for key in way[:-1]:
        parent = parent[key]
    change(parent, way[-1])
    return made


def put(value: Any) -> Callable[[Any, Any], None]:
    def change(parent: Any, key: Any) -> None:
        parent[key] = value

    return change


def remove(parent: Any, key: Any) -> None:
    del parent[key]


@pytest.mark.parametrize("operation", JSON_ROUTES, ids=str)
def test_wrong_values_in_every_field(world: World, operation: Operation) -> None:
    chance = random.Random(f"{SEED}{operation}")
    given = sample(world, operation)
    body = RICH.get(str(operation)) or given.body or {}
    changes = [(way, put(value)) for way in places(body) for value in NASTY] + [(way, remove) for way in places(body)]
    wrong = [mutated(body, *change) for change in chance.sample(changes, min(len(changes), 120 * MORE))]
    wrong += [
        {**body, "": 1},
        {**body, "\x00": 1},
        {**body, "x" * 70_000: 1},
        {**body, **{f"f{n}": n for n in range(5000)}},
    ]
    for number, made in enumerate(wrong):
        answer = send(world.replica, world.key, operation.method, operation.path, given, body=made)
        told = f"TENANTRY_SEED={SEED}, {number}: {json.dumps(made)[:2000]}"
        assert answer.status_code < 500, (told, answer.text)
        if answer.status_code >= 400:
            error_of(answer)


BODIES = {
    "nothing": b"",
    "no JSON": b"{",
    "no object": b"[]",
    "a number": b"1",
    "null": b"null",
    "Python's": b"{'a': 1}",
    "NaN": b'{"temperature": NaN}',
    "infinite": b'{"temperature": 1e999}',
    "many digits": b'{"max_tokens": ' + b"9" * 100_000 + b"}",
    "half a character": b'{"messages": [{"role": "user", "content": "\xc3"}]}',
    "a lone surrogate": b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    "an encoded surrogate": b'{"messages": [{"role": "user", "content": "\xed\xa0\x80"}]}',
    "UTF-16": '{"messages": []}'.encode("utf-16"),
    "a mark": b'\xef\xbb\xbf{"messages": []}',
    "NULs": b"\x00" * 1000,
    "deep lists": b"[" * 100_000,
    "deep and closed": b'{"messages": ' + b"[" * 1000 + b"]" * 1000 + b"}",
    "deep objects": b'{"a":' * 5000 + b"1" + b"}" * 5000,
    "deep, but parsed": b'{"tools": ' + b'[{"a":' * 200 + b"1" + b"}]" * 200 + b', "messages": []}',
    "the same key again": b'{"messages": [{"role": "user", "content": "x"}], "messages": 5}',
    "many small things": b'{"tools": [' + b"[]," * 300_000 + b"[]]}",
    "compressed": bytes.fromhex("1f8b0800000000000003abae05004356b7ac02000000"),
}


@pytest.mark.parametrize("operation", JSON_ROUTES, ids=str)
def test_bodies_that_are_none(world: World, operation: Operation) -> None:
    path = operation.path.format(**sample(world, operation).path)
    for name, body in BODIES.items():
        sent = head(world.key, path, "POST", f"Content-Length: {len(body)}", "Content-Type: application/json")
        status, answer = raw(world.replica, sent + b"\r\n" + body)
        if status != 200:  # an empty body is an empty object, which some routes take
            refused(status, answer)
        else:
            assert name == "nothing", answer


def part(name: str, content: bytes, more: str = "", filename: str | None = "a.txt", boundary: str = "b") -> bytes:
    shown = f'; filename="{filename}"' if filename is not None else ""
    start = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{shown}\r\n{more}\r\n'
    return start.encode("latin-1") + content + b"\r\n"


PURPOSE = part("purpose", b"assistants", filename=None)
FORM = "multipart/form-data; boundary=b"
FORMS: dict[str, tuple[str, bytes]] = {
    "no boundary": ("multipart/form-data", part("file", TEXT) + PURPOSE + b"--b--\r\n"),
    "an empty boundary": ("multipart/form-data; boundary=", b"----\r\n"),
    "a huge boundary": (f"multipart/form-data; boundary={'b' * 20_000}", b"--" + b"b" * 20_000),
    "a strange boundary": ('multipart/form-data; boundary="\xff\x80"', b"--\xff\x80\r\n"),
    "another type": ("application/x-www-form-urlencoded", b"file=a&purpose=assistants"),
    "no type": ("", part("file", TEXT) + PURPOSE + b"--b--\r\n"),
    "JSON": ("application/json", b'{"file": "a", "purpose": "assistants"}'),
    "nothing": (FORM, b""),
    "no end": (FORM, part("file", TEXT) + part("purpose", b"assist")),
    "no file": (FORM, PURPOSE + b"--b--\r\n"),
    "no purpose": (FORM, part("file", TEXT) + b"--b--\r\n"),
    "two files": (FORM, part("file", TEXT) + part("file", TEXT) + PURPOSE + b"--b--\r\n"),
    "a text for a file": (FORM, part("file", TEXT, filename=None) + PURPOSE + b"--b--\r\n"),
    "a file for a purpose": (FORM, part("file", TEXT) + part("purpose", b"assistants") + b"--b--\r\n"),
    "ten thousand parts": (FORM, part("x", b"", filename=None) * 10_000 + b"--b--\r\n"),
    "ten thousand files": (FORM, part("file", b"x") * 10_000 + b"--b--\r\n"),
    "many headers": (FORM, part("file", TEXT, "X: y\r\n" * 10_000) + PURPOSE + b"--b--\r\n"),
    "a huge header": (FORM, part("file", TEXT, f"X: {'y' * 100_000}\r\n") + PURPOSE + b"--b--\r\n"),
    "no name": (FORM, b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n"),
    "no disposition": (FORM, b"--b\r\nX: y\r\n\r\nx\r\n--b--\r\n"),
    "a form in a form": (
        FORM,
        part("file", b"--c\r\n\r\nx\r\n--c--", "Content-Type: multipart/mixed; boundary=c\r\n", filename=None)
        + b"--b--\r\n",
    ),
    "no name of a file": (FORM, part("file", TEXT, filename="") + PURPOSE + b"--b--\r\n"),
    "a long name": (FORM, part("file", TEXT, filename="x" * 3000 + ".txt") + PURPOSE + b"--b--\r\n"),
    "a NUL in a name": (FORM, part("file", TEXT, filename="a\x00.txt") + PURPOSE + b"--b--\r\n"),
    "an escape in a name": (FORM, part("file", TEXT, filename="a\x1b[31m.txt") + PURPOSE + b"--b--\r\n"),
    "a path for a name": (FORM, part("file", TEXT, filename="../../..") + PURPOSE + b"--b--\r\n"),
    "a program": (FORM, part("file", TEXT, filename="a.exe") + PURPOSE + b"--b--\r\n"),
    "a surrogate in a name": (
        f"{FORM}; charset=unicode_escape",
        part("file", TEXT, filename="\\ud800.txt") + PURPOSE + b"--b--\r\n",
    ),
    "an unknown charset": (f"{FORM}; charset=x-none", part("file", TEXT, filename="\xff.txt") + b"--b--\r\n"),
    "a charset that only fails": (f"{FORM}; charset=undefined", part("file", TEXT) + PURPOSE + b"--b--\r\n"),
    "no charset at all": (f"{FORM}; charset=idna", part("file", TEXT, filename="\xff" * 200) + b"--b--\r\n"),
    "half a character": (FORM, part("file", b"abc\xc3") + PURPOSE + b"--b--\r\n"),
    "NULs": (FORM, part("file", b"\x00" * 100) + PURPOSE + b"--b--\r\n"),
    "a purpose of NULs": (FORM, part("file", TEXT) + part("purpose", b"\x00", filename=None) + b"--b--\r\n"),
}


@pytest.mark.parametrize("name", FORMS)
def test_absurd_forms(world: World, name: str) -> None:
    kind, body = FORMS[name]
    more = [f"Content-Type: {kind}"] if kind else []
    sent = head(world.key, "/v1/files", "POST", f"Content-Length: {len(body)}", *more)
    refused(*raw(world.replica, sent + b"\r\n" + body))
