"""What Prometheus sees of the operator (the names are part of the interface)."""

import itertools
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tenantry.api.base import Condition

Told = tuple[tuple[str, str, str], ...]
"""Type, status and reason of each condition."""


CONDITION = "tenantry_tenant_condition"
TENANTS = 200
"""So many in one piece of a page."""


class Metrics:
    """One registry for one operator."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.conditions: dict[str, Told] = {}
        """By tenant.  A label that changes leaves no old series behind, since each page is made of these."""
        self._alike: dict[Told, Told] = {}
        """Most tenants say the same, which is kept once."""
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

    def pages(self) -> Iterator[bytes]:
        """What a scrape is answered, piece by piece.

        With 2,000 tenants the conditions are 18,000 series: as the library's samples they would take 8 MB for a
        moment, which leaves holes among what stays, and 0.3 s in which nothing else is done.
        """
        yield generate_latest(self.registry)
        yield (
            f"# HELP {CONDITION} 1 for the status that a tenant's condition has.\n# TYPE {CONDITION} gauge\n"
        ).encode()
        told = iter(list(self.conditions.items()))
        while some := list(itertools.islice(told, TENANTS)):
            yield "".join(_series(tenant, condition) for tenant, its in some for condition in its).encode()


def _series(tenant: str, condition: tuple[str, str, str]) -> str:
    """One line.  Nothing in it needs an escape: a tenant's name is a DNS label, and the rest is of enumerations."""
    kind, status, reason = condition
    return f'{CONDITION}{{tenant="{tenant}",type="{kind}",status="{status}",reason="{reason}"}} 1\n'
