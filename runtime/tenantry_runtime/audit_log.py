"""Reading the audit: a call's two rows as one event, a page at a time, from a cursor that new rows do not move.

An event stands where it began: rows that are added later come after it, whichever way one reads.
"""

import re
import uuid
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from starlette.datastructures import QueryParams

from tenantry_runtime import errors
from tenantry_runtime.call import Call

TYPES = ("api_call", "data_access", "configuration_change", "deletion", "access_denied")
UNFINISHED = "unfinished"
"""The status of a call without an outcome: it runs, or its process died."""

MOST = 1000
"""Events of a page."""
MOST_BYTES = 256 * 1024
"""Of a page's details, as the database stores them (compressed): a page ends there, and has at least one event."""

_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_CURSOR = re.compile(r"([0-9a-f]{1,14})-([0-9a-f]{32})")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OLDEST, _NEWEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Event:
    """`details` is JSON text."""

    id: uuid.UUID
    at: datetime
    event_type: str
    action: str
    resource_type: str
    resource_id: str
    user_id: str
    key_id: str
    key_name: str
    address: str
    user_agent: str
    finished_at: datetime | None
    status: str
    error: str
    details: str

    @property
    def shown_status(self) -> str:
        return self.status or UNFINISHED

    @property
    def cursor(self) -> str:
        """Where the next page begins; letters, digits and a dash."""
        return f"{(self.at - _EPOCH) // timedelta(microseconds=1):x}-{self.id.hex}"


@dataclass(frozen=True)
class Query:
    """`begin` is in, `end` is not."""

    begin: datetime = _OLDEST
    end: datetime = _NEWEST
    event_type: str | None = None
    user: str | None = None
    newest_first: bool = True
    after: tuple[datetime, uuid.UUID] | None = None
    limit: int = 100

    def beyond(self, event: Event) -> "Query":
        return replace(self, after=(event.at, event.id))


def moment(text: str, name: str, zone: str, *, ends: bool = False) -> datetime:
    """A date, which is a day in the tenant's time zone (to its end where it `ends`), or a time with its offset.

    Raises 422 with the parameter's name.
    """
    try:
        if _DATE.fullmatch(text):
            day = date.fromisoformat(text) + timedelta(days=1 if ends else 0)
            found = datetime.combine(day, time(), ZoneInfo(zone))
        else:
            # In an address a plus sign means a space.
            found = datetime.fromisoformat(text.replace(" ", "+") if len(text) > 19 else text)
        if found.tzinfo is not None and _OLDEST <= (found := found.astimezone(UTC)) <= _NEWEST:
            return found
    except (ValueError, OverflowError):
        pass
    raise errors.invalid(
        f"{name} must be a date such as 2026-11-30, or a time with its offset such as 2026-11-30T08:00:00Z.", name
    )


def read_query(query: QueryParams, zone: str) -> Query:
    """Raises 422 with the parameter's name."""
    begin = moment(query["from"], "from", zone) if query.get("from") else _OLDEST
    end = moment(query["to"], "to", zone, ends=True) if query.get("to") else _NEWEST
    if begin >= end:
        raise errors.invalid("to must not be before from.", "to")
    kind, user = query.get("type") or None, query.get("user") or None
    if kind is not None and kind not in TYPES:
        raise errors.invalid(f"type must be one of {', '.join(TYPES)}.", "type")
    if user is not None and (len(user) > 256 or "\x00" in user):
        raise errors.invalid("user must be the name of a user.", "user")
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise errors.invalid("order must be asc or desc.", "order")
    limit = query.get("limit", "100")
    if not limit.isascii() or not limit.isdigit() or len(limit) > 6 or not 1 <= int(limit) <= MOST:
        raise errors.invalid(f"limit must be a whole number from 1 to {MOST}.", "limit")
    after = query.get("after")
    return Query(begin, end, kind, user, order == "desc", parse_cursor(after) if after else None, int(limit))


def parse_cursor(text: str) -> tuple[datetime, uuid.UUID]:
    if matched := _CURSOR.fullmatch(text):
        at = _EPOCH + timedelta(microseconds=int(matched[1], 16))
        if _OLDEST <= at <= _NEWEST:
            return at, uuid.UUID(matched[2])
    raise errors.invalid("after must be the cursor `next` of an answer.", "after")


_PAGE = """
WITH heads AS (
    SELECT id, phase, at, event_type, action, resource_type, resource_id, user_id, key_uid, key_name,
           status, error, address, user_agent, details
    FROM audit WHERE phase <> 'outcome' AND at >= %s AND at < %s {conditions}
    ORDER BY at {order}, id {order} LIMIT %s
), events AS (
    SELECT h.id, h.at, h.event_type, h.action, h.resource_type,
           coalesce(nullif(o.resource_id, ''), h.resource_id) AS resource_id,
           h.user_id, h.key_uid, h.key_name, h.address, h.user_agent,
           CASE h.phase WHEN 'event' THEN h.at ELSE o.at END AS finished_at,
           CASE WHEN h.phase = 'event' THEN h.status ELSE coalesce(o.status, '') END AS status,
           CASE WHEN h.phase = 'event' THEN h.error ELSE coalesce(o.error, '') END AS error,
           h.details AS begun, o.details AS ended,
           row_number() OVER (ORDER BY h.at {order}, h.id {order}) AS place,
           sum(pg_column_size(h.details) + coalesce(pg_column_size(o.details), 0))
               OVER (ORDER BY h.at {order}, h.id {order}) AS bytes
    FROM heads h
    LEFT JOIN ledger l ON h.phase = 'intent' AND l.id = h.id
    LEFT JOIN audit o ON o.at = l.settled_at AND o.id = l.id AND o.phase = 'outcome'
), cut AS (
    SELECT *, place = 1 OR (bytes <= %s AND place <= %s) AS shown FROM events
)
SELECT id, at, event_type, action, resource_type, resource_id, user_id, key_uid, key_name, address, user_agent,
       finished_at, status, error,
       CASE WHEN shown THEN (begun || coalesce(ended, '{{}}'))::text END, shown
FROM cut ORDER BY at {order}, id {order}
"""
"""The ledger's row of a call says when its outcome was written: no index of the audit by id is needed."""


async def page(call: Call, query: Query) -> tuple[list[Event], bool]:
    """Up to `limit` events, and whether there are more."""
    conditions, values = "", list[object]()
    for column, value in (("event_type", query.event_type), ("user_id", query.user)):
        if value is not None:
            conditions += f" AND {column} = %s"
            values.append(value)
    order, compare = ("DESC", "<") if query.newest_first else ("ASC", ">")
    if query.after is not None:
        # The time by itself, too: it says which partitions to look into.
        conditions += f" AND at {compare}= %s AND (at, id) {compare} (%s, %s)"
        values += [query.after[0], *query.after]
    rows = await call.fetch(
        _PAGE.format(conditions=conditions, order=order),
        (query.begin, query.end, *values, query.limit + 1, MOST_BYTES, query.limit),
    )
    return [Event(*row[:-1]) for row in rows if row[-1]], bool(rows) and not rows[-1][-1]
