"""What the API server does with a merge patch, for stand-ins of it."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]


def merge(target: Json, patch: Json) -> None:
    """RFC 7386."""
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict):
            if not isinstance(target.get(key), dict):
                target[key] = {}
            merge(target[key], value)
        else:
            target[key] = value
