"""What a client may name: months, moments, cursors; and how money is written."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import QueryParams

from tenantry_runtime import audit_log, usage
from tenantry_runtime.audit_log import Event, Query
from tenantry_runtime.errors import ApiError
from tenantry_runtime.usage import Sums


@pytest.mark.parametrize("text", ["2026-11", "2000-01", "2199-12"])
def test_months(text: str) -> None:
    assert f"{usage.parse_period(text):%Y-%m}" == text


@pytest.mark.parametrize(
    "text", ["2026-13", "2026-00", "2026-1", "0000-01", "2026-11-01", "now", "２０２６-11", "2026-11\n"]
)
def test_what_is_no_month(text: str) -> None:
    with pytest.raises(ApiError, match="2026-11") as refused:
        usage.parse_period(text)
    assert (refused.value.status, refused.value.param) == (422, "period")


@given(st.integers(-(10**18), 10**18))
def test_dollars_are_exact(nano: int) -> None:
    text = usage.dollars(nano)
    sign = -1 if text.startswith("-") else 1
    whole, rest = text.lstrip("-").split(".")
    assert len(rest) == 9
    assert sign * (int(whole) * 10**9 + int(rest)) == nano


def test_percent_and_rest() -> None:
    assert usage.percent(1, 3) == 33.33
    assert usage.percent(0, 0) == 100.0
    assert usage.percent(5, 4) == 125.0
    total = Sums(5, 10, 0, 10, 3, 3, 100, 10, 1)
    assert total.minus([Sums(2, 4, 0, 4, 1, 1, 40, 4, 0), Sums(3, 6, 0, 6, 2, 2, 60, 6, 1)]) == Sums()
    assert total.cost_nano == 111


MOMENTS = st.datetimes(datetime(2000, 1, 1), datetime(2199, 12, 31)).map(lambda at: at.replace(tzinfo=UTC))


def event(at: datetime, identity: uuid.UUID) -> Event:
    return Event(identity, at, "api_call", "x", "", "", "", "", "", "", "", None, "", "", "{}")


@given(MOMENTS, st.uuids())
def test_a_cursor_comes_back_whole(at: datetime, identity: uuid.UUID) -> None:
    assert audit_log.parse_cursor(event(at, identity).cursor) == (at, identity)


@pytest.mark.parametrize(
    "text", ["x", "0-0", "fffffffffffffff-" + "0" * 32, "f" * 14 + "-" + "0" * 32, "1-" + "G" * 32]
)
def test_what_is_no_cursor(text: str) -> None:
    with pytest.raises(ApiError) as refused:
        audit_log.parse_cursor(text)
    assert (refused.value.status, refused.value.param) == (422, "after")


def test_a_date_is_a_day_where_the_tenant_is() -> None:
    query = audit_log.read_query(QueryParams("from=2026-03-29&to=2026-03-29"), "Europe/Berlin")
    assert query.begin == datetime(2026, 3, 28, 23, tzinfo=UTC)
    assert query.end - query.begin == timedelta(hours=23)  # the clocks go forward
    assert audit_log.read_query(QueryParams(""), "UTC") == Query()


@pytest.mark.parametrize("text", ["2026-11-30T08:00:00Z", "2026-11-30T09:00:00+01:00", "2026-11-30 09:00:00.000+01:00"])
def test_times_with_an_offset(text: str) -> None:
    expected = datetime(2026, 11, 30, 8, tzinfo=UTC)
    assert audit_log.read_query(QueryParams({"from": text}), "Asia/Tokyo").begin == expected
    unescaped = QueryParams(f"from={text.replace(' ', 'T')}")  # whose plus sign is a space
    assert audit_log.read_query(unescaped, "Asia/Tokyo").begin == expected


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("from=yesterday", "from"),
        ("from=2026-11-30T08:00:00", "from"),
        ("from=0001-01-01", "from"),
        ("to=9999-12-31", "to"),
        ("to=2026-02-30", "to"),
        ("from=2026-11-02&to=2026-11-01", "to"),
        ("type=chat", "type"),
        ("user=" + "x" * 257, "user"),
        ("user=%00", "user"),
        ("order=up", "order"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=٣", "limit"),
        ("after=nowhere", "after"),
    ],
)
def test_a_bad_parameter_is_named(query: str, param: str) -> None:
    with pytest.raises(ApiError) as refused:
        audit_log.read_query(QueryParams(query), "UTC")
    assert (refused.value.status, refused.value.param) == (422, param)
