"""Filters on attributes: what is refused, and that no text of a tenant's gets into a statement."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry_runtime import filters
from tenantry_runtime.errors import ApiError


def eq(key: Any = "a", value: Any = "b", kind: Any = "eq") -> dict[str, Any]:
    return {"type": kind, "key": key, "value": value}


def nested(depth: int) -> dict[str, Any]:
    return eq() if depth == 1 else {"type": "and", "filters": [nested(depth - 1)]}


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        (7, "filters"),
        ([eq()], "filters"),
        ({}, "filters.type"),
        (eq(kind="like"), "filters.type"),
        (eq(kind=["eq"]), "filters.type"),
        (eq(key=7), "filters.key"),
        (eq(key="k" * 65), "filters.key"),
        (eq(key="\x00"), "filters.key"),
        (eq(value=None), "filters.value"),
        (eq(value=["b"]), "filters.value"),
        (eq(value="v" * 513), "filters.value"),
        (eq(value="\x00"), "filters.value"),
        (eq(kind="gt", value=True), "filters.value"),
        (eq(kind="in", value="b"), "filters.value"),
        (eq(kind="in", value=[]), "filters.value"),
        (eq(kind="nin", value=[["b"]]), "filters.value"),
        (eq(kind="in", value=["b"] * 201), "filters.value"),
        (eq() | {"more": 1}, "only"),
        ({"type": "and", "filters": []}, "filters.filters"),
        ({"type": "or", "filters": eq()}, "filters.filters"),
        ({"type": "or", "filters": [eq(), eq(key="")]}, r"filters.filters.1.key"),
        ({"type": "or", "filters": [eq()], "key": "a"}, "only"),
        ({"type": "and", "filters": [{"type": "or", "filters": [eq()] * 30}] * 2}, "50 comparisons"),
        (nested(6), "deep"),
        (nested(500), "deep"),
    ],
)
def test_what_is_no_filter_is_refused_with_its_place(wrong: Any, place: str) -> None:
    with pytest.raises(ApiError, match=place) as refused:
        filters.read(wrong)
    assert refused.value.status == 422
    assert refused.value.param.startswith("filters")


def test_no_filter_is_none() -> None:
    assert filters.read(None) is None
    assert filters.read(nested(5)) is not None


VALUES = st.text(max_size=20).filter(lambda text: "\x00" not in text) | st.booleans() | st.integers() | st.floats(-9, 9)
KEYS = st.text(min_size=1, max_size=20).filter(lambda text: "\x00" not in text)
COMPARISONS = (
    st.builds(eq, KEYS, VALUES, st.sampled_from(["eq", "ne"]))
    | st.builds(eq, KEYS, VALUES.filter(lambda v: not isinstance(v, bool)), st.sampled_from(["gt", "gte", "lt", "lte"]))
    | st.builds(eq, KEYS, st.lists(VALUES, min_size=1, max_size=3), st.sampled_from(["in", "nin"]))
)
FILTERS = COMPARISONS | st.builds(
    lambda kind, parts: {"type": kind, "filters": parts},
    st.sampled_from(["and", "or"]),
    st.lists(COMPARISONS, min_size=1, max_size=3),
)
OURS = re.compile(
    r"""(coalesce|false|NOT|ANY|ARRAY|SELECT|jsonb_array_elements|jsonb_typeof|jsonb|numeric|text|CASE|WHEN|THEN|ELSE|END"""
    r"""|COLLATE|"C"|AND|OR|'string'|'number'|v\.attributes|%s|::|->>|->|[<>=]=?|[(),]|\s)*"""
)


@given(FILTERS)
def test_a_statement_holds_our_words_only(filter_: dict[str, Any]) -> None:
    read = filters.read(filter_)
    assert read is not None
    text, values = filters.as_sql(read, "v.attributes")
    assert OURS.fullmatch(text)
    assert text.count("%s") == text.count("%") == len(values)
