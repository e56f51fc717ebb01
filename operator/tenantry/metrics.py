"""What Prometheus sees of the operator (the names are part of the interface)."""

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tenantry.api.base import Condition

Told = tuple[tuple[str, str, str], ...]
"""Type, status and reason of each condition."""


class _Conditions(Collector):
    """One series per tenant and condition: a label that changes leaves no old series behind."""

    def __init__(self, current: Mapping[str, Told]) -> None:
        self.current = current

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(
            "tenantry_tenant_condition",
            "1 for the status that a tenant's condition has.",
            labels=["tenant", "type", "status", "reason"],
        )
        for tenant, conditions in list(self.current.items()):
            for condition in conditions:
                family.add_metric([tenant, *condition], 1)
        yield family


class Metrics:
    """One registry for one operator."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.conditions: dict[str, Told] = {}
        self._alike: dict[Told, Told] = {}
        """Most tenants say the same, which is kept once."""
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

    def tell(self, tenant: str, conditions: Iterable[Condition]) -> None:
        """What a tenant's conditions are now."""
        told = tuple((c.type, c.status, c.reason) for c in conditions)
        if len(self._alike) > 1000:
            self._alike.clear()
        self.conditions[tenant] = self._alike.setdefault(told, told)

    def count_request(self, verb: str, resource: str) -> None:
        self.api_requests.labels(verb, resource).inc()
