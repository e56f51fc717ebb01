"""One valid request for each route, for the tests that go through all routes of the OpenAPI document.

A new route needs a sample in `SAMPLES`; if it is for anybody, a line in `PUBLIC` too.
"""

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from tenantry_runtime.openapi import document
from tests.integration.runtime.stack import Replica, eventually, get

PUBLIC = frozenset(
    {
        "GET /",
        "GET /openapi.json",
        "GET /livez",
        "GET /readyz",
        "GET /dashboard/sign-in",
        "POST /dashboard/sign-in",
        "POST /dashboard/sign-out",
        "GET /dashboard/static/{name}",
    }
)
"""What anybody may ask, without a key or a session."""

TEXT = b"Refunds are paid within 30 days.\n\nThe shop opens at nine.\n"
HERE = {"Sec-Fetch-Site": "same-origin"}
"""What a browser says of a form that one of our own pages sent."""
_number = itertools.count(1)


@dataclass(frozen=True)
class Operation:
    """One method of one path, as the document has it.

    `security` is ``key``, or ``session`` (a page that a browser's cookie opens), or empty; `scope` None: any will do.
    """

    method: str
    path: str
    security: str
    scope: str | None
    streams: bool
    takes_json: bool

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


EVERYTHING = "DELETE /v1/files"
"""What it leaves nothing of: last, so that the others find what their samples made."""


def operations() -> list[Operation]:
    """All that the document has."""
    found = [
        Operation(
            method.upper(),
            path,
            "".join(name for either in described.get("security", ()) for name in either),
            described.get("x-tenantry-scope"),
            "text/event-stream" in described["responses"]["200"]["content"],
            "application/json" in described.get("requestBody", {}).get("content", ()),
        )
        for path, methods in json.loads(document())["paths"].items()
        for method, described in methods.items()
    ]
    return sorted(found, key=lambda operation: str(operation) == EVERYTHING)


@dataclass(frozen=True)
class Sample:
    """`models`: whether a model is asked.  `path`: values of the path's parameters."""

    body: dict[str, Any] | None = None
    file: bytes | None = None
    form: dict[str, str] = field(default_factory=dict)
    path: dict[str, str] = field(default_factory=dict)
    query: dict[str, str] = field(default_factory=dict)
    models: bool = False
    headers: dict[str, str] = field(default_factory=dict)


class World:
    """What samples refer to, made through the API when a sample asks for it."""

    def __init__(self, replica: Replica, key: str, tenant: str) -> None:
        self.replica, self.key, self.tenant = replica, key, tenant
        self._searchable = ""

    def make(self, text: str, sample: Sample) -> dict[str, Any]:
        """The answer to a request that must succeed."""
        method, path = text.split()
        answer = send(self.replica, self.key, method, path, sample)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def file(self) -> str:
        """The id of a new file."""
        return str(self.make("POST /v1/files", Sample(file=TEXT, form={"purpose": "assistants"}))["id"])

    def store(self) -> str:
        """The id of a new vector store."""
        return str(self.make("POST /v1/vector_stores", Sample(body={"name": "made"}))["id"])

    def attached(self) -> dict[str, str]:
        """A new file in a new store, as path parameters."""
        store, file = self.store(), self.file()
        place = {"vector_store_id": store}
        self.make("POST /v1/vector_stores/{vector_store_id}/files", Sample(path=place, body={"file_id": file}))
        return {**place, "file_id": file}

    def batch(self) -> dict[str, str]:
        """A new batch of one file in a new store, as path parameters."""
        place = {"vector_store_id": self.store()}
        route = "POST /v1/vector_stores/{vector_store_id}/file_batches"
        return {**place, "batch_id": self.make(route, Sample(path=place, body={"file_ids": [self.file()]}))["id"]}

    def searchable(self) -> str:
        """The id of a store in which something can be found; the same one while its file is there."""
        place = {"vector_store_id": self._searchable}
        route = "GET /v1/vector_stores/{vector_store_id}"
        if not self._searchable or not self.make(route, Sample(path=place))["file_counts"]["completed"]:
            place = self.attached()

            def done() -> bool:
                route = "GET /v1/vector_stores/{vector_store_id}/files/{file_id}"
                return bool(self.make(route, Sample(path=place))["status"] == "completed")

            eventually(done)
            self._searchable = place["vector_store_id"]
        return self._searchable

    def conversation(self) -> dict[str, str]:
        """A new conversation with one answer in it, as path parameters."""
        answer = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello."}]}
        made = self.make("POST /v1/conversations", Sample(body={"items": [answer]}))
        place = {"conversation_id": str(made["id"])}
        items = self.make("GET /v1/conversations/{conversation_id}/items", Sample(path=place))["data"]
        return {**place, "item_id": str(items[0]["id"])}

    def session(self, key: str = "") -> dict[str, str]:
        """The headers of a browser that has signed in with a key."""
        with httpx.Client(trust_env=False, timeout=60) as browser:
            form = {"key": key or self.key}
            answer = browser.post(f"{self.replica.url}/dashboard/sign-in", data=form, headers=HERE)
            assert answer.status_code == 303, answer.text
            return {"Cookie": answer.headers["set-cookie"].partition(";")[0]}

    def asset(self) -> str:
        """The name of a file that the sign-in page refers to."""
        page = get(f"{self.replica.url}/dashboard/sign-in")[1].decode()
        return page.partition("/dashboard/static/")[2].partition('"')[0]

    def waiting(self) -> bool:
        """Whether documents are still being read into the vectors, or taken out of them."""
        stores = self.make("GET /v1/vector_stores?limit=100", Sample())["data"]
        return any(store["status"] == "in_progress" for store in stores)


def question() -> str:
    """One that was not asked before, so that no cache answers it."""
    return f"When are refunds paid, please? This is question {next(_number)}."


def _chat(_: World) -> Sample:
    return Sample(body={"messages": [{"role": "user", "content": question()}]}, models=True)


SAMPLES: dict[str, Callable[[World], Sample]] = {
    "GET /": lambda _: Sample(),
    "GET /openapi.json": lambda _: Sample(),
    "GET /livez": lambda _: Sample(),
    "GET /readyz": lambda _: Sample(),
    "GET /v1/models": lambda _: Sample(),
    "GET /v1/models/{model}": lambda _: Sample(path={"model": "gpt-4o-mini"}),
    "POST /v1/chat/completions": _chat,
    "POST /v1/embeddings": lambda _: Sample(body={"input": question()}, models=True),
    "POST /v1/files": lambda _: Sample(file=TEXT, form={"purpose": "assistants"}),
    "GET /v1/files": lambda _: Sample(),
    "GET /v1/files/{file_id}": lambda world: Sample(path={"file_id": world.file()}),
    "GET /v1/files/{file_id}/content": lambda world: Sample(path={"file_id": world.file()}),
    EVERYTHING: lambda world: Sample(query={"confirm": world.tenant}),
    "DELETE /v1/files/{file_id}": lambda world: Sample(path={"file_id": world.file()}),
    "POST /v1/vector_stores": lambda _: Sample(body={"name": "sample", "metadata": {"a": "b"}}),
    "GET /v1/vector_stores": lambda _: Sample(),
    "GET /v1/vector_stores/{vector_store_id}": lambda world: Sample(path={"vector_store_id": world.store()}),
    "POST /v1/vector_stores/{vector_store_id}": lambda world: Sample(
        path={"vector_store_id": world.store()}, body={"name": "other", "metadata": {"a": "b"}}
    ),
    "DELETE /v1/vector_stores/{vector_store_id}": lambda world: Sample(path={"vector_store_id": world.store()}),
    "POST /v1/vector_stores/{vector_store_id}/files": lambda world: Sample(
        path={"vector_store_id": world.store()}, body={"file_id": world.file()}
    ),
    "GET /v1/vector_stores/{vector_store_id}/files": lambda world: Sample(path={"vector_store_id": world.store()}),
    "GET /v1/vector_stores/{vector_store_id}/files/{file_id}": lambda world: Sample(path=world.attached()),
    "POST /v1/vector_stores/{vector_store_id}/files/{file_id}": lambda world: Sample(
        path=world.attached(), body={"attributes": {"a": "b", "n": 1}}
    ),
    "GET /v1/vector_stores/{vector_store_id}/files/{file_id}/content": lambda world: Sample(path=world.attached()),
    "POST /v1/vector_stores/{vector_store_id}/file_batches": lambda world: Sample(
        path={"vector_store_id": world.store()}, body={"files": [{"file_id": world.file(), "attributes": {"n": 1}}]}
    ),
    "GET /v1/vector_stores/{vector_store_id}/file_batches/{batch_id}": lambda world: Sample(path=world.batch()),
    "GET /v1/vector_stores/{vector_store_id}/file_batches/{batch_id}/files": lambda world: Sample(path=world.batch()),
    "POST /v1/vector_stores/{vector_store_id}/file_batches/{batch_id}/cancel": lambda world: Sample(path=world.batch()),
    "DELETE /v1/vector_stores/{vector_store_id}/files/{file_id}": lambda world: Sample(path=world.attached()),
    "POST /v1/vector_stores/{vector_store_id}/search": lambda world: Sample(
        path={"vector_store_id": world.searchable()},
        body={"query": question(), "filters": {"type": "ne", "key": "n", "value": 1}},
        models=True,
    ),
    "POST /v1/responses": lambda _: Sample(body={"input": question()}, models=True),
    "POST /v1/conversations": lambda _: Sample(body={"metadata": {"title": "A sample"}}),
    "GET /v1/conversations": lambda _: Sample(),
    "GET /v1/conversations/{conversation_id}": lambda world: Sample(path=world.conversation()),
    "POST /v1/conversations/{conversation_id}": lambda world: Sample(
        path=world.conversation(), body={"metadata": {"title": "Another name"}}
    ),
    "DELETE /v1/conversations/{conversation_id}": lambda world: Sample(path=world.conversation()),
    "POST /v1/conversations/{conversation_id}/items": lambda world: Sample(
        path=world.conversation(), body={"items": [{"type": "message", "role": "user", "content": "Hello?"}]}
    ),
    "GET /v1/conversations/{conversation_id}/items": lambda world: Sample(path=world.conversation()),
    "GET /v1/conversations/{conversation_id}/items/{item_id}": lambda world: Sample(path=world.conversation()),
    "DELETE /v1/conversations/{conversation_id}/items/{item_id}": lambda world: Sample(path=world.conversation()),
    "POST /v1/conversations/{conversation_id}/items/{item_id}/rating": lambda world: Sample(
        path=world.conversation(), body={"rating": "up", "comment": "Good."}
    ),
    "GET /v1/usage": lambda _: Sample(),
    "GET /v1/audit": lambda _: Sample(),
    "GET /v1/audit/export": lambda _: Sample(),
    "GET /v1/prompt": lambda _: Sample(),
    "GET /dashboard": lambda world: Sample(headers=world.session()),
    "GET /dashboard/usage.csv": lambda world: Sample(headers=world.session()),
    "GET /dashboard/audit.csv": lambda world: Sample(headers=world.session()),
    "GET /dashboard/sign-in": lambda _: Sample(),
    "POST /dashboard/sign-in": lambda world: Sample(form={"key": world.key}, headers=HERE),
    "POST /dashboard/sign-out": lambda _: Sample(form={"a": "b"}, headers=HERE),
    "GET /dashboard/static/{name}": lambda world: Sample(path={"name": world.asset()}),
}


def sample(world: World, operation: Operation) -> Sample:
    """Fails with what to do where the route has none."""
    make = SAMPLES.get(str(operation))
    assert make, f"{operation} has no sample: add a valid request for it to SAMPLES in {__name__.replace('.', '/')}.py"
    return make(world)


def send(
    replica: Replica,
    key: str | None,
    method: str,
    path: str,
    given: Sample,
    headers: dict[str, str] | None = None,
    body: dict[str, Any] | None = None,
) -> httpx.Response:
    """The whole answer to a sample (with another body, where one is given)."""
    CLIENT.cookies.clear()  # each request is alone
    sent = {**given.headers, **(headers or {})}
    if key is not None:
        sent.setdefault("Authorization", f"Bearer {key}")
    files = {"file": ("sample.txt", given.file, "text/plain")} if given.file is not None else None
    json_body = body if body is not None else given.body
    return CLIENT.request(
        method,
        replica.url + path.format(**given.path),
        headers=sent,
        json=json_body if files is None else None,
        files=files,
        data=given.form or None,
        params=given.query or None,
    )


CLIENT = httpx.Client(trust_env=False, timeout=60)
