"""What Prometheus sees.  Money and tokens are read from the ledger's totals: every replica shows the tenant's."""

import asyncio
import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tenantry_runtime.audit import EventType
from tenantry_runtime.config import NANO, Configuration
from tenantry_runtime.leaks.kinds import KINDS
from tenantry_runtime.store import Store, StoreUnavailableError

if TYPE_CHECKING:
    from tenantry_runtime.ledger import Ledger

log = logging.getLogger(__name__)

LEAKS = ("foreign_hit", *KINDS)
"""Kinds of leaks that are shown from nought."""
TENANT = ("tenant", "tier", "region")
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TOTALS = """
SELECT model, sum(tokens_in)::bigint, sum(tokens_out)::bigint, sum(llm_nano)::bigint, sum(database_nano)::bigint,
       sum(vector_nano)::bigint, sum(database_queries)::bigint, sum(vector_searches)::bigint
FROM totals GROUP BY model
"""
_SPENT = """
SELECT month_nano FROM meter WHERE subject = 'tenant' AND month_ends_at > clock_timestamp()
"""


def model_label(configuration: Configuration, model: str) -> str:
    """A bounded label: models that are configured by name, all others as `other`, no model as `none`."""
    if not model:
        return "none"
    known = model in configuration.prices or model in configuration.allowed_models
    return model if known else "other"


class _Totals(Collector):
    """The ledger's totals as of the last scrape that reached the database."""

    def __init__(self) -> None:
        self.configuration: Configuration | None = None
        self.rows: list[tuple[Any, ...]] = []
        self.spent_nano: int | None = None
        self.refused: dict[str, int] = {}
        self.events: dict[str, int] = {}

    def collect(self) -> Iterator[Metric]:
        if self.configuration is None:
            return
        where = _labels(self.configuration)
        tokens = CounterMetricFamily(
            "tenantry_tokens", "Tokens that models read and wrote.", labels=[*TENANT, "model", "direction"]
        )
        by_model: dict[str, list[int]] = {}
        for model, *values in self.rows:
            held = by_model.setdefault(model_label(self.configuration, model), [0, 0])
            held[0] += values[0]
            held[1] += values[1]
        for model, (given, made) in sorted(by_model.items()):
            if model != "none":
                tokens.add_metric([*where, model, "input"], given)
                tokens.add_metric([*where, model, "output"], made)
        yield tokens
        cost = CounterMetricFamily("tenantry_cost_dollars", "Money spent.", labels=[*TENANT, "category"])
        for column, category in ((3, "llm"), (4, "database"), (5, "vector")):
            cost.add_metric([*where, category], sum(row[column] for row in self.rows) / NANO)
        yield cost
        for column, name, text in (
            (6, "tenantry_database_queries", "Statements run for requests."),
            (7, "tenantry_vector_searches", "Searches in the tenant's vectors."),
        ):
            counter = CounterMetricFamily(name, text, labels=TENANT)
            counter.add_metric(where, sum(row[column] for row in self.rows))
            yield counter
        limited = CounterMetricFamily("tenantry_rate_limited", "Calls that a limit refused.", labels=[*TENANT, "limit"])
        # From nought, so that the first refusal is an increase too.
        for limit, count in sorted((dict.fromkeys(_limits(self.configuration), 0) | self.refused).items()):
            limited.add_metric([*where, limit], count)
        yield limited
        audited = CounterMetricFamily("tenantry_audit_events", "Events of the audit.", labels=[*TENANT, "type"])
        for event_type, count in sorted((dict.fromkeys(get_args(EventType), 0) | self.events).items()):
            audited.add_metric([*where, event_type], count)
        yield audited
        budget = self.configuration.budget
        if budget:
            gauge = GaugeMetricFamily("tenantry_budget_dollars", "The month's budget.", labels=TENANT)
            gauge.add_metric(where, budget.monthly_nano / NANO)
            yield gauge
        if self.spent_nano is not None:
            gauge = GaugeMetricFamily("tenantry_budget_spent_dollars", "Spent in this month.", labels=TENANT)
            gauge.add_metric(where, self.spent_nano / NANO)
            yield gauge


def _labels(configuration: Configuration) -> tuple[str, str, str]:
    return configuration.tenant, configuration.tier, configuration.region


def _limits(configuration: Configuration) -> list[str]:
    """The limits that may refuse a call, by the names that the ledger gives them."""
    limits = configuration.limits
    subjects = [("", True), ("user_", limits.per_user is not None), ("key_", limits.per_key is not None)]
    each = ("requests", "tokens", "day", "concurrency")
    return ["budget", "too_large", *(f"{subject}{limit}" for subject, there in subjects if there for limit in each)]


class Metrics:
    """Counts what happens in this process, and shows the tenant's totals beside it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._totals = _Totals()
        self.registry.register(self._totals)
        self._read_at = 0.0
        self._reading = asyncio.Lock()
        self._requests = Counter(
            "tenantry_requests", "Requests answered.", [*TENANT, "model", "code"], registry=self.registry
        )
        self._duration = Histogram(
            "tenantry_request_duration_seconds",
            "From a request's arrival to the end of its answer.",
            [*TENANT, "route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._first = Histogram(
            "tenantry_time_to_first_token_seconds",
            "From a streaming request's arrival to the first piece of its answer.",
            [*TENANT, "model"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._cache = Counter(
            "tenantry_cache_requests",
            "Requests that the cache answered (hit) or could not (miss).",
            [*TENANT, "result"],
            registry=self.registry,
        )
        self._leaks = Counter(
            "tenantry_leaks_blocked",
            "What was held back as a secret or another's.",
            [*TENANT, "kind"],
            registry=self.registry,
        )

    def request(self, configuration: Configuration, model: str, code: int, route: str, seconds: float) -> None:
        where = _labels(configuration)
        self._requests.labels(*where, model_label(configuration, model), str(code)).inc()
        self._duration.labels(*where, route).observe(seconds)

    def first_token(self, configuration: Configuration, model: str, seconds: float) -> None:
        self._first.labels(*_labels(configuration), model_label(configuration, model)).observe(seconds)

    def cache(self, configuration: Configuration, result: str) -> None:
        self._cache.labels(*_labels(configuration), result).inc()

    def leak(self, configuration: Configuration, kind: str, count: int = 1) -> None:
        self._leaks.labels(*_labels(configuration), kind).inc(count)

    async def expose(self, store: Store, ledger: "Ledger", configuration: Configuration | None) -> bytes:
        """The text format.  Where the database is away, the totals are those of the last scrape."""
        async with self._reading:
            if configuration and time.monotonic() - self._read_at > 1:
                try:
                    async with asyncio.timeout(3):
                        self._totals.rows = await store.fetch(_TOTALS)
                        spent = await store.one(_SPENT)
                        self._totals.spent_nano = int(spent[0]) if spent else 0
                        self._read_at = time.monotonic()
                except (StoreUnavailableError, TimeoutError):
                    log.warning("the ledger can't be read: metrics show its last known totals")
            if configuration:
                for kind in LEAKS:
                    self._leaks.labels(*_labels(configuration), kind)
            self._totals.configuration = configuration
            self._totals.refused = dict(ledger.refused)
            self._totals.events = dict(ledger.events)
            return generate_latest(self.registry)
