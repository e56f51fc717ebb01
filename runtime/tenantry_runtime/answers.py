"""The shapes of answers that several routes share."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from starlette.datastructures import QueryParams
from starlette.responses import Response

from tenantry_runtime import errors
from tenantry_runtime.fields import is_id


def json_answer(body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), 200, headers, "application/json")


def list_of(objects: Sequence[Mapping[str, Any]], has_more: bool = False) -> dict[str, Any]:
    """OpenAI's list, with the ids between which a next page begins."""
    return {
        "object": "list",
        "data": list(objects),
        "first_id": objects[0]["id"] if objects else None,
        "last_id": objects[-1]["id"] if objects else None,
        "has_more": has_more,
    }


def deleted(identity: str, kind: str) -> Response:
    return json_answer({"id": identity, "object": f"{kind}.deleted", "deleted": True})


PAGE: tuple[dict[str, Any], ...] = (
    {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}},
    {"name": "order", "in": "query", "schema": {"type": "string", "enum": ["asc", "desc"], "default": "desc"}},
    {"name": "after", "in": "query", "schema": {"type": "string"}},
)
"""The query parameters of a listing."""


def page(query: QueryParams, most: int = 100, default: int = 20) -> tuple[int, bool, str | None]:
    """How many, whether newest first, and after which id.  Raises 422 with the parameter's name."""
    raw = query.get("limit", str(default))
    if not raw.isascii() or not raw.isdigit() or len(raw) > 6 or not 1 <= int(raw) <= most:
        raise errors.invalid(f"limit must be a whole number from 1 to {most}.", "limit")
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise errors.invalid("order must be asc or desc.", "order")
    after = query.get("after") or None
    if after is not None and not is_id(after):
        raise errors.invalid("after must be the id of a listed object.", "after")
    return int(raw), order == "desc", after
