"""What every request leaves in the audit, and what it does not."""

import uuid
from typing import Any

import httpx
import openai
import pytest

from tenantry_runtime.config import Compliance, Limits, SubjectLimits
from tests.integration.runtime.stack import Replica, Tenant, eventually
from tests.integration.runtime.upstream import Upstream, delta

HELLO: list[Any] = [{"role": "user", "content": "Hello?"}]


@pytest.fixture
def tenant(scripted: Tenant, replicas: tuple[Replica, Replica]) -> Tenant:
    scripted.apply(replicas, limits=Limits(), budget=None, compliance=Compliance())
    return scripted


@pytest.fixture
def client(tenant: Tenant, replicas: tuple[Replica, Replica]) -> openai.OpenAI:
    return replicas[0].client(tenant.key)


def rows(tenant: Tenant) -> list[dict[str, Any]]:
    columns = (
        "id, phase, event_type, action, resource_type, resource_id, user_id, key_name, status, error, address, "
        "user_agent, details"
    )
    found = tenant.sql(f"SELECT {columns} FROM audit ORDER BY at, phase")
    return [dict(zip(columns.split(", "), row, strict=True)) for row in found]


def ask(client: openai.OpenAI, **options: Any) -> Any:
    return client.chat.completions.create(model="gpt-4o-mini", messages=HELLO, **options)


def test_a_call_is_an_intent_and_an_outcome(tenant: Tenant, client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="gpt-4o-mini", messages=HELLO, extra_headers={"User-Agent": "checks/1"}
    )
    intent, outcome = rows(tenant)
    ((identity, cost),) = tenant.sql("SELECT id, cost_nano FROM ledger")
    for row, phase in ((intent, "intent"), (outcome, "outcome")):
        assert (row["id"], row["phase"], row["event_type"]) == (identity, phase, "api_call")
        assert (row["action"], row["resource_type"], row["resource_id"]) == (
            "chat.completions.create",
            "model",
            "gpt-4o-mini",
        )
        assert (row["user_id"], row["key_name"]) == ("default", "default")
        assert row["address"] == "127.0.0.1"
        assert row["user_agent"] == "checks/1"
    assert (intent["status"], outcome["status"], outcome["error"]) == ("", "200", "")
    assert outcome["details"] == {"cost_nano": cost}
    details = intent["details"]
    assert details.pop("request") == raw.headers["x-request-id"]
    assert len(details.pop("prompt_digest")) == 64
    price = {"input": 150, "cached": 150, "output": 600}
    assert details == {
        "messages": 1, "characters": 6, "model": "gpt-4o-mini", "prices": "2026-01-01", "price": price,
    }  # fmt: skip


def test_more_is_kept_where_the_tenant_asks_for_it_but_never_a_key(
    tenant: Tenant, replicas: tuple[Replica, Replica], client: openai.OpenAI
) -> None:
    tenant.apply(replicas, compliance=Compliance(logging_level="Detailed"))
    ask(client, max_tokens=7, temperature=0.25)
    intent, outcome = rows(tenant)
    assert intent["details"]["max_tokens"] == 7
    assert intent["details"]["temperature"] == 0.25
    assert outcome["details"]["tokens"] == {"input": 20, "cached": 0, "output": 2, "estimated": False}
    assert "Hello?" not in str(intent) + str(outcome)
    assert tenant.key not in str(intent) + str(outcome)


def test_reads_and_deletions_are_events(tenant: Tenant, client: openai.OpenAI) -> None:
    client.files.list()
    store = client.vector_stores.create(name="a")
    client.vector_stores.delete(store.id)
    told = [(row["phase"], row["event_type"], row["action"], row["resource_id"], row["status"]) for row in rows(tenant)]
    assert told == [
        ("event", "data_access", "files.list", "", "200"),
        ("event", "api_call", "vector_stores.create", store.id, "200"),
        ("event", "deletion", "vector_stores.delete", store.id, "200"),
    ]
    client.models.list()  # reached no table of ours: an event all the same
    assert rows(tenant)[-1]["action"] == "models.list"
    costs = tenant.sql("SELECT id, cost_nano FROM ledger ORDER BY at")
    assert [(row["id"], row["details"]["cost_nano"]) for row in rows(tenant)[:3]] == costs


def test_refusals_are_told_as_denied(
    tenant: Tenant, replicas: tuple[Replica, Replica], client: openai.OpenAI, upstream: Upstream
) -> None:
    narrow = replicas[0].client(tenant.add_key(f"narrow-{uuid.uuid4().hex[:6]}", scopes=("embeddings",)))
    for refused in (
        lambda: client.files.retrieve("file-somebodys"),
        lambda: client.files.retrieve("%00%1b" * 300),
        lambda: ask(narrow),
        lambda: client.chat.completions.create(model="gpt-9", messages=HELLO),
    ):
        with pytest.raises((openai.NotFoundError, openai.PermissionDeniedError)):
            refused()
    tenant.apply(replicas, limits=Limits(requests_per_minute=60, per_user=SubjectLimits(requests_per_minute=1)))
    ask(client)
    with pytest.raises(openai.RateLimitError, match="1 requests a minute for one user") as limited:
        ask(client)
    assert limited.value.body["limit"] == "user_requests"
    assert limited.value.response.headers["x-ratelimit-limit-requests"] == "1"
    *_, last = rows(tenant)
    assert (last["event_type"], last["status"], last["error"]) == ("access_denied", "429", "rate_limit_exceeded")
    tenant.apply(replicas, limits=Limits())
    with pytest.raises(openai.UnprocessableEntityError):
        ask(client, temperature=9)
    (row,) = rows(tenant)
    assert (row["event_type"], row["status"], row["error"]) == ("api_call", "422", "invalid_value")


def test_denied_rows_name_who_and_what(
    tenant: Tenant, client: openai.OpenAI, replicas: tuple[Replica, Replica]
) -> None:
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve("file-somebodys")
    with pytest.raises(openai.AuthenticationError):
        replicas[0].client("tk-wrong").files.retrieve("file-somebodys")
    found, unknown = rows(tenant)
    assert (found["event_type"], found["status"], found["error"]) == ("access_denied", "404", "not_found")
    assert (found["resource_id"], found["key_name"]) == ("file-somebodys", "default")
    assert (unknown["event_type"], unknown["status"], unknown["error"]) == ("access_denied", "401", "invalid_api_key")
    assert (unknown["user_id"], unknown["key_name"]) == ("", "")
    assert replicas[0].metric("tenantry_audit_events_total", type="access_denied") >= 2


def test_a_flood_of_unknown_keys_does_not_fill_the_table(tenant: Tenant, replicas: tuple[Replica, Replica]) -> None:
    with httpx.Client(trust_env=False, headers={"Authorization": "Bearer tk-wrong"}) as stranger:

        def knock() -> None:
            assert stranger.get(f"{replicas[0].url}/v1/files").status_code == 401

        for _ in range(200):
            knock()
        count = len(rows(tenant))
        assert 1 <= count < 100

        def told() -> int:
            knock()
            return sum(row["details"].get("suppressed", 0) for row in rows(tenant))

        eventually(lambda: told() >= 200 - count, every=0.5)


def test_a_provider_that_fails_is_told_in_the_outcome(
    tenant: Tenant, client: openai.OpenAI, upstream: Upstream
) -> None:
    upstream.status = 500
    with pytest.raises(openai.InternalServerError):
        ask(client)
    with pytest.raises(openai.InternalServerError):
        ask(client, stream=True)
    told = [(row["phase"], row["status"], row["error"]) for row in rows(tenant)]
    assert told == [("intent", "", ""), ("outcome", "502", "upstream_error")] * 2


def test_a_stream_that_its_client_leaves_is_told(tenant: Tenant, client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.events = [delta("Some words of an answer. "), 300]
    with ask(client, stream=True) as stream:
        next(iter(stream))
    eventually(lambda: len(rows(tenant)) == 2)
    _, outcome = rows(tenant)
    assert (outcome["phase"], outcome["status"], outcome["error"]) == ("outcome", "499", "client_gone")


def test_nothing_is_answered_that_the_audit_does_not_have(tenant: Tenant, client: openai.OpenAI) -> None:
    """The table can be read but not written: a read is refused, and written down later."""
    tenant.sql("REVOKE INSERT ON audit FROM " + tenant.schema)
    try:
        for refused in (client.models.list, lambda: ask(client)):
            with pytest.raises(openai.InternalServerError) as error:
                refused()
            assert error.value.status_code == 503
            assert error.value.code == "store_unavailable"
            assert error.value.response.headers["retry-after"]
        assert not rows(tenant)
        assert tenant.sql("SELECT count(*) FROM ledger") == [(0,)]
    finally:
        tenant.sql("GRANT INSERT ON audit TO " + tenant.schema)
    eventually(lambda: len(rows(tenant)) == 2)
    told = {row["action"]: (row["phase"], row["status"], row["error"]) for row in rows(tenant)}
    assert told["models.list"] == ("event", "503", "store_unavailable")
    assert rows(tenant)[0]["details"]["handled"] == "200"
    assert told["chat.completions.create"] == ("event", "503", "store_unavailable")
