"""How full the limits are now: the tenant's, and those of the users and keys that have taken most of theirs."""

from dataclasses import dataclass

from tenantry_runtime import usage
from tenantry_runtime.call import Call
from tenantry_runtime.config import SubjectLimits

NAMED = 10
"""Users, and keys, that the page names."""

_TENANT = """
SELECT least(%s, coalesce(m.requests, %s) + e.seconds * %s / 60),
       least(%s, coalesce(m.tokens, %s) + e.seconds * %s / 60),
       CASE WHEN m.day_ends_at > e.now THEN m.day_tokens + r.tokens ELSE r.tokens END, r.calls
FROM (SELECT clock_timestamp() AS at) c
LEFT JOIN meter m ON m.subject = 'tenant'
CROSS JOIN LATERAL (
    SELECT c.at AS now, greatest(0, extract(epoch FROM c.at - m.filled_at))::double precision AS seconds
) e
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE l.counts) AS calls,
           coalesce(sum(l.reserved_tokens) FILTER (WHERE l.day = m.day), 0)::bigint AS tokens
    FROM ledger l WHERE l.status = 'reserved' AND l.expires_at > c.at
) r
"""
"""The levels of the tenant's limits now, as reserve_call (migration 0006) would find them.

Its sums once more: there they are steps of a function that holds the meter's lock and writes, which a look at the page
must not.  A test compares the two.
"""

_SUBJECTS = """
WITH size (kind, rpm, tpm, tpd, concurrency) AS (VALUES
    ('user', %s::double precision, %s::double precision, %s::double precision, %s::double precision),
    ('key', %s, %s, %s, %s)
), clock AS MATERIALIZED (
    SELECT c.now, CASE WHEN m.day_ends_at > c.now THEN m.day END AS day
    FROM (SELECT clock_timestamp() AS now) c LEFT JOIN meter m ON m.subject = 'tenant'
), today AS (
    SELECT s.subject, sum(t.tokens_in + t.tokens_out) AS tokens
    FROM clock JOIN totals t ON t.day = clock.day
    CROSS JOIN LATERAL (VALUES ('user:' || t.user_name), ('key:' || t.key_uid)) s (subject) GROUP BY s.subject
), running AS (
    SELECT s.subject, count(*) FILTER (WHERE l.counts) AS calls,
           coalesce(sum(l.reserved_tokens) FILTER (WHERE l.day = clock.day), 0) AS tokens
    FROM clock JOIN ledger l ON l.status = 'reserved' AND l.expires_at > clock.now
    CROSS JOIN LATERAL (VALUES ('user:' || l.user_name), ('key:' || l.key_uid)) s (subject) GROUP BY s.subject
), metered AS (
    SELECT m.subject, m.requests, m.tokens, CASE WHEN m.day = clock.day THEN m.day_tokens END AS day,
           greatest(0, extract(epoch FROM clock.now - m.filled_at))::double precision AS seconds
    FROM clock JOIN meter m ON m.subject <> 'tenant'
), taken AS (
    SELECT size.*, substr(subject, length(size.kind) + 2) AS name,
           rpm - least(rpm, coalesce(m.requests, rpm) + coalesce(m.seconds, 0) * rpm / 60) AS requests,
           tpm - least(tpm, coalesce(m.tokens, tpm) + coalesce(m.seconds, 0) * tpm / 60) AS tokens,
           (coalesce(m.day, today.tokens, 0) + coalesce(running.tokens, 0))::double precision AS day,
           coalesce(running.calls, 0)::double precision AS calls
    FROM metered m FULL JOIN today USING (subject) FULL JOIN running USING (subject)
    JOIN size ON size.kind = split_part(subject, ':', 1)
), filled AS (
    SELECT *, greatest(requests / greatest(rpm, 1), tokens / greatest(tpm, 1),
                       CASE WHEN tpd IS NOT NULL THEN day / greatest(tpd, 1) END,
                       CASE WHEN concurrency IS NOT NULL THEN calls / greatest(concurrency, 1) END) AS fill FROM taken
)
SELECT kind, name, requests, tokens, day, calls, others FROM (
    SELECT *, row_number() OVER one AS place, count(*) OVER (PARTITION BY kind) - %s AS others
    FROM filled WHERE fill >= 0.005 WINDOW one AS (PARTITION BY kind ORDER BY fill DESC, name)
) f WHERE place <= %s ORDER BY kind DESC, place
"""
"""What each user and each key has taken of its own limits now, the fullest first; a null: no such limit.

A subject whose meter was dropped since it was idle has full buckets, and of the day what the totals know
(open_subject, migration 0006).
"""


@dataclass(frozen=True)
class Limit:
    name: str
    used: int
    size: int
    note: str = ""

    @property
    def percent(self) -> float:
        return usage.percent(min(self.used, self.size), self.size)


@dataclass(frozen=True)
class Subject:
    """A user or a key, and what it has taken of each limit that there is."""

    name: str
    limits: tuple[Limit, ...]


@dataclass(frozen=True)
class Subjects:
    """`sizes` is what each may take, in words; `others` have taken something too, and are not named."""

    whose: str
    sizes: str
    named: tuple[Subject, ...]
    others: int


NAMES = ("Requests a minute", "Tokens a minute", "Tokens a day", "Calls at a time")


def _sizes(limits: SubjectLimits) -> tuple[int | None, ...]:
    return limits.requests_per_minute, limits.tokens_per_minute, limits.tokens_per_day, limits.concurrency


async def tenant(call: Call) -> list[Limit]:
    """The tenant's limits that there are, with what of them is taken now."""
    sizes = _sizes(call.configuration.limits)
    rpm, tpm, *_ = sizes
    row = await call.one(_TENANT, (rpm, rpm, rpm, tpm, tpm, tpm))
    assert row is not None
    requests, tokens, day, calls = row
    midnight = f"anew at midnight, {usage.time_zone(call)}"
    used = ((rpm or 0) - (requests or 0), (tpm or 0) - (tokens or 0), day, calls)
    notes = ("refilled continuously", "refilled continuously", midnight, "those that run now")
    return [
        Limit(name, max(0, round(taken or 0)), size, note)
        for name, taken, size, note in zip(NAMES, used, sizes, notes, strict=True)
        if size is not None
    ]


async def subjects(call: Call, key_names: dict[str, str]) -> list[Subjects]:
    """The users, and the keys, where these have limits."""
    known = call.configuration.limits
    sizes = {"user": _sizes(known.per_user or SubjectLimits()), "key": _sizes(known.per_key or SubjectLimits())}
    limited = {whose: of for whose, of in sizes.items() if any(size is not None for size in of)}
    if not limited:
        return []
    named: dict[str, list[Subject]] = {"user": [], "key": []}
    others = dict.fromkeys(named, 0)
    for whose, name, *taken, more in await call.fetch(_SUBJECTS, (*sizes["user"], *sizes["key"], NAMED, NAMED)):
        shown = (name or "nobody") if whose == "user" else key_names.get(name, f"deleted key {name[:8]}")
        limits = (
            Limit(limit, max(0, round(used)), size)
            for limit, used, size in zip(NAMES, taken, sizes[whose], strict=True)
            if size is not None
        )
        named[whose].append(Subject(shown, tuple(limits)))
        others[whose] = max(0, more)
    return [
        Subjects(
            whose,
            ", ".join(f"{size:,} {name.lower()}" for name, size in zip(NAMES, of, strict=True) if size is not None),
            tuple(named[whose]),
            others[whose],
        )
        for whose, of in limited.items()
    ]
