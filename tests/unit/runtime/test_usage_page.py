"""The usage page's pure parts: its session, where a form may come from, its chart, its colours."""

import itertools
import re
from datetime import UTC, date, datetime
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from tenantry_runtime import browser, dashboard, session
from tenantry_runtime.config import Credentials, Milvus, Postgres, Provider
from tenantry_runtime.store import Store
from tenantry_runtime.usage import Sums, Usage

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
UID = "3f0c1f0e-9d5a-4c57-8a86-0c3f5a1f4f01"


def credentials(**changes: Any) -> Credentials:
    given = {"api_key": "provider-key", "tag": "a" * 32} | changes
    return Credentials(
        postgres=Postgres(host="db", database="d", user="u", password="p", schema_name="s"),
        milvus=Milvus(uri="http://m", collection="c", tag=given["tag"]),
        provider=Provider(base_url="http://p/v1", api_key=given["api_key"]),
    )


class Keys:
    """The table of keys: uid and hash of those that are alive."""

    def __init__(self, *rows: tuple[str, str], now: datetime = NOW) -> None:
        self.rows, self.now = rows, now

    async def fetch(self, _: str, values: tuple[str]) -> list[tuple[Any, ...]]:
        found = [
            (self.now, uid, "default", "", ["usage"], key_sha256) for uid, key_sha256 in self.rows if uid == values[0]
        ]
        return found or [(self.now, *[None] * 5)]


async def user(token: str, keys: Keys, **changes: Any) -> str | None:
    found = await session.look_up(credentials(**changes), cast("Store", keys), token)
    return found[1].user if found else None


async def test_a_session_lives_as_long_as_its_key_and_no_longer_than_a_day() -> None:
    token = session.sign(credentials(), UID, "hash", NOW)
    assert await user(token, Keys((UID, "hash"))) == "default"
    assert await user(token, Keys((UID, "new"), (UID, "hash"))) == "default"  # while the key is replaced
    assert await user(token, Keys((UID, "new"))) is None
    assert await user(token, Keys()) is None
    late = datetime.fromtimestamp(NOW.timestamp() + session.SECONDS, UTC)
    assert await user(token, Keys((UID, "hash"), now=late)) is None


async def test_another_tenants_session_or_one_signed_elsewhere_opens_nothing() -> None:
    token = session.sign(credentials(), UID, "hash", NOW)
    assert await user(token, Keys((UID, "hash")), tag="b" * 32) is None
    assert await user(token, Keys((UID, "hash")), api_key="another") is None
    assert session.cookie_name(credentials()) != session.cookie_name(credentials(tag="b" * 32))


@given(st.integers(0, 200), st.characters(codec="ascii"))
async def test_a_changed_cookie_opens_nothing(place: int, character: str) -> None:
    token = session.sign(credentials(), UID, "hash", NOW)
    place %= len(token)
    changed = token[:place] + character + token[place + 1 :]
    found = await user(changed, Keys((UID, "hash")))
    # The last character of base64 carries bits that are not read: the signature is the same.
    assert found is None or changed == token or place == len(token) - 1


@pytest.mark.parametrize("token", ["", "1", "1...", "x" * 5000, f"1.AA.1.{'A' * 43}", f"1.A.1.{'A' * 43}", "1.é.1.x"])
async def test_what_is_no_session(token: str) -> None:
    assert await user(token, Keys((UID, "hash"))) is None


@pytest.mark.parametrize(
    ("headers", "fine"),
    [
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "same-site", "origin": "http://localhost:8000"}, False),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "none"}, False),
        ({"origin": "http://localhost:8000"}, True),
        ({"origin": "http://localhost:9000"}, False),
        ({"origin": "http://localhost:8000.evil.example"}, False),
        ({"origin": "null"}, False),
        ({}, False),
    ],
)
def test_where_a_form_may_come_from(headers: dict[str, str], fine: bool) -> None:
    raw = [(name.encode(), value.encode()) for name, value in ({"host": "localhost:8000"} | headers).items()]
    assert browser.from_here(Request({"type": "http", "headers": raw})) is fine


def used(days: dict[date, Sums]) -> Usage:
    return Usage(date(2026, 2, 1), True, Sums(), days, {}, {}, {}, {}, {}, 0)


@given(
    st.dictionaries(
        st.dates(date(2026, 2, 1), date(2026, 2, 28)),
        st.builds(Sums, llm_nano=st.integers(0, 10**15), database_nano=st.integers(0, 10**12)),
    )
)
def test_the_columns_stand_on_the_ground_and_below_the_top(days: dict[date, Sums]) -> None:
    chart = dashboard.chart(used(days))
    assert len(chart.bars) == 28
    for bar, day in zip(chart.bars, dashboard.days_of(date(2026, 2, 1)), strict=True):
        bottom = 100.0
        for _, top, height in bar.parts:
            assert top + height == pytest.approx(bottom, abs=0.001)
            bottom = top
        assert bottom >= -0.001
        assert bar.x + bar.width <= chart.width
        assert str(day) in bar.title


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "$0.00"), (1, "less than $0.000001"), (12_600, "$0.000013"), (1_000_000, "$0.001"),
        (250_000_000, "$0.25"), (1_234_567_000_000, "$1,234.57"),
    ],
)  # fmt: skip
def test_prices_for_people(nano: int, text: str) -> None:
    assert dashboard.price(nano) == text


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, two: str) -> float:
    """WCAG 2.2's ratio."""
    dark, light = sorted((luminance(one), luminance(two)))
    return (light + 0.05) / (dark + 0.05)


def test_contrasts_are_as_wcag_aa_asks() -> None:
    css = next(asset.content.decode() for name, asset in browser.assets().items() if name.endswith(".css"))
    light, dark = (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in css.split("@media")[:2])
    assert set(light) == set(dark)
    for colours in (light, dark):
        for text, ground in itertools.product(("text", "muted", "link", "over"), ("page", "card")):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
        assert contrast(colours["on-button"], colours["button"]) >= 4.5
        for mark in ("llm", "database", "vector", "fine", "near", "over", "edge"):
            assert contrast(colours[mark], colours["card"]) >= 3, mark
        for mark in ("fine", "near", "over", "llm"):
            assert contrast(colours[mark], colours["rest"]) >= 3, mark


def test_templates_hold_nothing_that_the_policy_forbids() -> None:
    names = browser._templates().list_templates()
    assert names
    for name in names:
        source, _, _ = browser._templates().loader.get_source(browser._templates(), name)  # type: ignore[union-attr]
        assert not re.search(r"<script|\sstyle=|\son\w+=|https?://|\|\s*safe", source), name


def test_an_asset_is_cached_for_ever_under_a_name_of_its_content() -> None:
    path = browser.asset_path("dashboard.css")
    answer = browser.asset(path.rsplit("/", 1)[1])
    assert "immutable" in answer.headers["cache-control"]
    assert answer.media_type == "text/css"
    assert browser.asset("dashboard.css").status_code == 404
    assert browser.asset("../session.py").status_code == 404
