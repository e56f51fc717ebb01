"""Which region serves a tenant, and why there may be none."""

from typing import Any

import pytest

from tenantry.api import DataRegion
from tenantry.api.conditions import Reason
from tenantry.resolve import Problem, choose_region
from tests import samples

PINNED: dict[str, Any] = {
    "region": "us-a",
    "databaseIsolation": "Schema",
    "vectorIsolation": "Partition",
    "embeddingModel": "text-embedding-3-small",
    "dimension": 256,
    "metric": "L2",
}


def regions(*items: tuple[str, str, bool, str]) -> dict[str, DataRegion]:
    """From (name, jurisdiction, whether default, day of November when it was made)."""
    return {
        name: DataRegion.model_validate(
            {
                "metadata": {"name": name, "creationTimestamp": f"2026-11-{day}T00:00:00Z"},
                "spec": {**samples.REGION, "jurisdiction": jurisdiction, "default": default},
            }
        )
        for name, jurisdiction, default, day in items
    }


WORLD = regions(
    ("us-b", "US", False, "03"), ("us-a", "US", False, "04"), ("eu", "EU", True, "05"), ("eu-old", "EU", False, "01")
)


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ({}, "eu"),
        ({"region": "us-a"}, "us-a"),
        ({"compliance": {"dataResidency": "EU"}}, "eu"),
        ({"compliance": {"dataResidency": "US"}}, "us-b"),
        ({"compliance": {"dataResidency": "US"}, "region": "us-a"}, "us-a"),
        ({"compliance": {"certifications": ["HIPAA"], "dataResidency": "US"}}, "us-b"),
    ],
)
def test_choice_of_region(spec: dict[str, Any], name: str) -> None:
    found = choose_region(samples.tenant(**spec), WORLD)
    assert isinstance(found, DataRegion)
    assert found.name == name


def test_of_two_defaults_the_older_one_serves() -> None:
    two = regions(("a", "US", True, "02"), ("b", "US", True, "01"))
    found = choose_region(samples.tenant(), two)
    assert isinstance(found, DataRegion)
    assert found.name == "b"


def test_the_pinned_region_goes_first() -> None:
    tenant = samples.tenant(status={"pinned": PINNED})
    found = choose_region(tenant, WORLD)
    assert isinstance(found, DataRegion)
    assert found.name == "us-a"


def test_a_region_that_is_gone_takes_nothing_along() -> None:
    """It was deleted while in use: nobody is told to choose another, which has none of the data."""
    found = choose_region(samples.tenant(status={"pinned": PINNED}), {"eu": WORLD["eu"]})
    assert isinstance(found, Problem)
    assert found.reason == Reason.UNKNOWN_REGION
    assert "create it again" in found.message
    assert "spec.region" not in found.message


@pytest.mark.parametrize(
    ("spec", "world", "reason", "words"),
    [
        ({"region": "mars"}, WORLD, Reason.UNKNOWN_REGION, "DataRegion 'mars' does not exist"),
        ({}, {}, Reason.UNKNOWN_REGION, "no DataRegion with spec.default: true"),
        (
            {"compliance": {"dataResidency": "APAC"}},
            WORLD,
            Reason.UNKNOWN_REGION,
            "no DataRegion of jurisdiction APAC",
        ),
        (
            {"compliance": {"dataResidency": "US"}, "region": "eu"},
            WORLD,
            Reason.RESIDENCY_VIOLATED,
            "spec.compliance.dataResidency is US, but DataRegion 'eu' is in EU",
        ),
        (
            {"compliance": {"certifications": ["HIPAA"]}},
            WORLD,
            Reason.RESIDENCY_VIOLATED,
            "A HIPAA tenant must be served from the US",
        ),
    ],
)
def test_why_there_is_no_region(spec: dict[str, Any], world: dict[str, DataRegion], reason: Reason, words: str) -> None:
    found = choose_region(samples.tenant(**spec), world)
    assert isinstance(found, Problem)
    assert found.reason == reason
    assert words in found.message
