"""What the usage page shows: read from the database, and laid out for its template."""

import calendar
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from tenantry_runtime import fill, usage
from tenantry_runtime.call import Call
from tenantry_runtime.config import NANO
from tenantry_runtime.usage import Sums, Usage

NAMED = 10
"""Users and models that the page names; the rest is one line."""
MONTHS = 36

_REFUSALS = """
SELECT at, action, user_id, key_name, status, error FROM (
    SELECT at, phase, event_type, action, user_id, key_name, status, error FROM audit
    WHERE at > clock_timestamp() - interval '7 days' ORDER BY at DESC LIMIT 20000
) lately
WHERE phase <> 'intent' AND (event_type = 'access_denied' OR error IN ('content_blocked', 'answer_withheld'))
ORDER BY at DESC LIMIT 15
"""
"""The latest, among as many rows as can be looked through on the way: most of a busy tenant's are no refusals.

What the leak guard refused or withheld is the call's own event, which was asked for with every right: its error says
so (its status only where no stream had begun).
"""
_FIRST_DAY = "SELECT min(day) FROM totals"


@dataclass(frozen=True)
class Bar:
    """A day's column: `parts` are class, top and height, in hundredths of the highest."""

    x: float
    width: float
    title: str
    parts: tuple[tuple[str, float, float], ...]


@dataclass(frozen=True)
class Chart:
    """`ticks` are what the lines across stand for, the highest first; `dates` stand under the columns."""

    width: float
    bars: tuple[Bar, ...]
    ticks: tuple[str, ...]
    dates: tuple[str, ...]


@dataclass(frozen=True)
class Line:
    """One line of a table of costs."""

    name: str
    calls: int
    nano: int
    percent: float


@dataclass(frozen=True)
class Refusal:
    at: datetime
    action: str
    user: str
    key_name: str
    status: str
    error: str


def price(nano: int) -> str:
    """Dollars as a person reads them; the exact figure is in the table and in the export."""
    if nano >= NANO:
        return f"${Decimal(nano) / NANO:,.2f}"
    text = f"{Decimal(nano) / NANO:.6f}".rstrip("0")
    whole, _, rest = text.partition(".")
    return "less than $0.000001" if nano > 0 and text == "0." else f"${whole}.{rest:0<2}"


def _round_up(nano: int) -> int:
    """The next digit with zeros whose half is written as shortly."""
    step = 1
    while True:
        for factor in (1, 2, 3, 4, 5, 6, 8):
            if factor * step >= nano:
                return factor * step
        step *= 10


def days_of(month: date) -> list[date]:
    return [month + timedelta(days=n) for n in range(calendar.monthrange(month.year, month.month)[1])]


def chart(used: Usage) -> Chart:
    """Every day of the month, and those that a change of time zone added to it."""
    days = sorted({*days_of(used.month), *used.days})
    top = _round_up(max((sums.cost_nano for sums in used.days.values()), default=0) or NANO // 100)
    bars = []
    for number, day in enumerate(days):
        sums = used.days.get(day, Sums())
        parts, level = [], 100.0
        for name, nano in (("llm", sums.llm_nano), ("database", sums.database_nano), ("vector", sums.vector_nano)):
            height = round(100 * nano / top, 4)
            level -= height
            if nano:
                parts.append((name, round(level, 4), height))
        title = (
            f"{day}: {price(sums.cost_nano)} (models {price(sums.llm_nano)}, database {price(sums.database_nano)}, "
            f"vectors {price(sums.vector_nano)})"
        )
        bars.append(Bar(number * 10 + 1, 8, title, tuple(parts)))
    marks = (days[0], days[len(days) // 2], days[-1])
    return Chart(
        width=len(days) * 10,
        bars=tuple(bars),
        ticks=(price(top), price(top // 2), "$0"),
        dates=tuple(f"{day.day} {day:%b}" for day in marks),
    )


def lines(groups: dict[str, Sums], total: Sums, empty: str) -> list[Line]:
    """The costliest, and the rest as one."""

    def line(name: str, sums: Sums) -> Line:
        return Line(name, sums.calls, sums.cost_nano, usage.percent(sums.cost_nano, total.cost_nano or 1))

    named = sorted(groups.items(), key=lambda item: -item[1].cost_nano)[:NAMED]
    found = [line(name or empty, sums) for name, sums in named]
    if (rest := total.minus(sums for _, sums in named)) != Sums():
        found.append(line("all others", rest))
    return found


async def refusals(call: Call) -> list[Refusal]:
    return [Refusal(at.astimezone(UTC), *rest) for at, *rest in await call.fetch(_REFUSALS)]


async def months(call: Call, shown: date) -> list[date]:
    """From the first with a record to the current one, the newest first, and the one that is shown."""
    now = await usage.current_month(call)
    row = await call.one(_FIRST_DAY)
    first = row[0] if row and row[0] else now
    found: list[date] = []
    month = now
    while len(found) < MONTHS and month >= first.replace(day=1):
        found.append(month)
        month = (month - timedelta(days=1)).replace(day=1)
    return sorted({*(found or [now]), shown}, reverse=True)


async def view(call: Call, period: str | None) -> dict[str, Any]:
    """The template's values.  Raises 422 for what is no month."""
    used = await usage.read(call, period, most_users=NAMED + 1)
    budget = call.configuration.budget if used.current else None
    may_audit = "audit" in call.caller.scopes
    return {
        "tenant": call.configuration.display_name,
        "tier": call.configuration.tier,
        "zone": usage.time_zone(call),
        "caller": call.caller,
        "month": used.month,
        "months": await months(call, used.month),
        "total": used.total,
        "budget": usage.budget_shown(budget, used) if budget else None,
        "chart": chart(used),
        "days": used.days,
        "models": lines(used.models, used.total, "no model"),
        "users": lines(used.users, used.total, "nobody"),
        "limits": await fill.tenant(call),
        "subjects": await fill.subjects(call, used.key_names),
        "may_audit": may_audit,
        "refusals": await refusals(call) if may_audit else (),
        "price": price,
        "dollars": usage.dollars,
    }
