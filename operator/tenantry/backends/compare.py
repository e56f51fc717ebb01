"""Whether an object is as it should be.  Pure."""

from typing import Any

from tenantry.api import quantity

Json = dict[str, Any]


def holds(desired: Json, seen: Json, exact: bool) -> bool:
    """Every field of `desired` is in `seen`; with `exact`, nothing more is beside metadata and status."""
    meta, seen_meta = desired["metadata"], seen.get("metadata", {})
    for part in ("labels", "annotations"):
        if not _within(meta.get(part, {}), seen_meta.get(part, {})):
            return False
    if not _within(meta.get("ownerReferences", []), seen_meta.get("ownerReferences", [])):
        return False
    for field, value in desired.items():
        if field in ("metadata", "status"):
            continue
        if not (_same(value, seen.get(field)) if exact else _within(value, seen.get(field))):
            return False
    return not (exact and any(f not in desired for f in seen if f not in ("metadata", "status", "apiVersion", "kind")))


def _within(want: Any, have: Any) -> bool:
    """Maps may hold more than is wanted, but for selectors, which then select less; lists must hold as many, in
    order, each one within.
    """
    if isinstance(want, dict):
        return isinstance(have, dict) and all(
            key in have and (_same if key == "selector" else _within)(value, have[key]) for key, value in want.items()
        )
    if isinstance(want, list):
        return isinstance(have, list) and len(want) == len(have) and all(map(_within, want, have))
    return _equal(want, have)


def _same(want: Any, have: Any) -> bool:
    if isinstance(want, dict):
        return isinstance(have, dict) and want.keys() == have.keys() and all(_same(v, have[k]) for k, v in want.items())
    if isinstance(want, list):
        return isinstance(have, list) and len(want) == len(have) and all(map(_same, want, have))
    return _equal(want, have)


def _equal(want: Any, have: Any) -> bool:
    if want == have:
        return True
    if isinstance(want, str) and isinstance(have, str) and want[:1].isdigit() and have[:1].isdigit():
        try:
            return quantity.parse(want) == quantity.parse(have)
        except ValueError:
            return False
    return False
