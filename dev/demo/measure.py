"""What the real Prometheus has scraped of each tenant."""

from __future__ import annotations

from typing import Any

import httpx


class Prometheus:
    """Its HTTP API at `url`, such as http://127.0.0.1:9090."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=10, trust_env=False)

    def close(self) -> None:
        self._http.close()

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """An instant query: labels and value of each series.  Raises httpx.HTTPError, ValueError."""
        answer = self._http.get("/api/v1/query", params={"query": expression})
        said: dict[str, Any] = answer.json()
        if said.get("status") != "success":
            raise ValueError(f"Prometheus refused {expression!r}: {said.get('error')}")
        return [(found["metric"], float(found["value"][1])) for found in said["data"]["result"]]

    def total(self, expression: str) -> float:
        """The sum over all series of an instant query; 0 where there are none."""
        return sum(value for _, value in self.query(expression))


def tokens(tenant: str) -> str:
    """Each replica shows the tenant's total, so the largest counts."""
    return f'max by (model, direction) (tenantry_tokens_total{{tenant="{tenant}"}})'


SHOWN = (
    ("tokens", 'sum(max by (model, direction) (tenantry_tokens_total{{tenant="{t}"}}))', "{:,.0f}"),
    ("cost, $", 'sum(max by (category) (tenantry_cost_dollars_total{{tenant="{t}"}}))', "{:.7f}"),
    ("budget, $", 'max(tenantry_budget_dollars{{tenant="{t}"}})', "{:,.0f}"),
    ("spent, $", 'max(tenantry_budget_spent_dollars{{tenant="{t}"}})', "{:.7f}"),
    ("searches", 'max(tenantry_vector_searches_total{{tenant="{t}"}})', "{:,.0f}"),
    ("requests", 'sum(tenantry_requests_total{{tenant="{t}"}})', "{:,.0f}"),
)
"""Column, expression, format."""


def row(prometheus: Prometheus, tenant: str) -> list[str] | None:
    """One tenant's line of the table; None while a series is missing."""
    cells = [tenant]
    for _, expression, form in SHOWN:
        found = prometheus.query(expression.format(t=tenant))
        if not found:
            return None
        cells.append(form.format(found[0][1]))
    return cells
