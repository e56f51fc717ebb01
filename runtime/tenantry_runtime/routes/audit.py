"""GET /v1/audit: who did what, a page at a time, or all of a range as CSV."""

from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson
from starlette.responses import Response

from tenantry_runtime import audit_log
from tenantry_runtime.answers import json_answer
from tenantry_runtime.audit_log import Event, Query
from tenantry_runtime.call import Call
from tenantry_runtime.csv_stream import CsvStream, wants_csv
from tenantry_runtime.endpoint import Endpoint
from tenantry_runtime.usage import time_zone

COLUMNS = (
    "Timestamp",
    "Event Type",
    "Action",
    "Resource Type",
    "Resource ID",
    "User ID",
    "Status",
    "Error",
    "Event ID",
    "Finished",
    "Key Name",
    "Key ID",
    "Address",
    "User Agent",
    "Details",
)
BATCH = 500
"""Events of one statement of the export."""


async def list_events(call: Call) -> Response:
    wanted = call.request.query_params
    query = audit_log.read_query(wanted, time_zone(call))
    if wants_csv(wanted):
        return await export(call, query, "order" in wanted)
    events, more = await audit_log.page(call, query)
    return json_answer(
        {
            "object": "list",
            "data": [_shown(event) for event in events],
            "has_more": more,
            "next": events[-1].cursor if more else None,
        }
    )


async def export_events(call: Call) -> Response:
    wanted = call.request.query_params
    return await export(call, audit_log.read_query(wanted, time_zone(call)), "order" in wanted)


async def export(call: Call, query: Query, ordered: bool = False) -> Response:
    """Oldest first unless asked otherwise, up to now: it ends although rows are added while it is read."""
    row = await call.one("SELECT clock_timestamp()")
    assert row is not None
    query = replace(
        query, end=min(query.end, row[0]), newest_first=query.newest_first and ordered, limit=BATCH, after=query.after
    )
    return await CsvStream.begin(call, f"audit-{row[0]:%Y-%m-%d}.csv", COLUMNS, _batches(call, query))


async def _batches(call: Call, query: Query) -> AsyncGenerator[list[tuple[Any, ...]], None]:
    """From one cursor to the next: no statement is long, and no transaction outlives it."""
    more = True
    while more:
        events, more = await audit_log.page(call, query)
        if events:
            yield [_cells(event) for event in events]
            query = query.beyond(events[-1])


def _time(moment: datetime | None) -> str | None:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}" if moment else None


def _cells(event: Event) -> tuple[Any, ...]:
    return (
        _time(event.at),
        event.event_type,
        event.action,
        event.resource_type,
        event.resource_id,
        event.user_id,
        event.shown_status,
        event.error,
        event.id,
        _time(event.finished_at),
        event.key_name,
        event.key_id,
        event.address,
        event.user_agent,
        event.details,
    )


def _shown(event: Event) -> dict[str, Any]:
    return {
        "id": str(event.id),
        "object": "audit.event",
        "timestamp": _time(event.at),
        "finishedAt": _time(event.finished_at),
        "eventType": event.event_type,
        "action": event.action,
        "resourceType": event.resource_type,
        "resourceId": event.resource_id,
        "userId": event.user_id,
        "keyId": event.key_id,
        "keyName": event.key_name,
        "status": event.shown_status,
        "error": event.error,
        "address": event.address,
        "userAgent": event.user_agent,
        "details": orjson.Fragment(event.details),
    }


def _text(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": {"type": "string", **schema}}


_MOMENT = "a date (a day in the tenant's time zone), or a time with its offset (RFC 3339)"
_FILTERS = (
    _text("from", f"From when on: {_MOMENT}."),
    _text("to", f"Until when: {_MOMENT}; a date's day is in, a time is not."),
    _text("type", "Events of one type.", enum=list(audit_log.TYPES)),
    _text("user", "Events of one user."),
    _text("order", "Newest first (desc), or oldest first (asc).", enum=["asc", "desc"]),
    _text("after", "The cursor `next` of the page before."),
)

ROUTES = (
    Endpoint(
        method="GET",
        path="/v1/audit",
        summary="Who did what: a call and its outcome are one event.",
        scope="audit",
        kind="audit",
        action="audit.list",
        resource="audit",
        handler=list_events,
        query=(
            *_FILTERS,
            {
                "name": "limit",
                "in": "query",
                "schema": {"type": "integer", "minimum": 1, "maximum": audit_log.MOST, "default": 100},
            },
            _text("format", "csv: as GET /v1/audit/export.", enum=["json", "csv"]),
        ),
        answer_types=("application/json", "text/csv"),
        answer={
            "type": "object",
            "required": ["object", "data", "has_more", "next"],
            "properties": {
                "object": {"const": "list"},
                "data": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["id", "timestamp", "eventType", "action", "status"],
                        "properties": {
                            "status": {"description": f"The HTTP status, or {audit_log.UNFINISHED}.", "type": "string"}
                        },
                    },
                },
                "has_more": {"type": "boolean"},
                "next": {"type": ["string", "null"], "description": "The next page's `after`."},
            },
        },
    ),
    Endpoint(
        method="GET",
        path="/v1/audit/export",
        summary="The audit as CSV, oldest first.",
        scope="audit",
        kind="audit",
        action="audit.export",
        resource="audit",
        handler=export_events,
        query=_FILTERS,
        answer_types=("text/csv",),
    ),
)
