"""Reading fields of a JSON body: each reader returns the value or raises 422 with the field's name."""

import re
from typing import Any

from tenantry_runtime import errors

Body = dict[str, Any]

_EXACT = 2**53
"""Numbers beyond it are not the same in every program, and those of a database may be longer than JSON's."""
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def text(body: Body, name: str, default: str | None = None, longest: int = 65_536) -> str | None:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, str) or "\x00" in value:
        raise errors.invalid(f"{name} must be a text without NUL characters.", name)
    if len(value) > longest:
        raise errors.invalid(f"{name} has {len(value)} characters: at most {longest} are allowed.", name)
    return value


def flag(body: Body, name: str, default: bool = False) -> bool:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise errors.invalid(f"{name} must be true or false.", name)
    return value


def integer(body: Body, name: str, low: int, high: int, default: int | None = None) -> int | None:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise errors.invalid(f"{name} must be a whole number from {low} to {high}.", name)
    return value


def number(body: Body, name: str, low: float, high: float, default: float | None = None) -> float | None:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise errors.invalid(f"{name} must be a number from {low:g} to {high:g}.", name)
    return value


def mapping(body: Body, name: str) -> Body | None:
    value = body.get(name)
    if value is not None and not isinstance(value, dict):
        raise errors.invalid(f"{name} must be an object.", name)
    return value


def labels(body: Body, name: str) -> dict[str, Any]:
    """OpenAI's metadata: at most 16 pairs; keys of 64, values of 512 characters, or numbers or booleans."""
    value = mapping(body, name) or {}
    fine = len(value) <= 16 and all(
        len(key) <= 64
        and "\x00" not in key
        and (
            (isinstance(item, int | float) and abs(item) <= _EXACT)  # true and false among them
            or (isinstance(item, str) and len(item) <= 512 and "\x00" not in item)
        )
        for key, item in value.items()
    )
    if not fine:
        raise errors.invalid(
            f"{name} may hold 16 pairs, with keys of 64 characters and texts of 512, numbers or booleans.", name
        )
    return value


def ids(body: Body, name: str, most: int) -> list[str]:
    value = body.get(name)
    if value is None:
        return []
    if (
        not isinstance(value, list)
        or len(value) > most
        or not all(isinstance(item, str) and _ID.fullmatch(item) for item in value)
    ):
        raise errors.invalid(f"{name} must be a list of at most {most} ids.", name)
    return list(dict.fromkeys(value))


def only(body: Body, allowed: frozenset[str], inside: str = "") -> None:
    """Refuse fields that nothing here reads: to ignore them would be to answer another question."""
    for name in body:
        if name not in allowed:
            where = f"{inside}.{name}" if inside else name
            raise errors.invalid(
                f"{where[:100]} is not supported here: leave it out.", where[:100], "unsupported_field"
            )


def deeper(value: Any, most: int) -> bool:
    """Whether lists and objects are nested more than `most` levels deep."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(most):
        level = [
            item
            for node in level
            for item in (node.values() if isinstance(node, dict) else node)
            if isinstance(item, dict | list)
        ]
    return bool(level)


def is_id(value: str) -> bool:
    return bool(_ID.fullmatch(value))
