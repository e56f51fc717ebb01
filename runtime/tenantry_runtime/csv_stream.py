"""An answer as CSV that is sent while it is read: memory holds one batch, the database no transaction."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Self

from starlette.datastructures import QueryParams

from tenantry_runtime import csv_text, errors
from tenantry_runtime.call import Call
from tenantry_runtime.streaming import EventStream

Batches = AsyncGenerator[list[tuple[Any, ...]], None]


def wants_csv(query: QueryParams) -> bool:
    """Raises 422 for a format that there is not."""
    wanted = query.get("format", "json")
    if wanted not in ("json", "csv"):
        raise errors.invalid("format must be json or csv.", "format")
    return wanted == "csv"


class CsvStream(EventStream):
    """Ends with its client, as any stream does.

    Where the database goes away in the middle, the connection is broken off: no cut-off export looks like a whole one.
    """

    media_type = csv_text.MEDIA_TYPE

    @classmethod
    async def begin(cls, call: Call, filename: str, columns: Sequence[str], batches: Batches) -> Self:
        """With the first batch read, so that what is refused is refused with a status of its own."""
        source = _pieces(call, columns, batches)
        headers = {
            "Content-Disposition": f'attachment; filename="{filename}"',
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
        }
        return await cls.started(source, headers)


async def _pieces(call: Call, columns: Sequence[str], batches: Batches) -> AsyncGenerator[bytes, None]:
    try:
        first: list[tuple[Any, ...]] = await anext(batches, [])
        yield csv_text.lines([columns, *first])
        # The request's event is written by now.  What comes after it is one of its own, of the same request.
        event = call.event = call.event.inner("data_access", call.event.action, call.event.resource_type)
        event.basic["rows"] = len(first)
        event.error = "cut_off"
        async for rows in batches:
            yield csv_text.lines(rows)
            event.basic["rows"] += len(rows)
        event.error = ""
    finally:
        await batches.aclose()
