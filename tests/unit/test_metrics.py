"""What a scrape of the operator is answered."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from tenantry import metrics
from tenantry.api.base import Condition
from tenantry.metrics import Metrics


def conditions(ready: str, reason: str) -> list[Condition]:
    return [
        Condition(type="Ready", status="True" if ready else "False", reason=reason),
        Condition(type="Stalled", status="False", reason=""),
    ]


def test_each_tenant_has_a_series_for_each_condition_however_many_pieces_the_page_has():
    told = Metrics()
    count = 2 * metrics.TENANTS + 1
    for number in range(count):
        told.tell(f"t{number}", conditions("True", "Reconciled"))
    told.tell("t0", conditions("", "WaitingForRuntime"))
    told.count_request("apply", "namespaces")
    pieces = list(told.pages())
    families = {f.name: f for f in text_string_to_metric_families(b"".join(pieces).decode())}
    assert len(pieces) > 3, "the page is not made at once"
    assert [s.value for s in families["tenantry_api_requests"].samples if s.name.endswith("_total")] == [1]
    found = families[metrics.CONDITION]
    assert (found.type, bool(found.documentation)) == ("gauge", True)
    series = {
        (s.labels["tenant"], s.labels["type"]): (s.labels["status"], s.labels["reason"], s.value) for s in found.samples
    }
    assert len(found.samples) == len(series) == 2 * count
    assert series["t0", "Ready"] == ("False", "WaitingForRuntime", 1), "what a tenant was told before is gone"
    assert series["t1", "Ready"] == ("True", "Reconciled", 1)
    assert series[f"t{count - 1}", "Stalled"] == ("False", "", 1)


def test_a_page_without_tenants_is_whole():
    families = list(text_string_to_metric_families(b"".join(Metrics().pages()).decode()))
    assert {metrics.CONDITION, "tenantry_queue_depth"} <= {f.name for f in families}
