"""A document of one tenant, asked for as another in every way that the API has: never found.

The ways are taken from the service's own OpenAPI document: a route that is added is asked too, or this fails.
Each attempt has its positive control: the same request at home succeeds.
"""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.integration.runtime.stack import COLLECTION, Replica, Stack, Tenant, eventually, get

SECRET = "The launch code of project Bluebird is violet-anchor-5521."
QUESTION = "What is the launch code of project Bluebird?"
BOUNDARY = "----boundary"

PUBLIC = {"/", "/openapi.json", "/livez", "/readyz"}
OWN_ONLY = {
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model}"),
    ("POST", "/v1/embeddings"),
    ("POST", "/v1/files"),
    ("GET", "/v1/audit"),  # which names what its own tenant asked for, and was refused
    ("GET", "/v1/audit/export"),
    ("POST", "/v1/conversations"),
}
"""Routes that take no id of anybody's and search nothing: they must answer without the secret."""
CONFIRMED = {("DELETE", "/v1/files")}
"""Routes that do nothing unless the tenant is named."""


ASKING = {"/v1/chat/completions", "/v1/responses"}
NAMING = {"tenantry", "tools", "conversation"}
"""Fields of a question by which it names something: without them it is answered, and without the secret."""


@dataclass
class Side:
    tenant: Tenant
    replica: Replica
    ids: dict[str, str]

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        request = urllib.request.Request(self.replica.url + path, method=method)
        request.add_header("Authorization", f"Bearer {self.tenant.key}")
        if isinstance(body, bytes):
            request.data = body
            request.add_header("Content-Type", f"multipart/form-data; boundary={BOUNDARY}")
        elif body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


@pytest.fixture(scope="module")
def sides(stack: Stack, home: Tenant, service: Replica) -> Iterator[tuple[Side, Side]]:
    """Tenant one with the secret document, tenant two with a harmless one, on the same servers."""
    two = stack.tenant()
    with two.replica() as other:
        yield prepare(home, service, SECRET), prepare(two, other, "Bananas are yellow.")


def prepare(tenant: Tenant, replica: Replica, text: str) -> Side:
    client = replica.client(tenant.key)
    file = client.files.create(file=("secret.txt", text.encode()), purpose="assistants")
    store = client.vector_stores.create(name="store")
    batch = client.vector_stores.file_batches.create(store.id, file_ids=[file.id])
    eventually(lambda: client.vector_stores.retrieve(store.id).file_counts.completed == 1)
    said = [{"role": "user", "content": text}, {"role": "assistant", "content": text}]
    conversation = client.conversations.create(items=said)
    (item, _) = client.conversations.items.list(conversation.id).data
    other = client.files.create(file=("other.txt", b"To be put into batches."), purpose="assistants")
    ids = {
        "file_id": file.id,
        "other_file_id": other.id,
        "vector_store_id": store.id,
        "batch_id": batch.id,
        "model": "gpt-4o-mini",
        "conversation_id": conversation.id,
        "item_id": item.id,
    }
    return Side(tenant, replica, ids)


def operations(replica: Replica) -> list[tuple[str, str]]:
    document = json.loads(get(f"{replica.url}/openapi.json")[1])
    found = [
        (method.upper(), path)
        for path, methods in document["paths"].items()
        for method in methods
        if not path.startswith("/dashboard")  # pages for sessions, not for keys: test_dashboard.py
    ]
    return sorted(found, key=lambda item: (item[0] == "DELETE", item))  # deletions last


def bodies(path: str, ids: dict[str, str]) -> list[Any]:
    """What is sent to a route: all the ways in which it can name a document."""
    chat = {"messages": [{"role": "user", "content": QUESTION}]}
    only = {"retrieval": {"vectorStoreIds": [ids["vector_store_id"]], "minScore": -1}}
    asked = {"input": QUESTION}
    search = {
        "type": "file_search",
        "vector_store_ids": [ids["vector_store_id"]],
        "ranking_options": {"score_threshold": -1},
    }
    form = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nassistants\r\n'
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\nx\r\n'
        f"--{BOUNDARY}--\r\n"
    )
    return {
        "/v1/chat/completions": [
            chat | {"tenantry": only},
            chat | {"tenantry": only, "stream": True},
            chat | {"tenantry": {"conversation": ids["conversation_id"]}},
            chat,
            chat | {"stream": True},
        ],
        "/v1/responses": [
            asked | {"tools": [search]},
            asked | {"tools": [search], "stream": True},
            asked | {"conversation": ids["conversation_id"]},
            asked,
        ],
        "/v1/embeddings": [{"input": QUESTION}],
        "/v1/files": [form.encode()],
        "/v1/vector_stores": [{"file_ids": [ids["file_id"]]}],
        "/v1/vector_stores/{vector_store_id}": [{"metadata": {"a": "b"}}],
        "/v1/vector_stores/{vector_store_id}/file_batches": [
            {"file_ids": [ids["other_file_id"]]},
            {"files": [{"file_id": ids["other_file_id"]}]},
        ],
        "/v1/vector_stores/{vector_store_id}/file_batches/{batch_id}/cancel": [{}],
        "/v1/vector_stores/{vector_store_id}/files/{file_id}": [{"attributes": {"a": "b"}}],
        "/v1/vector_stores/{vector_store_id}/files": [{"file_id": ids["file_id"]}],
        "/v1/vector_stores/{vector_store_id}/search": [
            {"query": QUESTION},
            {"query": QUESTION, "filters": {"type": "ne", "key": "a", "value": "c"}},
        ],
        "/v1/conversations": [{"metadata": {"title": QUESTION}}],
        "/v1/conversations/{conversation_id}": [{"metadata": {"title": "another"}}],
        "/v1/conversations/{conversation_id}/items": [{"items": chat["messages"]}],
        "/v1/conversations/{conversation_id}/items/{item_id}/rating": [{"rating": "up"}],
    }[path]


def test_every_route_with_anothers_ids(sides: tuple[Side, Side]) -> None:
    one, two = sides
    routes = operations(one.replica)
    assert len(routes) > 15
    for method, path in routes:
        if path in PUBLIC:
            assert SECRET not in two.ask(method, path)[1]
            continue
        place = path.format(**one.ids)
        for body in bodies(path, one.ids) if method == "POST" else [None]:
            status, text = two.ask(method, place, body)
            assert "violet-anchor" not in text, (method, path)
            if (method, path) in CONFIRMED:
                assert status == 422, (method, path, text)
            elif (method, path) in OWN_ONLY:
                assert status == 200, (method, path, text)
            elif path in ASKING and not NAMING & body.keys():
                assert status == 200, text
            elif "{" in path or method == "POST":
                assert status == 404, (method, path, status, text)
            else:
                assert status == 200
                assert all(value not in text for value in one.ids.values() if value != "gpt-4o-mini")

    # Whoever asked for what is another tenant's is in the audit of its own.
    denied = two.tenant.sql(
        "SELECT DISTINCT resource_id FROM audit WHERE event_type = 'access_denied' AND status = '404'"
    )
    theirs = {value for name, value in one.ids.items() if name not in ("model", "other_file_id")}
    assert theirs <= {row[0] for row in denied}

    # The same requests at home: each succeeds, and those that show content show the secret.
    shown = 0
    for method, path in routes:
        if path in PUBLIC or (method, path) in CONFIRMED:
            continue
        if method == "DELETE":
            assert one.ask("GET", path.format(**one.ids))[0] in (200, 404)
        for body in bodies(path, one.ids) if method == "POST" else [None]:
            status, text = one.ask(method, path.format(**one.ids), body)
            if method == "DELETE" and status == 404:  # gone with what was deleted before it
                assert path.count("{") == 2 or path.endswith("{file_id}")
                continue
            assert status == 200, (method, path, text)
            shown += "violet-anchor" in text
    assert shown >= 8  # chat in four ways, responses in two, the search, the file's content


def test_a_chunk_with_anothers_tag_or_of_no_ingestion_is_never_shown(sides: tuple[Side, Side]) -> None:
    _, planted = sides  # a fault elsewhere would leave such chunks in its partition
    vectors, home = planted.tenant.stack.vectors, planted.tenant
    (row,) = vectors.query(COLLECTION, filter=f'tenant == "{home.tag}"', output_fields=["*"], limit=10)
    row = {name: row[name] for name in ("store_id", "file_id", "chunk", "vector")}
    forged = [
        {**row, "id": "0" * 32 + "-0", "tenant": home.tag, "text": "forged: unknown ingestion"},
        {**row, "id": "not-ours", "tenant": home.tag, "text": "forged: no ingestion"},
        {**row, "id": "f" * 32 + "-0", "tenant": "f" * 32, "text": "forged: foreign tag"},
    ]
    vectors.insert(COLLECTION, forged, partition_name=home.partition)
    path = f"/v1/vector_stores/{planted.ids['vector_store_id']}/search"
    for _ in range(3):
        status, text = planted.ask("POST", path, {"query": "bananas"})
        assert status == 200
        assert "Bananas are yellow." in text
        assert "forged" not in text


def test_a_key_of_one_tenant_is_none_of_anothers(sides: tuple[Side, Side]) -> None:
    one, two = sides
    assert Side(one.tenant, two.replica, {}).ask("GET", "/v1/models")[0] == 401
    assert Side(one.tenant, one.replica, {}).ask("GET", "/v1/models")[0] == 200


def test_the_database_login_reaches_its_own_schema_only(sides: tuple[Side, Side]) -> None:
    import psycopg

    from tenantry_runtime.store import connection_string

    one, two = (side.tenant for side in sides)
    with psycopg.connect(connection_string(two.credentials.postgres), autocommit=True) as connection:
        assert connection.execute("SELECT count(*) FROM files").fetchone()
        for statement in (
            f"SELECT * FROM {one.schema}.files",
            "DELETE FROM ledger",
            "UPDATE access_keys SET name = ''",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())
