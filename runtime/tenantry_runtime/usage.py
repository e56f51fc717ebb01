"""What a tenant used in a month, from the ledger's totals: sums that are exact to the nano-dollar.

All sums of one answer come from one statement, so that they add up while calls go on.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import date
from decimal import Decimal
from typing import Any, Self

from tenantry_runtime import errors
from tenantry_runtime.call import Call
from tenantry_runtime.config import NANO, Budget

_PERIOD = re.compile(r"(2[01]\d\d)-(0[1-9]|1[0-2])")

MOST_USERS = 1000
"""Users, and keys, that an answer names, those with the highest cost first; the rest is one sum."""

_CURRENT = """
SELECT CASE WHEN m.month_ends_at > c.now THEN m.month
            ELSE greatest((m.month + interval '1 month')::date, date_trunc('month', c.here)::date) END
FROM (SELECT clock_timestamp() AS now, clock_timestamp() AT TIME ZONE %s AS here) c
LEFT JOIN meter m ON m.subject = 'tenant'
"""
"""The month that a call made now would count for, as open_meter (migration 0002) decides it."""

IN_MONTH = "month = %s AND day >= %s::date - 3 AND day < %s::date + 66"
"""A month's rows.  The days only bound what is read: a change of time zone moves a month's end by a month at most."""

_SUMS = f"""
SELECT * FROM (
    SELECT grouping(day, kind, model, user_name, key_uid) AS part, day, kind, model, user_name, key_uid,
           row_number() OVER (
               PARTITION BY grouping(day, kind, model, user_name, key_uid)
               ORDER BY sum(llm_nano + database_nano + vector_nano) DESC, sum(calls) DESC, user_name, key_uid
           ) AS place,
           coalesce(sum(calls), 0)::bigint,
           coalesce(sum(tokens_in), 0)::bigint, coalesce(sum(tokens_cached), 0)::bigint,
           coalesce(sum(tokens_out), 0)::bigint,
           coalesce(sum(database_queries), 0)::bigint, coalesce(sum(vector_searches), 0)::bigint,
           coalesce(sum(llm_nano), 0)::bigint, coalesce(sum(database_nano), 0)::bigint,
           coalesce(sum(vector_nano), 0)::bigint
    FROM totals WHERE {IN_MONTH}
    GROUP BY GROUPING SETS ((), (day), (kind), (model), (user_name), (key_uid))
) s WHERE place <= %s OR part NOT IN (29, 30) ORDER BY part, place
"""  # noqa: S608
_ALL, _DAY, _KIND, _MODEL, _USER, _KEY = 31, 15, 23, 27, 29, 30
"""What `part` says: grouping() has a bit for each column that the row is summed over."""

_NAMES = "SELECT DISTINCT uid, name FROM access_keys"
_RESERVED = """
SELECT coalesce(sum(reserved_nano), 0)::bigint FROM ledger
WHERE status = 'reserved' AND expires_at > clock_timestamp() AND month = %s
"""


@dataclass(frozen=True)
class Sums:
    """Counts, tokens, and money in nano-dollars.  The cached tokens are among those of the input."""

    calls: int = 0
    tokens_in: int = 0
    tokens_cached: int = 0
    tokens_out: int = 0
    queries: int = 0
    searches: int = 0
    llm_nano: int = 0
    database_nano: int = 0
    vector_nano: int = 0

    @property
    def cost_nano(self) -> int:
        return self.llm_nano + self.database_nano + self.vector_nano

    def minus(self, others: "Iterable[Sums]") -> Self:
        rest = {field.name: getattr(self, field.name) for field in fields(self)}
        for other in others:
            for name in rest:
                rest[name] -= getattr(other, name)
        return type(self)(**rest)

    def breakdown(self) -> dict[str, Any]:
        return {
            "llm": {
                "inputTokens": self.tokens_in,
                "cachedInputTokens": self.tokens_cached,
                "outputTokens": self.tokens_out,
                **money("cost", self.llm_nano),
            },
            "database": {"queries": self.queries, **money("cost", self.database_nano)},
            "vectorSearch": {"searches": self.searches, **money("cost", self.vector_nano)},
        }

    def shown(self) -> dict[str, Any]:
        return {"calls": self.calls, **money("cost", self.cost_nano)}


@dataclass(frozen=True)
class Usage:
    """One month.  `days`, `kinds`, `models`, `users` and `keys` each add up to `total`, as far as they are whole."""

    month: date
    current: bool
    total: Sums
    days: dict[date, Sums]
    kinds: dict[str, Sums]
    models: dict[str, Sums]
    users: dict[str, Sums]
    keys: dict[str, Sums]
    key_names: dict[str, str]
    reserved_nano: int


def dollars(nano: int) -> str:
    """Nano-dollars as dollars, exact: nine decimals."""
    whole, rest = divmod(abs(nano), NANO)
    return f"{'-' if nano < 0 else ''}{whole}.{rest:09d}"


def money(name: str, nano: int) -> dict[str, Any]:
    return {name: dollars(nano), f"{name}Nano": nano}


def parse_period(text: str) -> date:
    """A month written as 2026-11; raises 422."""
    matched = _PERIOD.fullmatch(text)
    if not matched:
        raise errors.invalid("period must be a month such as 2026-11.", "period")
    return date(int(matched[1]), int(matched[2]), 1)


def time_zone(call: Call) -> str:
    """Where the tenant's days begin."""
    budget = call.configuration.budget
    return budget.time_zone if budget else "UTC"


async def current_month(call: Call) -> date:
    row = await call.one(_CURRENT, (time_zone(call),))
    assert row is not None
    month: date = row[0]
    return month


async def read(call: Call, period: str | None, most_users: int = MOST_USERS) -> Usage:
    """The usage of a month, the current one where none is named.  Raises 422."""
    asked = parse_period(period) if period else None
    now = await current_month(call)
    month = asked or now
    groups: dict[int, dict[Any, Sums]] = {part: {} for part in (_ALL, _DAY, _KIND, _MODEL, _USER, _KEY)}
    for part, *row in await call.fetch(_SUMS, (month, month, month, most_users)):
        name = next((value for value in row[:5] if value is not None), None)
        groups[part][name] = Sums(*row[6:])
    reserved = await call.one(_RESERVED, (month,)) if month == now else None
    return Usage(
        month=month,
        current=month == now,
        total=groups[_ALL][None],
        days=dict(sorted(groups[_DAY].items())),
        kinds=groups[_KIND],
        models=groups[_MODEL],
        users=groups[_USER],
        keys=groups[_KEY],
        key_names=dict(await call.fetch(_NAMES)),
        reserved_nano=reserved[0] if reserved else 0,
    )


def percent(used_nano: int, limit_nano: int) -> float:
    """With two decimals; of nothing all is used."""
    if limit_nano <= 0:
        return 100.0
    return float(round(Decimal(used_nano) * 100 / limit_nano, 2))


def budget_shown(budget: Budget, usage: Usage) -> dict[str, Any]:
    used = usage.total.cost_nano
    return {
        **money("limit", budget.monthly_nano),
        **money("used", used),
        **money("reserved", usage.reserved_nano),
        **money("left", max(0, budget.monthly_nano - used)),
        "percentUsed": percent(used, budget.monthly_nano),
        "onExceeded": budget.on_exceeded,
    }
