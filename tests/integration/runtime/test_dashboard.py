"""The usage page, in a real browser."""

import csv
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tenantry_runtime import dashboard
from tenantry_runtime.config import Budget, LeakGuard, Limits, SubjectLimits, UnitPrices
from tests.integration.runtime.chromium import chromium
from tests.integration.runtime.stack import Replica, Tenant
from tests.integration.runtime.upstream import Upstream, delta

HOSTILE = '<script>document.title="owned"</script><b onmouseover=alert(1)>'
ALERT = "=cmd|'/C calc'!A0"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def tenant(scripted: Tenant, replicas: tuple[Replica, Replica], upstream: Upstream) -> Tenant:
    """With a month of use: three models, many users, one of them hostile, and refusals."""
    scripted.apply(
        replicas,
        display_name="Globex <Corporation> & Sons",
        limits=Limits(
            requests_per_minute=60,
            tokens_per_minute=10_000,
            tokens_per_day=500_000,
            concurrency=10,
            per_user=SubjectLimits(requests_per_minute=10, tokens_per_day=60_000),
            per_key=SubjectLimits(tokens_per_minute=8000, concurrency=2),
        ),
        budget=Budget(monthly_nano=100_000_000_000),
        unit_prices=UnitPrices(database_query_nano=50_000, vector_search_nano=200_000),
        leak_guard=LeakGuard(secrets="Block"),
    )
    leaking(scripted, replicas[0], upstream)
    scripted.sql("TRUNCATE ledger, totals, meter")
    today = datetime.now(UTC).date()
    for month, until in ((today.replace(day=1), today.day), (date(2026, 1, 1), 31)):
        scripted.sql(
            "INSERT INTO totals (day, month, kind, model, key_uid, user_name, calls, tokens_in, tokens_out, "
            "database_queries, vector_searches, llm_nano, database_nano, vector_nano) "
            "SELECT %s::date + d, %s, 'chat', (ARRAY['gpt-4o', 'gpt-4o-mini', '', %s])[1 + u %% 4], 'k', "
            "CASE u WHEN 3 THEN %s WHEN 5 THEN %s ELSE 'user' || u END, 10 + u, 2000, 900, 20, 9, "
            "40000000 + 10000000 * ((d * 7) %% 11) + 3000000 * u, 20000000 + 1000000 * d, 15000000 "
            "FROM generate_series(0, %s) d, generate_series(1, 14) u",
            (month, month, HOSTILE, HOSTILE, ALERT, until - 1),
        )
    scripted.sql(
        "INSERT INTO meter (subject, requests, tokens, filled_at, day, day_zone, day_ends_at, day_tokens, month, "
        "month_zone, month_ends_at) SELECT 'tenant', 12, 900, clock_timestamp(), %s::date, 'UTC', "
        "now() + interval '1 day', 430000, %s, 'UTC', now() + interval '40 days'",
        (today, today.replace(day=1)),
    )
    # Users whose meters are kept, one that was idle for long and is known from the totals alone, and a key that runs.
    for user, requests, tokens in (("user1", -2, 60_000), (HOSTILE, 4, 12_345)):
        scripted.sql(
            "INSERT INTO meter (subject, requests, tokens, filled_at, day, day_zone, day_ends_at, day_tokens, month, "
            "month_zone, month_ends_at) SELECT 'user:' || %s, %s, NULL, clock_timestamp() + interval '1 hour', "
            "day, day_zone, day_ends_at, %s, month, month_zone, month_ends_at FROM meter WHERE subject = 'tenant'",
            (user, requests, tokens),
        )
    uid = scripted.sql("SELECT uid FROM access_keys WHERE name = 'default'")[0][0]
    scripted.sql(
        "INSERT INTO ledger (id, at, month, day, key_uid, key_name, user_name, kind, model, status, counts, "
        "reserved_tokens, reserved_nano, price_version, expires_at) SELECT gen_random_uuid(), now(), month, day, %s, "
        "'default', 'user7', 'chat', 'gpt-4o', 'reserved', true, 40000, 0, 'v', now() + interval '1 hour' FROM meter "
        "WHERE subject = 'tenant'",
        (uid,),
    )
    narrow = scripted.add_key(HOSTILE[:40], scopes=("usage",))
    with pytest.raises(openai.PermissionDeniedError):
        replicas[0].client(narrow).chat.completions.create(model="gpt-4o-mini", messages=[])
    return scripted


def leaking(tenant: Tenant, replica: Replica, upstream: Upstream) -> None:
    """What the leak guard refuses: a question, an answer, and a stream that has begun."""
    secret = "It is AKIA" + "Q3EGRTXJ7HWUZLMN."
    upstream.answer["choices"][0]["message"]["content"] = secret
    upstream.events = [delta("Well, that is easy to say and easy to remember. "), delta(secret)]
    client = replica.client(tenant.key)
    for content, stream in ((secret, False), ("Hello?", False), ("Hello?", True)):
        messages: list[Any] = [{"role": "user", "content": content}]
        with pytest.raises(openai.APIError):
            list(client.chat.completions.create(model="gpt-4o-mini", messages=messages, stream=stream))
    tenant.settled()
    upstream.reset()


@pytest.fixture
def context(browser: Browser, replicas: tuple[Replica, Replica]) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1200, "height": 900}, reduced_motion="reduce")
    said: list[str] = []
    asked: list[str] = []
    context.on("console", lambda message: said.append(message.text))
    context.on("weberror", lambda error: said.append(str(error.error)))
    context.on("dialog", lambda dialog: said.append(dialog.message))
    context.on("request", lambda request: asked.append(request.url))
    yield context
    context.close()
    # A browser says what the policy forbids; and nothing came from elsewhere.
    assert [text for text in said if not text.startswith("Failed to load resource")] == []
    assert all(url.startswith((replicas[0].url, replicas[1].url)) for url in asked), asked


def sign_in(context: BrowserContext, replica: Replica, key: str) -> Page:
    page = context.new_page()
    page.goto(f"{replica.url}/dashboard")
    page.get_by_label("Access key").fill(key)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Globex <Corporation> & Sons")
    return page


def test_signing_in_and_out(tenant: Tenant, replicas: tuple[Replica, Replica], context: BrowserContext) -> None:
    page = context.new_page()
    page.goto(f"{replicas[0].url}/dashboard")
    assert page.url.endswith("/dashboard/sign-in")
    page.get_by_label("Access key").fill("tk-wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("not valid here")
    assert context.cookies() == []
    page.get_by_label("Access key").fill(tenant.key)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    (cookie,) = context.cookies()
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Strict"
    assert cookie["path"] == "/dashboard"
    assert tenant.key not in cookie["value"]
    assert page.evaluate("document.cookie") == ""
    # Another replica knows the session too: cookies do not tell ports apart.
    page.goto(f"{replicas[1].url}/dashboard")
    expect(page.get_by_role("heading", name="Cost per day")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/dashboard/sign-in")
    assert context.cookies() == []
    page.goto(f"{replicas[0].url}/dashboard")
    assert page.url.endswith("/dashboard/sign-in")


def test_a_session_ends_with_its_key(
    tenant: Tenant, replicas: tuple[Replica, Replica], context: BrowserContext
) -> None:
    key = tenant.add_key("doomed-page", scopes=("usage",))
    page = sign_in(context, replicas[0], key)
    expect(page.get_by_text("A key with the scope audit shows them.")).to_be_visible()
    assert page.request.get(f"{replicas[0].url}/dashboard/audit.csv").status == 403
    tenant.delete_key(key)
    for replica in replicas:
        page.goto(f"{replica.url}/dashboard")
        assert page.url.endswith("/dashboard/sign-in")


def test_a_key_without_the_scope_is_told_so(
    tenant: Tenant, replicas: tuple[Replica, Replica], context: BrowserContext
) -> None:
    page = context.new_page()
    page.goto(f"{replicas[0].url}/dashboard/sign-in")
    page.get_by_label("Access key").fill(tenant.add_key("chat-page", scopes=("chat",)))
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("scope usage")


def table(page: Page, name: str) -> list[list[str]]:
    """The texts of a table's cells, by row."""
    rows = page.get_by_role("region", name=name).get_by_role("row").all_inner_texts()
    return [[cell.strip() for cell in row.split("\t")] for row in rows]


def test_what_it_shows(
    tenant: Tenant, replicas: tuple[Replica, Replica], context: BrowserContext, tmp_path: Path
) -> None:
    page = sign_in(context, replicas[0], tenant.key)
    answer = page.request.get(f"{replicas[0].url}/v1/usage", headers={"Authorization": f"Bearer {tenant.key}"}).json()
    used = dashboard.price(answer["total"]["costNano"])[:-1]  # to a cent: each look is itself paid
    expect(page.locator(".figure")).to_contain_text(used)
    expect(page.locator(".figure")).to_contain_text("of $100.00 used")
    expect(page.get_by_text("Tokens a day 470,000 of 500,000 taken")).to_be_visible()
    expect(page.get_by_text("Each user: 10 requests a minute, 60,000 tokens a day.")).to_be_visible()
    rows = table(page, "Limits of each user, now")
    assert rows[0] == ["User", "Requests a minute", "Tokens a day"]
    assert rows[1] == ["user1", "12 of 10", "60,000 of 60,000"]
    assert rows[2][0] == "user7"
    assert rows[2][2] == "42,900 of 60,000"  # from the totals, and what is reserved
    assert rows[3][0] == HOSTILE
    assert rows[3][1:] == ["6 of 10", "12,345 of 60,000"]
    assert len(rows) == 11
    expect(page.get_by_text("And 4 more, who have taken less of theirs.")).to_be_visible()
    assert table(page, "Limits of each key, now") == [
        ["Key", "Tokens a minute", "Calls at a time"],
        ["default", "0 of 8,000", "1 of 2"],
    ]
    days = page.locator(".plot g:has(title)")
    assert days.count() >= 28
    assert days.first.locator("rect:not(.hover)").count() == 3  # models, database, vectors
    # The figures of the table add up to the answer of the API, but for what was called in between.
    page.get_by_text("The days as a table").click()
    totals = page.locator("details tbody td:last-child").all_inner_texts()
    shown = sum(int(text.replace(".", "")) for text in totals)
    assert 0 <= answer["total"]["costNano"] - shown < 10_000_000
    # What a tenant's users call themselves is text.
    expect(page.get_by_role("rowheader", name=HOSTILE).first).to_be_visible()
    assert page.title().startswith("Globex")
    expect(page.get_by_role("cell", name="chat.completions.create").first).to_be_visible()
    expect(page.get_by_role("cell", name="scope_missing").first).to_be_visible()
    refused = [row[1:] for row in table(page, "Recent refusals")]  # without their times
    call = ["chat.completions.create", "default", "default"]
    for withheld in (["403", "answer_withheld"], ["200", "answer_withheld"], ["422", "content_blocked"]):
        assert [*call, *withheld] in refused  # by the leak guard: whole, in a stream, and before it was sent
    page.screenshot(path=tmp_path / "light.png", full_page=True)


def test_another_month_and_its_csv(
    tenant: Tenant, replicas: tuple[Replica, Replica], context: BrowserContext, tmp_path: Path
) -> None:
    page = sign_in(context, replicas[0], tenant.key)
    page.get_by_label("Month", exact=True).select_option("January 2026")
    page.get_by_role("button", name="Show").click()
    expect(page).to_have_title("Globex <Corporation> & Sons · usage in January 2026")
    assert page.get_by_label("Month", exact=True).input_value() == "2026-01"
    with page.expect_download() as begun:
        page.get_by_role("link", name="Usage as CSV").click()
    assert begun.value.suggested_filename == "usage-2026-01.csv"
    begun.value.save_as(tmp_path / "usage.csv")
    with (tmp_path / "usage.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 31 * 14
    assert {row["User ID"] for row in rows} >= {"'" + ALERT, "user1"}
    with page.expect_download() as begun:
        page.get_by_role("link", name="Audit as CSV").click()
    assert begun.value.suggested_filename.startswith("audit-")
    page.goto(f"{replicas[0].url}/dashboard?period=2026-13")
    expect(page.get_by_role("alert")).to_contain_text("period must be a month")


def test_dark_small_and_by_keyboard(
    tenant: Tenant, replicas: tuple[Replica, Replica], context: BrowserContext, tmp_path: Path
) -> None:
    page = sign_in(context, replicas[0], tenant.key)

    def brightness() -> int:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in colour.strip("rgb()").split(","))

    assert brightness() > 600
    page.emulate_media(color_scheme="dark")
    assert brightness() < 150
    page.screenshot(path=tmp_path / "dark.png", full_page=True)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.set_viewport_size({"width": 360, "height": 740})
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        page.screenshot(path=tmp_path / f"small-{scheme}.png", full_page=True)
    # By keyboard alone: everything that can be used is reached, in the page's order, and shows that it is.
    page.reload()
    seen: list[Any] = []
    for _ in range(20):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate(
                "(() => { const e = document.activeElement, s = getComputedStyle(e); return "
                "[(e.textContent || e.name || '').trim().slice(0, 20), e.tagName, s.outlineStyle]; })()"
            )
        )
    names = [name for name, _, _ in seen]
    assert names[0] == "Skip to the figures"
    for name in ("Sign out", "Show", "Usage as CSV", "Audit as CSV", "The days as a table"):
        assert name in names, names
    assert names.index("Sign out") < names.index("Show") < names.index("The days as a table")
    assert all(outline != "none" for _, tag, outline in seen if tag != "BODY")
    unnamed = page.evaluate(
        "[...document.querySelectorAll('input, select, progress, [role=region], [role=img]')].filter(e => "
        "!e.labels?.length && !e.ariaLabel && !(e.getAttribute('aria-labelledby') || '').split(' ').every(i => "
        "i && document.getElementById(i))).map(e => e.outerHTML)"
    )
    assert unnamed == []


def test_headers_and_forms_from_elsewhere(tenant: Tenant, replicas: tuple[Replica, Replica]) -> None:
    url = f"{replicas[0].url}/dashboard"
    form = {"key": tenant.key}
    for headers in ({}, {"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}):
        for path in ("sign-in", "sign-out"):
            refused = httpx.post(f"{url}/{path}", data=form, headers=headers)
            assert refused.status_code == 403
            assert "set-cookie" not in refused.headers
    fine = httpx.post(f"{url}/sign-in", data=form, headers={"Origin": replicas[0].url})
    assert (fine.status_code, fine.headers["location"]) == (303, "/dashboard")
    assert "Secure" not in fine.headers["set-cookie"]
    behind = {"Origin": replicas[0].url, "X-Forwarded-Proto": "https"}
    assert "Secure" in httpx.post(f"{url}/sign-in", data=form, headers=behind).headers["set-cookie"]
    cookie = {"Cookie": fine.headers["set-cookie"].split(";")[0]}
    page = httpx.get(url, headers=cookie)
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "script-src" not in policy  # none at all
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["x-frame-options"] == "DENY"
    # The cookie opens the page only, and a key in a header opens no page.
    assert httpx.get(f"{replicas[0].url}/v1/usage", headers=cookie).status_code == 401
    assert httpx.get(url, headers={"Authorization": f"Bearer {tenant.key}"}).status_code == 303
    assert httpx.post(f"{url}/sign-in", content=b"key=" + b"x" * 10_000, headers=behind).status_code == 413
    for body in (b"", b"key", b"\xff=\xff", b"a=1&" * 500):
        assert httpx.post(f"{url}/sign-in", content=body, headers=behind).status_code in (401, 422)


def test_every_page_asks_for_a_session_of_this_tenants(tenant: Tenant, replicas: tuple[Replica, Replica]) -> None:
    """Read from the OpenAPI document, so that a new page can't be forgotten."""
    url = replicas[0].url
    paths = httpx.get(f"{url}/openapi.json").json()["paths"]
    pages = {path: methods for path, methods in paths.items() if path.startswith("/dashboard")}
    closed = [path for path, methods in pages.items() if "security" in methods.get("get", {})]
    assert len(closed) >= 3
    assert all(pages[path]["get"]["security"] == [{"session": []}] for path in closed)
    assert set(pages) - set(closed) == {
        "/dashboard/sign-in", "/dashboard/sign-out", "/dashboard/static/{name}",
    }  # fmt: skip
    answer = httpx.post(f"{url}/dashboard/sign-in", data={"key": tenant.key}, headers={"Origin": url})
    name, _, value = answer.headers["set-cookie"].split(";")[0].partition("=")
    for path in closed:
        for cookie in ("", f"{name}=", f"{name}=x", f"{name}={value[:-4]}AAAA", f"other={value}"):
            refused = httpx.get(f"{url}{path}", headers={"Cookie": cookie})
            assert (refused.status_code, refused.headers["location"]) == (303, "/dashboard/sign-in")
            assert refused.content == b""


def test_a_look_is_paid_and_audited(tenant: Tenant, replicas: tuple[Replica, Replica]) -> None:
    headers = {"Origin": replicas[0].url}
    answer = httpx.post(f"{replicas[0].url}/dashboard/sign-in", data={"key": tenant.key}, headers=headers)
    cookie = {"Cookie": answer.headers["set-cookie"].split(";")[0]}
    before = tenant.sql("SELECT count(*) FROM ledger WHERE kind = 'dashboard'")[0][0]
    assert httpx.get(f"{replicas[1].url}/dashboard", headers=cookie).status_code == 200
    assert tenant.sql("SELECT count(*) FROM ledger WHERE kind = 'dashboard'")[0][0] == before + 1
    actions = {
        row[0]
        for row in tenant.sql("SELECT action FROM audit WHERE action LIKE 'dashboard%%' AND status = %s", ("200",))
    }
    assert "dashboard.show" in actions
