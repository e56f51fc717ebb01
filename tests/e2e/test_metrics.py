"""What the real Prometheus has of a tenant and of the operator, and that no secret shows anywhere."""

from __future__ import annotations

import json

import pytest

from dev.demo import ask, measure
from dev.demo.kube import POD, wait
from dev.demo.measure import Prometheus
from dev.demo.story import ACTORS
from tenantry import names
from tenantry.backends import kinds
from tests.e2e.world import World

STORY = ACTORS[1]


@pytest.fixture(scope="module")
def prometheus(world: World) -> Prometheus:
    if not world.target.prometheus:
        pytest.skip("no Prometheus: set TENANTRY_PROMETHEUS_URL")
    return world.prometheus


def test_a_tenants_series_are_its_ledger(world: World, prometheus: Prometheus, two: str) -> None:
    ai = ask.client(world.runtime(two), world.key(two))
    before = int(prometheus.total(measure.tokens(two)))
    ask.upload(ai, STORY)
    answered = ask.ask(ai, STORY.question, STORY.model, ask.prices(world.region(two)))
    assert STORY.fact in answered.text
    used = answered.input_tokens + answered.output_tokens
    wait(lambda: prometheus.total(measure.tokens(two)) >= before + used, "Prometheus has the call's tokens", 90, 1)
    row = wait(lambda: measure.row(prometheus, two), "every series of the demo's table", 60, 1)
    assert row[0] == two
    cost = prometheus.total(f'max by (category) (tenantry_cost_dollars_total{{tenant="{two}"}})')
    assert cost >= float(answered.cost) * 0.999
    for labels, _ in prometheus.query(f'tenantry_tokens_total{{tenant="{two}"}}'):
        assert labels["tier"] == world.tenant(two)["spec"]["tier"]
        assert labels["region"] == world.tenant(two)["status"]["region"]


def test_the_operators_own_metrics(world: World, prometheus: Prometheus, one: str) -> None:
    ready = f'tenantry_tenant_condition{{tenant="{one}",type="Ready",status="True"}}'
    wait(lambda: prometheus.total(ready) == 1, "the operator says that the tenant is Ready", 90, 1)
    for expression in (
        "tenantry_reconcile_duration_seconds_count",
        'tenantry_reconcile_total{result="ready"}',
        'tenantry_api_requests_total{resource="namespaces"}',
    ):
        wait(lambda e=expression: prometheus.total(e) > 0, f"{expression} is above 0", 60, 1)  # type: ignore[misc]
    assert prometheus.query("tenantry_queue_depth")


def test_no_secret_shows_in_logs_events_status_or_metrics(world: World, one: str, three: str) -> None:
    hidden: dict[str, str] = {}
    for tenant in (one, three):
        home, serving = names.workload_namespace(tenant), names.runtime_namespace(tenant)
        for namespace, name, key in (
            (home, "accesskey-default", "api-key"),
            (home, "postgres", "password"),
            (home, "milvus", "password"),
        ):
            found = world.kube.secret(namespace, name)
            if found:
                hidden[f"{namespace}/{name}"] = found[key]
        mounted = world.kube.secret(serving, "runtime")
        assert mounted is not None
        told = json.loads(mounted["credentials.json"])
        hidden |= {
            f"{serving}/runtime {part}": told[part][field]
            for part, field in (("postgres", "password"), ("milvus", "password"), ("provider", "api_key"))
        }
    for name in ("tenantry-postgres", "tenantry-milvus"):
        found = world.kube.secret("tenantry-system", name)
        if found:
            hidden[name] = found["password"]
    assert len(hidden) >= 9
    assert all(len(value) >= 8 for value in hidden.values())

    shown = {f"Tenant {tenant}": json.dumps(world.tenant(tenant)) for tenant in (one, three)}
    spaces = ["tenantry-system", *(names.runtime_namespace(tenant) for tenant in (one, three))]
    for namespace in spaces:
        for pod in world.kube.list(POD, namespace):
            name = pod["metadata"]["name"]
            shown[f"Pod {name}"] = json.dumps(pod)
            shown[f"log of {name}"] = world.kube.logs(namespace, name)
    for namespace in ("default", *spaces, names.workload_namespace(one), names.workload_namespace(three)):
        shown[f"events in {namespace}"] = json.dumps(world.kube.list(kinds.EVENT, namespace))
    assert any(text for what, text in shown.items() if what.startswith("log of tenantry-"))
    for what, secret in hidden.items():
        for where, text in shown.items():
            assert secret not in text, f"the secret of {what} shows in {where}"


def test_the_operators_log_is_json_with_tenant_and_reconcile_id(world: World, one: str) -> None:
    world.add_key(one, "logged")  # something to tell, by the operator that runs now

    def said() -> list[dict[str, str]] | None:
        lines: list[str] = []
        for pod in world.kube.list(POD, "tenantry-system", "app.kubernetes.io/name=tenantry"):
            lines += world.kube.logs("tenantry-system", pod["metadata"]["name"]).splitlines()
        entries = [json.loads(line) for line in lines if line.startswith("{")]
        assert len(entries) > len(lines) * 0.9, "nearly every line is JSON"
        return [entry for entry in entries if entry.get("tenant") == one] or None

    about = wait(said, "the operator's log names the tenant")
    assert all(entry.get("reconcileId") for entry in about)
