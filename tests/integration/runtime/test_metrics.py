"""What Prometheus sees of the runtime: every series that the design names, with its labels, their values bounded."""

from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tenantry_runtime.config import NANO, Budget, Cache, Limits
from tests.integration.runtime.samples import Sample, World, operations, question, send
from tests.integration.runtime.stack import Replica, Tenant, eventually
from tests.integration.runtime.upstream import Upstream

WHERE = {"tenant", "tier", "region"}
NAMED = {
    "tenantry_requests": {"model", "code"},
    "tenantry_request_duration_seconds": {"route"},
    "tenantry_time_to_first_token_seconds": {"model"},
    "tenantry_tokens": {"model", "direction"},
    "tenantry_cost_dollars": {"category"},
    "tenantry_budget_dollars": set(),
    "tenantry_budget_spent_dollars": set(),
    "tenantry_rate_limited": {"limit"},
    "tenantry_leaks_blocked": {"kind"},
    "tenantry_vector_searches": set(),
    "tenantry_database_queries": set(),
    "tenantry_cache_requests": {"result"},
    "tenantry_audit_events": {"type"},
}
"""Family (a counter's samples end in ``_total``) -> the labels it has besides `WHERE`."""

MODELS = {"gpt-4o-mini", "wordllama-256", "gpt-4o", "other", "none"}
VALUES = {
    "model": MODELS,
    "code": {str(code) for code in (200, 303, 400, 401, 403, 404, 405, 408, 413, 422, 429, 502, 503, 504)},
    "route": {operation.path for operation in operations()},
    "direction": {"input", "output"},
    "category": {"llm", "database", "vector"},
    "result": {"hit", "miss"},
    "type": {"api_call", "data_access", "configuration_change", "deletion", "access_denied"},
}
"""All that a label may be."""

Family = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def families(replica: Replica) -> dict[str, Family]:
    """Family -> (sample's name, its labels) -> value."""
    return {
        family.name: {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in family.samples}
        for family in text_string_to_metric_families(replica.metrics())
    }


@pytest.fixture(scope="module")
def asked(
    everything: Tenant, both: tuple[Replica, Replica], world: World, upstream: Upstream
) -> Iterator[dict[str, Family]]:
    """The metrics after one request of each kind."""
    everything.apply(both, budget=Budget(monthly_nano=5 * NANO), cache=Cache(mode="All"))
    path = "/v1/chat/completions"

    def ask(key: str = world.key, **more: object) -> int:
        body = {"messages": [{"role": "user", "content": question()}], **more}
        return send(world.replica, key, "POST", path, Sample(), body=body).status_code

    assert ask() == 200
    assert ask(stream=True) == 200
    again = [{"role": "user", "content": question()}]
    assert [ask(messages=again), ask(messages=again)] == [200, 200]
    assert ask(model="gpt-9") == 403
    assert ask(n=0) == 422
    assert ask("tk-wrong") == 401
    assert send(world.replica, world.key, "GET", "/v1/files/file-none", Sample()).status_code == 404
    search = Sample(body={"query": question()}, path={"vector_store_id": world.searchable()})
    assert send(world.replica, world.key, "POST", "/v1/vector_stores/{vector_store_id}/search", search).is_success
    everything.apply(both, budget=None, limits=Limits(concurrency=0))
    assert ask() == 413
    everything.apply(both, limits=Limits(requests_per_minute=1), budget=Budget(monthly_nano=5 * NANO))
    assert [ask(), ask()] == [200, 429]
    everything.settled()
    eventually(lambda: sum(families(world.replica)["tenantry_cost_dollars"].values()) > 0)
    yield families(world.replica)
    everything.apply(both, limits=Limits(), budget=None, cache=Cache(mode="Off"))


@pytest.mark.parametrize("name", NAMED)
def test_each_named_series_is_there_with_its_labels(asked: dict[str, Family], everything: Tenant, name: str) -> None:
    assert name in asked, sorted(asked)
    samples = [dict(labels) for (full, labels) in asked[name] if not full.endswith("_created")]
    assert samples, f"{name} has no sample"
    configuration = everything.configuration
    for labels in samples:
        assert labels.keys() - {"le"} == WHERE | NAMED[name]
        assert labels["tenant"] == configuration.tenant
        assert labels["tier"] == configuration.tier
        assert labels["region"] == configuration.region


def test_labels_are_of_a_known_set(asked: dict[str, Family]) -> None:
    ours = {name: family for name, family in asked.items() if name.startswith("tenantry_")}
    for name, family in ours.items():
        for _, labels in family:
            for label, value in labels:
                assert value in VALUES.get(label, {value}), (name, label, value)
                assert len(value) < 100


def test_counters_begin_at_nought(asked: dict[str, Family]) -> None:
    """A rate is told from the first refusal on, not from the second."""
    limits = {dict(labels)["limit"] for _, labels in asked["tenantry_rate_limited"]}
    assert {"requests", "tokens", "day", "concurrency", "budget"} <= limits


def test_what_a_limit_refuses_is_counted_under_its_name(asked: dict[str, Family], world: World) -> None:
    assert world.replica.metric("tenantry_rate_limited_total", limit="requests") >= 1
    assert world.replica.metric("tenantry_requests_total", code="429", model="gpt-4o-mini") >= 1


def test_what_the_cache_answers_is_a_hit(asked: dict[str, Family], world: World) -> None:
    assert world.replica.metric("tenantry_cache_requests_total", result="hit") >= 1
    assert world.replica.metric("tenantry_cache_requests_total", result="miss") >= 1


def test_an_unknown_model_is_other(asked: dict[str, Family], world: World) -> None:
    assert world.replica.metric("tenantry_requests_total", code="403", model="other") >= 1
