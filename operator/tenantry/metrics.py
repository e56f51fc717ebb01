"""What Prometheus sees of the operator (the names are part of the interface)."""

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tenantry.api.base import Condition


class _Conditions(Collector):
    """One series per tenant and condition: a label that changes leaves no old series behind."""

    def __init__(self, current: Mapping[str, tuple[Condition, ...]]) -> None:
        self.current = current

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(
            "tenantry_tenant_condition",
            "1 for the status that a tenant's condition has.",
            labels=["tenant", "type", "status", "reason"],
        )
        for tenant, conditions in list(self.current.items()):
            for c in conditions:
                family.add_metric([tenant, c.type, c.status, c.reason], 1)
        yield family


class Metrics:
    """One registry for one operator."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.conditions: dict[str, tuple[Condition, ...]] = {}
        self.registry.register(_Conditions(self.conditions))
        self.reconcile_seconds = Histogram(
            "tenantry_reconcile_duration_seconds",
            "Time of one reconcile of one tenant.",
            buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100),
            registry=self.registry,
        )
        self.reconciles = Counter(
            "tenantry_reconcile",
            "Reconciles by result: done, waiting, stalled, error.",
            ["result"],
            registry=self.registry,
        )
        self.queue_depth = Gauge("tenantry_queue_depth", "Tenants that wait for a worker.", registry=self.registry)
        self.drift = Counter(
            "tenantry_drift_corrections", "Things put back, by subsystem.", ["subsystem"], registry=self.registry
        )
        self.api_requests = Counter(
            "tenantry_api_requests", "Requests to the API server.", ["verb", "resource"], registry=self.registry
        )
        self.purged = Counter(
            "tenantry_audit_archive_purged_rows",
            "Audit rows of deleted tenants removed at the end of their retention.",
            ["region"],
            registry=self.registry,
        )
        self.leader = Gauge("tenantry_leader", "1 where this replica leads.", registry=self.registry)

    def count_request(self, verb: str, resource: str) -> None:
        self.api_requests.labels(verb, resource).inc()
