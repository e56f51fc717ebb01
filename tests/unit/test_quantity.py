"""Kubernetes quantities."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.api import quantity

GIBI = 2**30


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", Decimal(0)),
        ("2", Decimal(2)),
        (10, Decimal(10)),
        ("500m", Decimal("0.5")),
        ("1.5", Decimal("1.5")),
        ("250u", Decimal("0.00025")),
        ("1n", Decimal("0.000000001")),
        ("1k", Decimal(1000)),
        ("10M", Decimal(10_000_000)),
        ("1Ki", Decimal(1024)),
        ("1.5Gi", Decimal(3 * GIBI // 2)),
        ("1Pi", Decimal(2**50)),
    ],
)
def test_parse(text: str | int, amount: Decimal) -> None:
    assert quantity.parse(text) == amount


@pytest.mark.parametrize("text", ["", "m", "-1", "1e3", "1GiB", "1 Gi", "4Gi\n", ".5", "1.", "٣", "NaN"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no quantity such as 500m, 2 or 4Gi"):
        quantity.parse(text)


@given(st.integers(0, 10**9))
def test_cores_round_trip_to_a_thousandth(milli: int) -> None:
    assert quantity.parse(quantity.cores(Decimal(milli) / 1000)) * 1000 == milli


@given(st.integers(0, 2**50))
def test_sizes_round_trip(number: int) -> None:
    assert quantity.parse(quantity.size(Decimal(number))) == number


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (1023, "1023"), (1024, "1Ki"), (GIBI, "1Gi"), (GIBI + 1024, "1048577Ki"), (2**40, "1Ti")],
)
def test_sizes_are_written_as_the_api_server_does(number: int, text: str) -> None:
    assert quantity.size(Decimal(number)) == text


def test_fractions_are_rounded_down() -> None:
    assert quantity.cores(Decimal("0.0019")) == "1m"
    assert quantity.cores(Decimal("2.000")) == "2"
    assert quantity.size(Decimal("1024.9")) == "1Ki"
    assert quantity.whole(Decimal("3.99")) == "3"
