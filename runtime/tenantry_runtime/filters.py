"""OpenAI's filters on the attributes of files, as conditions of PostgreSQL, where the attributes are.

A tenant's text is only ever a parameter of a statement, never a part of one, and never reaches Milvus.  A file
without the attribute matches `ne` and `nin`, and no other comparison; values of another kind are not equal, and
neither greater nor less.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from tenantry_runtime import errors

MAX_DEPTH = 5
MAX_COMPARISONS = 50
MAX_VALUES = 200
"""Of one `in` or `nin`."""
_LONGEST_KEY, _LONGEST_VALUE = 64, 512
_EQUAL = ("eq", "ne")
_ORDER = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_AMONG = ("in", "nin")
_COMPARISONS = (*_EQUAL, *_ORDER, *_AMONG)
TYPES = (*_COMPARISONS, "and", "or")

Value = str | int | float | bool


@dataclass(frozen=True)
class Comparison:
    """`value` is a tuple for `in` and `nin`."""

    type: str
    key: str
    value: Value | tuple[Value, ...]


@dataclass(frozen=True)
class Compound:
    type: Literal["and", "or"]
    filters: "tuple[Filter, ...]"


Filter = Comparison | Compound


SCHEMA: dict[str, Any] = {
    "type": ["object", "null"],
    "description": "OpenAI's comparison or compound filter on the attributes of files.",
    "required": ["type"],
    "properties": {"type": {"type": "string", "enum": list(TYPES)}},
}
"""For the OpenAPI document."""


def read(given: Any, where: str = "filters") -> Filter | None:
    """A request's filter; None where there is none.  Raises 422 with the place of what is wrong in it."""
    if given is None:
        return None
    found = _read(given, where, MAX_DEPTH)
    if sum(1 for _ in comparisons(found)) > MAX_COMPARISONS:
        raise errors.invalid(f"{where} may hold {MAX_COMPARISONS} comparisons in all: ask for less at a time.", where)
    return found


def comparisons(given: Filter) -> Iterator[Comparison]:
    """All comparisons of a filter."""
    if isinstance(given, Comparison):
        yield given
    else:
        for part in given.filters:
            yield from comparisons(part)


def _read(given: Any, where: str, depth: int) -> Filter:
    if not isinstance(given, dict):
        raise errors.invalid(f"{where} must be an object: a comparison, or `and` or `or` of several.", where)
    kind = given.get("type")
    if kind in ("and", "or"):
        _only(given, ("type", "filters"), where)
        parts = given.get("filters")
        if not isinstance(parts, list) or not 1 <= len(parts) <= MAX_COMPARISONS:
            raise errors.invalid(f"{where}.filters must be a list of 1 to {MAX_COMPARISONS} filters.", where)
        if depth == 1:
            raise errors.invalid(f"{where} is nested more than {MAX_DEPTH} deep: flatten it.", where)
        return Compound(kind, tuple(_read(part, f"{where}.filters.{n}", depth - 1) for n, part in enumerate(parts)))
    if kind not in _COMPARISONS:
        raise errors.invalid(f"{where}.type must be one of {', '.join(TYPES)}.", where)
    _only(given, ("type", "key", "value"), where)
    key = given.get("key")
    if not isinstance(key, str) or not 1 <= len(key) <= _LONGEST_KEY or "\x00" in key:
        raise errors.invalid(f"{where}.key must be the name of an attribute, of 1 to {_LONGEST_KEY} characters.", where)
    return Comparison(kind, key, _value(kind, given.get("value"), where))


def _only(given: dict[str, Any], allowed: tuple[str, ...], where: str) -> None:
    if any(name not in allowed for name in given):
        raise errors.invalid(f"{where} may hold {', '.join(allowed)} only.", where, "unsupported_field")


def _value(kind: str, given: Any, where: str) -> Value | tuple[Value, ...]:
    if kind in _AMONG:
        if not isinstance(given, list) or not 1 <= len(given) <= MAX_VALUES or not all(map(_is_value, given)):
            sentence = f"{where}.value must be a list of 1 to {MAX_VALUES} texts, numbers or booleans."
            raise errors.invalid(sentence, where)
        return tuple(given)
    if not _is_value(given) or (kind in _ORDER and isinstance(given, bool)):
        kinds = "a text or a number" if kind in _ORDER else "a text, a number or a boolean"
        raise errors.invalid(f"{where}.value must be {kinds}.", where)
    found: Value = given
    return found


def _is_value(given: Any) -> bool:
    if isinstance(given, str):
        return len(given) <= _LONGEST_VALUE and "\x00" not in given
    return isinstance(given, bool | int | float)


def as_sql(given: Filter, column: str) -> tuple[str, list[str]]:
    """The condition on this column of type jsonb, and its parameters.  `column` is a name of ours."""
    if isinstance(given, Compound):
        parts = [as_sql(part, column) for part in given.filters]
        joined = (" AND " if given.type == "and" else " OR ").join(f"({text})" for text, _ in parts)
        return joined, [value for _, values in parts for value in values]
    held = f"{column} -> %s::text"
    if given.type in _AMONG:
        assert isinstance(given.value, tuple)
        among = f"coalesce({held} = ANY(ARRAY(SELECT jsonb_array_elements(%s::jsonb))), false)"
        return among if given.type == "in" else f"NOT {among}", [given.key, _json(list(given.value))]
    if given.type in _EQUAL:
        equal = f"coalesce({held} = %s::jsonb, false)"
        return equal if given.type == "eq" else f"NOT {equal}", [given.key, _json(given.value)]
    sign = _ORDER[given.type]
    if isinstance(given.value, str):
        # By code points, whatever the database's language: so texts such as 2026-11-22 are in their order.
        kind, found, value = "string", f'({column} ->> %s::text) COLLATE "C"', "%s::text"
    else:
        kind, found, value = "number", f"({held})::numeric", "(%s::jsonb)::numeric"
    text = f"CASE WHEN jsonb_typeof({held}) = '{kind}' THEN {found} {sign} {value} ELSE false END"
    return text, [given.key, given.key, given.value if isinstance(given.value, str) else _json(given.value)]


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
