"""GET /v1/usage: what a month has cost, exact to the nano-dollar, as JSON or as CSV."""

from collections.abc import AsyncGenerator
from typing import Any

from starlette.responses import Response

from tenantry_runtime import usage
from tenantry_runtime.answers import json_answer
from tenantry_runtime.call import Call
from tenantry_runtime.csv_stream import CsvStream, wants_csv
from tenantry_runtime.endpoint import Endpoint
from tenantry_runtime.usage import Sums, Usage

COLUMNS = (
    "Date",
    "Kind",
    "Model",
    "User ID",
    "Key ID",
    "Calls",
    "Input Tokens",
    "Cached Input Tokens",
    "Output Tokens",
    "Database Queries",
    "Vector Searches",
    "LLM Cost USD",
    "Database Cost USD",
    "Vector Cost USD",
    "Cost USD",
)
BATCH = 1000
"""Rows of one statement of the export."""


async def get_usage(call: Call) -> Response:
    period = call.request.query_params.get("period")
    if wants_csv(call.request.query_params):
        return await export(call, period)
    return json_answer(shown(call, await usage.read(call, period)))


def shown(call: Call, used: Usage) -> dict[str, Any]:
    """The answer.  Money is in US dollars: a decimal string with nine places, and an integer of nano-dollars."""
    budget = call.configuration.budget
    return {
        "object": "usage",
        "period": f"{used.month:%Y-%m}",
        "current": used.current,
        "timeZone": usage.time_zone(call),
        "currency": "USD",
        "total": used.total.shown(),
        "breakdown": used.total.breakdown(),
        "daily": [{"date": str(day), **_with_parts(sums)} for day, sums in used.days.items()],
        "byKind": [{"kind": kind, **_with_parts(sums)} for kind, sums in used.kinds.items()],
        "byModel": [{"model": model or None, **_with_parts(sums)} for model, sums in used.models.items()],
        "byUser": _named(used.users, used.total, "user"),
        "byKey": _named(used.keys, used.total, "key", used.key_names),
        "budget": usage.budget_shown(budget, used) if budget and used.current else None,
    }


def _with_parts(sums: Sums) -> dict[str, Any]:
    return {**sums.shown(), "breakdown": sums.breakdown()}


def _named(
    groups: dict[str, Sums], total: Sums, name: str, names: dict[str, str] | None = None
) -> list[dict[str, Any]]:
    """With a last entry, `null`, for those that are too many to be named; so the list adds up to the total."""
    entries = [
        {name: key, **({"name": names.get(key)} if names is not None else {}), **_with_parts(sums)}
        for key, sums in groups.items()
    ]
    if (rest := total.minus(groups.values())) != Sums():
        entries.append({name: None, **_with_parts(rest)})
    return entries


async def export(call: Call, period: str | None) -> Response:
    """The month's totals as they are kept: a row for each day, kind, model, user and key."""
    month = usage.parse_period(period) if period else await usage.current_month(call)
    return await CsvStream.begin(call, f"usage-{month:%Y-%m}.csv", COLUMNS, _batches(call, month))


async def _batches(call: Call, month: Any) -> AsyncGenerator[list[tuple[Any, ...]], None]:
    """From one row's key to the next: no statement is long, and no transaction outlives it."""
    last: tuple[Any, ...] | None = None
    while True:
        beyond = "AND (day, kind, model, key_uid, user_name) > (%s, %s, %s, %s, %s) " if last else ""
        rows = await call.fetch(
            "SELECT day, kind, model, key_uid, user_name, calls, tokens_in, tokens_cached, tokens_out, "  # noqa: S608
            "database_queries, vector_searches, llm_nano, database_nano, vector_nano "
            f"FROM totals WHERE {usage.IN_MONTH} {beyond}"
            "ORDER BY day, kind, model, key_uid, user_name LIMIT %s",
            (month, month, month, *(last or ()), BATCH),
        )
        if rows:
            yield [_cells(row) for row in rows]
        if len(rows) < BATCH:
            return
        last = rows[-1][:5]


def _cells(row: tuple[Any, ...]) -> tuple[Any, ...]:
    day, kind, model, key, user, *counts, llm, database, vector = row
    costs = (usage.dollars(nano) for nano in (llm, database, vector, llm + database + vector))
    return (day, kind, model, user, key, *counts, *costs)


_MONEY = {"cost": {"type": "string"}, "costNano": {"type": "integer"}}
_PARTS = {"type": "object", "required": ["llm", "database", "vectorSearch"]}
_LIST = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["calls", "cost", "costNano", "breakdown"],
        "properties": {"calls": {"type": "integer"}, **_MONEY, "breakdown": _PARTS},
    },
}

PERIOD = {
    "name": "period",
    "in": "query",
    "description": "A month such as 2026-11, in the tenant's time zone; default: the current one.",
    "schema": {"type": "string", "pattern": "^2[01][0-9]{2}-(0[1-9]|1[0-2])$"},
}
"""The parameter, as the OpenAPI document has it."""

ROUTES = (
    Endpoint(
        method="GET",
        path="/v1/usage",
        summary="What a month has cost, by day, kind, model, user and key, and what is left of the budget.",
        scope="usage",
        kind="usage",
        action="usage.retrieve",
        resource="usage",
        handler=get_usage,
        query=(
            PERIOD,
            {"name": "format", "in": "query", "schema": {"type": "string", "enum": ["json", "csv"]}},
        ),
        answer_types=("application/json", "text/csv"),
        answer={
            "type": "object",
            "required": ["period", "timeZone", "total", "breakdown", "daily", "byKind", "byModel", "byUser", "byKey"],
            "properties": {
                "period": {"type": "string"},
                "total": {"type": "object", "properties": _MONEY},
                "breakdown": _PARTS,
                "daily": _LIST,
                "byKind": _LIST,
                "byModel": _LIST,
                "byUser": _LIST,
                "byKey": _LIST,
                "budget": {"type": ["object", "null"], "description": "Null for a month that is not the current one."},
            },
        },
    ),
)
