"""The mission's test: a document of tenant 1, asked for as tenant 2 in every way that there is, is never found.

Every attempt has a positive control: the same call, with the same words and ids, finds it as tenant 1.  The routes
are those of the service's own OpenAPI document; a route that this test does not know makes it fail.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
import pytest
from psycopg import sql

from dev.demo import walls
from dev.demo.kube import wait
from tenantry import names
from tests.e2e.world import World

MARK = "MERLIN-4471"
"""In tenant 1's document and nowhere else."""
DOCUMENT = f"The vault of the north tower opens with the word {MARK}.\n"
QUESTION = "With which word does the vault of the north tower open?"


@dataclass(frozen=True)
class Ids:
    """What tenant 1 has, by id."""

    file: str
    store: str


Body = dict[str, Any] | None


@dataclass(frozen=True)
class Way:
    """One way to ask for tenant 1's document; `shows` is whether its answer shows the document to tenant 1."""

    method: str
    path: str
    body: Callable[[Ids], Body]
    shows: bool = True
    last: bool = False
    """Removes something, so it comes after all others."""


def nothing(_: Ids) -> Body:
    return None


def chat(extra: Callable[[Ids], dict[str, Any]], stream: bool = False) -> Callable[[Ids], Body]:
    return lambda ids: {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": 200,
        "stream": stream,
        **extra(ids),
    }


WAYS = (
    Way("POST", "/v1/chat/completions", chat(lambda _: {})),
    Way("POST", "/v1/chat/completions", chat(lambda _: {}, stream=True)),
    Way("POST", "/v1/chat/completions", chat(lambda _: {"tenantry": {"retrieval": {"topK": 50, "minScore": -1}}})),
    Way(
        "POST",
        "/v1/chat/completions",
        chat(lambda ids: {"tenantry": {"retrieval": {"vectorStoreIds": [ids.store], "minScore": -1}}}),
    ),
    Way("POST", "/v1/embeddings", lambda _: {"input": QUESTION}, shows=False),
    Way("GET", "/v1/models", nothing, shows=False),
    Way("GET", "/v1/models/{model}", nothing, shows=False),
    Way("GET", "/", nothing, shows=False),
    Way("GET", "/livez", nothing, shows=False),
    Way("GET", "/readyz", nothing, shows=False),
    Way("GET", "/openapi.json", nothing, shows=False),
    Way("GET", "/v1/files", nothing),
    Way("POST", "/v1/files", nothing, shows=False),  # a multipart form: without one it is refused
    Way("GET", "/v1/files/{file_id}", nothing),
    Way("GET", "/v1/files/{file_id}/content", nothing),
    Way("GET", "/v1/vector_stores", nothing),
    Way("POST", "/v1/vector_stores", lambda ids: {"name": f"with {ids.file}", "file_ids": [ids.file]}),
    Way("GET", "/v1/vector_stores/{vector_store_id}", nothing),
    Way(
        "POST",
        "/v1/vector_stores/{vector_store_id}/search",
        lambda _: {"query": QUESTION, "max_num_results": 50, "ranking_options": {"score_threshold": -1}},
    ),
    Way("POST", "/v1/vector_stores/{vector_store_id}/files", lambda ids: {"file_id": ids.file}),
    Way("GET", "/v1/vector_stores/{vector_store_id}/files", nothing),
    Way("GET", "/v1/vector_stores/{vector_store_id}/files/{file_id}", nothing),
    Way("GET", "/v1/vector_stores/{vector_store_id}/files/{file_id}/content", nothing),
    Way("POST", "/v1/vector_stores/{vector_store_id}/files/{file_id}", lambda _: {"attributes": {"a": "b"}}),
    Way("POST", "/v1/vector_stores/{vector_store_id}", lambda _: {"name": MARK}),
    Way("GET", "/v1/vector_stores/{vector_store_id}/file_batches/{batch_id}", nothing, shows=False),
    Way("GET", "/v1/vector_stores/{vector_store_id}/file_batches/{batch_id}/files", nothing, shows=False),
    Way("POST", "/v1/vector_stores/{vector_store_id}/file_batches/{batch_id}/cancel", nothing, shows=False),
    *(
        Way("GET", path, nothing, shows=False)
        for path in (
            "/v1/prompt",
            "/v1/usage",
            "/v1/audit",
            "/v1/audit/export",
            "/dashboard",
            "/dashboard/usage.csv",
            "/dashboard/audit.csv",
            "/dashboard/sign-in",
            "/dashboard/static/{name}",
        )
    ),
    Way("POST", "/dashboard/sign-in", nothing, shows=False),
    Way(
        "POST",
        "/v1/responses",
        lambda ids: {
            "model": "gpt-4o",
            "input": QUESTION,
            "max_output_tokens": 200,
            "tools": [{"type": "file_search", "vector_store_ids": [ids.store]}],
        },
    ),
    Way("POST", "/v1/conversations", lambda _: {}, shows=False),
    *(
        Way(method, f"/v1/conversations{path}", (lambda _: {}) if method == "POST" else nothing, shows=False)
        for method, path in (
            ("GET", ""),
            ("GET", "/{conversation_id}"),
            ("POST", "/{conversation_id}"),
            ("DELETE", "/{conversation_id}"),
            ("GET", "/{conversation_id}/items"),
            ("POST", "/{conversation_id}/items"),
            ("GET", "/{conversation_id}/items/{item_id}"),
            ("DELETE", "/{conversation_id}/items/{item_id}"),
            ("POST", "/{conversation_id}/items/{item_id}/rating"),
        )
    ),
    Way("POST", "/dashboard/sign-out", nothing, shows=False),
    Way(
        "POST",
        "/v1/vector_stores/{vector_store_id}/file_batches",
        lambda ids: {"file_ids": [ids.file]},
        last=True,  # it is read anew
    ),
    Way("DELETE", "/v1/files", nothing, shows=False, last=True),  # of all: refused without the tenant's name
    Way("DELETE", "/v1/vector_stores/{vector_store_id}/files/{file_id}", nothing, last=True),
    Way("DELETE", "/v1/vector_stores/{vector_store_id}", nothing, last=True),
    Way("DELETE", "/v1/files/{file_id}", nothing, last=True),
)


class Api:
    """One tenant's service as one tenant's key sees it, without the SDK: every byte of an answer counts."""

    def __init__(self, base_url: str, key: str, headers: dict[str, str] | None = None) -> None:
        self._http = httpx.Client(
            base_url=base_url.removesuffix("/v1"),
            headers={"Authorization": f"Bearer {key}", **(headers or {})},
            timeout=60,
            trust_env=False,
        )

    def try_(self, way: Way, ids: Ids) -> httpx.Response:
        none = "0" * 24
        path = way.path.format(
            file_id=ids.file,
            vector_store_id=ids.store,
            model="gpt-4o",
            batch_id=f"vsfb_{none}",
            conversation_id=f"conv_{none}",
            item_id=f"msg_{none}",
            name="style.css",
        )
        body = way.body(ids)
        return self._http.request(way.method, path, **({"json": body} if body is not None else {}))

    def json(self, method: str, path: str, **more: Any) -> Any:
        answer = self._http.request(method, path, **more)
        answer.raise_for_status()
        return answer.json()

    def routes(self) -> set[tuple[str, str]]:
        document = self.json("GET", "/openapi.json")
        methods = {"get", "put", "post", "delete", "patch", "head", "options", "trace"}
        return {(m.upper(), path) for path, item in document["paths"].items() for m in item if m in methods}


def text_of(answer: httpx.Response) -> str:
    """What an answer says: the pieces of a stream put together."""
    if "event-stream" not in answer.headers.get("content-type", ""):
        return answer.text
    pieces = []
    for line in answer.text.splitlines():
        if line.startswith("data: {"):
            for choice in json.loads(line[6:]).get("choices") or ():
                pieces.append((choice.get("delta") or {}).get("content") or "")
    return "".join(pieces) + answer.text


def put(api: Api) -> Ids:
    """The document, searchable."""
    file = api.json(
        "POST", "/v1/files", files={"file": (f"{MARK}.txt", DOCUMENT.encode())}, data={"purpose": "assistants"}
    )["id"]
    store = api.json("POST", "/v1/vector_stores", json={"name": MARK, "file_ids": [file]})["id"]
    path = f"/v1/vector_stores/{store}/files/{file}"
    wait(lambda: api.json("GET", path)["status"] == "completed", "the document is searchable", 90)
    return Ids(file, store)


@pytest.fixture(scope="module")
def apis(world: World, one: str, two: str) -> tuple[Api, Api]:
    """Tenant 1's and tenant 2's: both in one Milvus collection."""
    return tuple(Api(world.runtime(name), world.key(name)) for name in (one, two))  # type: ignore[return-value]


def test_every_route_is_tried(apis: tuple[Api, Api]) -> None:
    tried = {(way.method, way.path) for way in WAYS}
    assert apis[0].routes() == tried, "a new route of the service needs a way to ask for tenant 1's document"


def test_a_document_is_found_by_its_tenant_only(apis: tuple[Api, Api]) -> None:
    first, second = apis
    ids = put(first)
    for way in sorted(WAYS, key=lambda way: way.last):
        # As tenant 2, first: what it might have removed would be missed below.
        stolen = second.try_(way, ids)
        said = text_of(stolen)
        assert MARK not in said, f"{way.method} {way.path} shows tenant 1's document to tenant 2"
        if "{file_id}" in way.path or "{vector_store_id}" in way.path or "file_ids" in (way.body(ids) or {}):
            assert stolen.status_code == 404, f"{way.method} {way.path}: {stolen.status_code} {said[:200]}"
            other = Ids("file-" + "0" * 24, "vs_" + "0" * 24)
            never = second.try_(way, other)
            assert _words(stolen, ids) == _words(never, other), "no hint that it exists"
        else:
            assert stolen.status_code < 500, f"{way.method} {way.path}: {said[:200]}"
        # The same as tenant 1.
        found = first.try_(way, ids)
        if way.shows:
            assert found.status_code == 200, f"{way.method} {way.path}: {found.status_code} {found.text[:200]}"
            shown = text_of(found)
            assert MARK in shown or ids.file in shown or ids.store in shown, f"{way.method} {way.path}: {shown[:300]}"


def _words(answer: httpx.Response, ids: Ids) -> str:
    return answer.text.replace(ids.file, "FILE").replace(ids.store, "STORE")


@pytest.mark.parametrize("header", ["X-Tenantry-Tenant", "X-Tenant-Id", "X-Tenantry-User", "OpenAI-Organization"])
def test_no_header_names_another_tenant(world: World, one: str, two: str, apis: tuple[Api, Api], header: str) -> None:
    ids = put(apis[0])
    uid = world.tenant(one)["metadata"]["uid"]
    for value in (one, uid):
        second = Api(world.runtime(two), world.key(two), {header: value})
        for way in WAYS[:4]:
            assert MARK not in text_of(second.try_(way, ids))
    assert MARK in text_of(apis[0].try_(WAYS[0], ids))
    apis[0].json("DELETE", f"/v1/files/{ids.file}")


def test_a_key_is_of_no_use_at_another_runtime(world: World, one: str, two: str, three: str) -> None:
    for mine in (one, two, three):
        key = world.key(mine)
        for at in (one, two, three):
            assert world.status(world.runtime(at), key) == (200 if at == mine else 401)


# -- SQL -------------------------------------------------------------------------------------


def secret(world: World, tenant: str, name: str) -> dict[str, str]:
    found = world.kube.secret(names.workload_namespace(tenant), name)
    assert found is not None, f"{tenant} has no Secret {name}"
    return found


def test_sql(world: World, one: str, two: str, apis: tuple[Api, Api]) -> None:
    """As tenant 2's role: tenant 1's tables, its runtime's, and its own runtime's."""
    ids = put(apis[0])
    walls.note(secret(world, one, "postgres"), MARK)
    select = sql.SQL("SELECT * FROM {}.{}")
    schema_1, schema_2 = names.schema(one), names.schema(two)
    with walls.login(secret(world, two, "postgres")) as second, walls.login(secret(world, one, "postgres")) as first:
        rows = first.execute(select.format(sql.Identifier(schema_1), sql.Identifier(walls.NOTE))).fetchall()
        assert rows == [(MARK,)]
        second.execute("CREATE TABLE IF NOT EXISTS own (body text)")
        assert second.execute(select.format(sql.Identifier(schema_2), sql.Identifier("own"))).fetchall() == []
        for schema, table in (
            (schema_1, walls.NOTE),
            *((f"{schema}__runtime", table) for schema in (schema_1, schema_2) for table in RUNTIME_TABLES),
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                second.execute(select.format(sql.Identifier(schema), sql.Identifier(table)))
        for statement in (
            sql.SQL("SET ROLE {}").format(sql.Identifier(f"{schema_1}__owner")),
            sql.SQL("CREATE SCHEMA mine"),
            sql.SQL("CREATE TABLE public.mine (body text)"),
            sql.SQL("CREATE DATABASE mine"),
            sql.SQL("CREATE ROLE mine"),
            sql.SQL("GRANT {} TO {}").format(sql.Identifier(schema_1), sql.Identifier(schema_2)),
            sql.SQL("SELECT pg_read_file('/etc/passwd')"),
            sql.SQL("COPY own TO PROGRAM 'cat'"),
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                second.execute(statement)
    apis[0].json("DELETE", f"/v1/files/{ids.file}")


RUNTIME_TABLES = ("configuration", "access_keys", "ledger", "files", "file_parts", "vector_store_files")


def test_sql_across_databases(world: World, one: str, three: str) -> None:
    """Tenant 3 has a database of its own: neither gets into the other's."""
    mine, theirs = secret(world, one, "postgres"), secret(world, three, "postgres")
    assert mine["database"] != theirs["database"]
    for own, other in ((mine, theirs), (theirs, mine)):
        with walls.login(own) as connection:
            assert connection.execute("SELECT current_user").fetchone() == (own["username"],)
        with pytest.raises(psycopg.OperationalError) as refused:
            psycopg.connect(own["uri"], dbname=other["database"], connect_timeout=10).close()
        assert "permission denied for database" in str(refused.value)


# -- Milvus ------------------------------------------------------------------------------------


def test_milvus(world: World, one: str, two: str, three: str, four: str) -> None:
    """At the levels with a user: refused at every collection but its own; at Partition there is no user."""
    for tenant in (one, two):
        assert world.kube.secret(names.workload_namespace(tenant), "milvus") is None
    for tenant, others in ((three, (one, four)), (four, (one, three))):
        place = {name: world.tenant(name)["status"]["pinned"]["collection"] for name in (tenant, *others)}
        mine = secret(world, tenant, "milvus")
        assert mine["collection"] == place[tenant]
        tried = list(walls.vectors(tenant, mine, [place[name] for name in others]))
        assert len(tried) == len(others)
        for wall in tried:
            assert wall.holds, wall
