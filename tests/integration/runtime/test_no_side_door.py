"""Every route of the OpenAPI document: who may use it, for whom, and that what it asks of a model is in the ledger.

The routes are read from the document, so that a new one is tested too, or fails for want of a sample.
"""

import json
import time
from typing import Any

import httpx
import pytest

from tenantry_runtime.config import Compliance
from tests.integration.runtime.samples import CLIENT, PUBLIC, Operation, Sample, World, operations, sample, send
from tests.integration.runtime.stack import SCOPES, Replica, Tenant, eventually, get
from tests.integration.runtime.upstream import EMBEDDING_TOKENS, Upstream, chunk, delta

OPERATIONS = operations()
GUARDED = [operation for operation in OPERATIONS if operation.security == "key"]
PAGES = [operation for operation in OPERATIONS if operation.security == "session"]
EVERY = pytest.mark.parametrize("operation", OPERATIONS, ids=str)
EACH = pytest.mark.parametrize("operation", GUARDED, ids=str)


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """OpenAI's error object; fails where the answer is none."""
    assert answer.headers["content-type"] == "application/json", answer.text
    error = answer.json()["error"]
    assert isinstance(error["message"], str)
    assert error["message"]
    assert isinstance(error["type"], str)
    assert {"param", "code"} <= error.keys()
    return dict(error)


def test_the_service_serves_the_document_that_is_read_here(both: tuple[Replica, Replica]) -> None:
    for replica in both:
        served = json.loads(get(f"{replica.url}/openapi.json")[1])
        assert {f"{m.upper()} {p}" for p, methods in served["paths"].items() for m in methods} == {
            str(operation) for operation in OPERATIONS
        }


def test_nothing_is_public_by_oversight() -> None:
    others = {str(operation) for operation in OPERATIONS if operation.security not in ("key", "session")} - PUBLIC
    assert not others, f"{others} ask for no key: make them Endpoints, or add them to PUBLIC in samples.py if they may"


@EVERY
def test_a_valid_request_is_answered(world: World, operation: Operation) -> None:
    key = world.key if operation.security == "key" else None
    answer = send(world.replica, key, operation.method, operation.path, sample(world, operation))
    assert answer.status_code == 200 or (not operation.security and answer.status_code == 303), answer.text


@EACH
def test_without_a_current_key_nothing_is_answered(world: World, operation: Operation, upstream: Upstream) -> None:
    given = sample(world, operation)
    eventually(lambda: not world.waiting())
    upstream.reset()
    for headers in (
        {},
        {"Authorization": "Bearer tk-wrong"},
        {"Authorization": "Bearer"},
        {"Authorization": f"Basic {world.key}"},
        {"Authorization": world.key},
        {"X-Api-Key": world.key, "Api-Key": world.key, "Cookie": f"key={world.key}"},
    ):
        answer = send(world.replica, None, operation.method, operation.path, given, headers)
        assert answer.status_code == 401, headers
        assert error_of(answer)["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"] == "Bearer"
    assert not upstream.asked
    assert not upstream.embedded


@EACH
def test_a_key_needs_the_routes_scope_and_no_other(everything: Tenant, world: World, operation: Operation) -> None:
    given = sample(world, operation)
    if operation.scope is None:
        key = everything.add_key("bare", scopes=())
    else:
        assert operation.scope in SCOPES
        others = tuple(scope for scope in SCOPES if scope != operation.scope)
        key = everything.add_key("without", scopes=others)
        answer = send(world.replica, key, operation.method, operation.path, given)
        assert answer.status_code == 403
        assert error_of(answer)["code"] == "scope_missing"
        key = everything.add_key("with", scopes=(operation.scope,))
    # 404: what is its user's alone
    assert send(world.replica, key, operation.method, operation.path, given).status_code in (200, 404)


@pytest.mark.parametrize("end", ["deleted", "expired"])
def test_a_key_that_ends_is_refused_within_a_second_on_every_route_of_every_replica(
    everything: Tenant, world: World, both: tuple[Replica, Replica], end: str
) -> None:
    samples = [(operation, sample(world, operation)) for operation in GUARDED]
    key = everything.add_key(f"to-be-{end}")
    session = world.session(key) if PAGES else {}
    for replica in both:
        assert send(replica, key, "GET", "/v1/models", Sample()).status_code == 200
    if end == "deleted":
        everything.delete_key(key)
    else:
        everything.sql("UPDATE access_keys SET expires_at = extract(epoch FROM now()) WHERE name = 'to-be-expired'")
    ended = time.monotonic()
    for replica in both:
        answer = send(replica, key, "GET", "/v1/models", Sample())
        if answer.status_code != 401:  # it may still hold for what is left of the second
            time.sleep(max(0, ended + 1 - time.monotonic()))
        for operation, given in samples:
            answer = send(replica, key, operation.method, operation.path, given)
            assert answer.status_code == 401, operation
            assert error_of(answer)["code"] == "invalid_api_key"
        for operation in PAGES:
            answer = send(replica, None, operation.method, operation.path, Sample(headers=session))
            assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard/sign-in"), operation


@pytest.mark.parametrize("operation", PAGES, ids=str)
def test_a_page_needs_a_session_of_a_key_with_its_scope(everything: Tenant, world: World, operation: Operation) -> None:
    shown = sample(world, operation).headers
    for key, headers in ((None, {}), (world.key, {}), (None, {"Cookie": f"key={world.key}"}), (None, _forged(shown))):
        answer = send(world.replica, key, operation.method, operation.path, Sample(headers=headers))
        assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard/sign-in")
        assert not answer.content
    usage_only = everything.add_key("usage-only", scopes=("usage",))
    answer = send(world.replica, None, operation.method, operation.path, Sample(headers=world.session(usage_only)))
    assert answer.status_code == (200 if operation.scope == "usage" else 403)


def _forged(headers: dict[str, str]) -> dict[str, str]:
    """A session's cookie with another end."""
    cookie = headers["Cookie"]
    return {"Cookie": cookie[:-4] + ("AAAA" if cookie[-4:] != "AAAA" else "BBBB")}


CLAIMS = {
    "X-Tenantry-User": "mallory",
    "X-Tenantry-Tenant": "other",
    "X-Tenant": "other",
    "X-User": "mallory",
    "X-User-Id": "mallory",
    "X-Remote-User": "mallory",
    "X-Forwarded-User": "mallory",
    "X-Auth-Request-User": "mallory",
    "OpenAI-Organization": "other",
    "OpenAI-Project": "other",
}


@pytest.mark.parametrize(("act", "expected"), [(False, "plain-key"), (True, "mallory")])
def test_identity_headers_are_heard_from_keys_with_the_right_only(
    everything: Tenant, world: World, upstream: Upstream, act: bool, expected: str
) -> None:
    samples = [(operation, sample(world, operation)) for operation in GUARDED]
    eventually(lambda: not world.waiting())
    upstream.reset()
    everything.reset()
    everything.sql("TRUNCATE audit")
    key = everything.add_key("plain-key", act=act)
    for operation, given in samples:
        answer = send(world.replica, key, operation.method, operation.path, given, CLAIMS)
        assert answer.status_code in (200, 404), (operation, answer.text)  # 404: what is another user's alone
    everything.settled()
    rows = everything.sql("SELECT DISTINCT key_name, user_name FROM ledger WHERE key_name = 'plain-key'")
    assert rows == [("plain-key", expected)]
    assert everything.sql("SELECT DISTINCT user_id FROM audit WHERE key_name = 'plain-key'") == [(expected,)]
    # and the provider is told of one user, in no one's words
    users = {asked["user"] for asked in upstream.asked}
    assert len(users) == 1
    assert not {"mallory", "plain-key"} & users


@EACH
def test_what_a_route_asks_of_models_is_in_the_ledger(
    everything: Tenant, world: World, upstream: Upstream, operation: Operation
) -> None:
    given = sample(world, operation)
    eventually(lambda: not world.waiting())
    everything.settled()
    everything.reset()
    upstream.reset()
    answer = send(world.replica, world.key, operation.method, operation.path, given)
    assert answer.status_code == 200, answer.text
    eventually(lambda: not world.waiting())  # an upload's vectors are made later
    everything.settled()
    calls = len(upstream.asked) + len(upstream.embedded)
    assert bool(calls) >= given.models, f"{operation} asked no model: its sample must"
    assert ledger(everything) == told(upstream)
    # each has a model with a price, and none is free
    assert everything.sql("SELECT count(*) FROM ledger WHERE tokens_in > 0 AND llm_nano = 0") == [(0,)]


def ledger(tenant: Tenant) -> tuple[int, int, int]:
    """Calls that used tokens, tokens in, tokens out."""
    ((calls, given, made),) = tenant.sql(
        "SELECT count(*) FILTER (WHERE tokens_in > 0), coalesce(sum(tokens_in), 0), coalesce(sum(tokens_out), 0) "
        "FROM ledger"
    )
    return int(calls), int(given), int(made)


def told(upstream: Upstream) -> tuple[int, int, int]:
    """The same, as the provider said in its answers."""
    usage = upstream.answer["usage"]
    texts = sum(1 if isinstance(body["input"], str) else len(body["input"]) for body in upstream.embedded)
    chats = len(upstream.asked)
    return (
        chats + len(upstream.embedded),
        chats * usage["prompt_tokens"] + texts * EMBEDDING_TOKENS,
        chats * usage["completion_tokens"],
    )


@pytest.mark.parametrize("operation", [operation for operation in OPERATIONS if operation.streams], ids=str)
@pytest.mark.parametrize("usage", [None, {"prompt_tokens": 20, "completion_tokens": 2}], ids=["estimated", "told"])
def test_a_stream_whose_client_asks_for_no_usage_is_charged(
    everything: Tenant, world: World, upstream: Upstream, operation: Operation, usage: dict[str, int] | None
) -> None:
    upstream.events = [delta("Within 30"), delta(" days."), *([chunk(choices=[], usage=usage)] if usage else [])]
    given = sample(world, operation)
    everything.settled()
    everything.reset()
    body = {**(given.body or {}), "stream": True}
    answer = send(world.replica, world.key, operation.method, operation.path, given, body=body)
    assert answer.headers["content-type"].startswith("text/event-stream"), answer.text
    everything.settled()
    ((given_tokens, made, cost, estimated),) = everything.sql(
        "SELECT tokens_in, tokens_out, llm_nano, estimated FROM ledger WHERE tokens_out > 0"
    )
    assert cost > 0
    assert estimated is (usage is None)
    if usage:
        assert (given_tokens, made) == (20, 2)


def test_every_body_is_in_the_audit_where_the_tenant_asks_for_it_without_its_secrets(
    everything: Tenant, world: World, both: tuple[Replica, Replica], upstream: Upstream
) -> None:
    secret = "AKIA" + "QYLPMN5HKZ3XT7WB"
    samples = [(operation, sample(world, operation)) for operation in GUARDED if operation.takes_json]
    everything.apply(both, compliance=Compliance(logging_level="Full"))
    try:
        for operation, given in samples:
            everything.settled()
            everything.sql("TRUNCATE audit")
            send(world.replica, world.key, operation.method, operation.path, given, body={**(given.body or {}), "x": 1})
            answer = send(world.replica, world.key, operation.method, operation.path, given)
            assert answer.status_code == 200, answer.text
            everything.settled()
            rows = everything.sql("SELECT details FROM audit WHERE phase <> 'outcome' ORDER BY at")
            kept = [row.keys() & {"body", "messages", "input", "query"} for (row,) in rows]
            assert any(kept) or not given.body, (operation, rows)
            assert all(len(names) <= 1 for names in kept)
        everything.sql("TRUNCATE audit")
        said = {"type": "message", "role": "user", "content": f"My key is {secret}, keep it."}
        made = world.make("POST /v1/conversations", Sample(body={"items": [said]}))
        ((told,),) = everything.sql("SELECT details::text FROM audit")
        assert "keep it." in told
        assert secret not in told
        send(world.replica, world.key, "DELETE", "/v1/conversations/{id}", Sample(path={"id": made["id"]}))
    finally:
        everything.apply(both, compliance=Compliance())


NOT_SERVED = (
    "POST /v1/completions",
    "POST /v1/edits",
    "POST /v1/images/generations",
    "POST /v1/images/edits",
    "POST /v1/audio/speech",
    "POST /v1/audio/transcriptions",
    "POST /v1/moderations",
    "POST /v1/fine_tuning/jobs",
    "GET /v1/fine_tuning/jobs",
    "POST /v1/batches",
    "POST /v1/assistants",
    "POST /v1/threads",
    "POST /v1/threads/runs",
    "POST /v1/uploads",
    "POST /v1/evals",
    "POST /v1/containers",
    "POST /v1/videos",
    "POST /v1/realtime/sessions",
    "POST /v1/realtime/client_secrets",
    "GET /v1/organization/usage/completions",
    "GET /v1/chat/completions",
    "DELETE /v1/models/gpt-4o-mini",
    "POST /v1/engines/gpt-4o-mini/completions",
    "POST /openai/deployments/gpt-4o-mini/chat/completions",
    "POST /v1/chat/completions/",
    "POST /v1//chat/completions",
    "POST //v1/chat/completions",
    "POST /V1/CHAT/COMPLETIONS",
    "POST /chat/completions",
    "POST /v2/chat/completions",
    "GET /metrics",
    "GET /docs",
    "GET /.env",
    "GET /v1",
    "POST /",
)


@pytest.mark.parametrize("key", [True, False], ids=["key", "stranger"])
def test_what_is_not_served_is_told_so(world: World, upstream: Upstream, key: bool) -> None:
    upstream.reset()
    headers = {"Authorization": f"Bearer {world.key}"} if key else {}
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello?"}], "prompt": "Hello?"}
    for text in NOT_SERVED:
        method, path = text.split()
        # built by hand: a client would tidy the path
        url = httpx.URL(world.replica.url).copy_with(raw_path=path.encode())
        answer = CLIENT.request(method, url, headers=headers, json=body if method == "POST" else None)
        assert answer.status_code in (404, 405), text
        assert error_of(answer)["code"] in ("not_found", "method_not_allowed")
    assert not upstream.asked


@EVERY
def test_other_methods_are_refused(world: World, operation: Operation, upstream: Upstream) -> None:
    upstream.reset()
    served = {other.method for other in OPERATIONS if other.path == operation.path}
    path = operation.path.replace("{", "").replace("}", "")
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE"} - served:
        answer = CLIENT.request(method, world.replica.url + path, headers={"Authorization": f"Bearer {world.key}"})
        # a path with a parameter may hold a word that is a route of its own: then that one answers
        assert answer.status_code in (404, 405), (method, answer.status_code)
        if method != "HEAD":
            error_of(answer)
    assert not upstream.asked
    assert not upstream.embedded
