"""GET /v1/usage: numbers that add up, for a whole month, also when its budget is spent."""

import csv
import io
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import openai
import pytest

from tenantry_runtime.config import Budget, Limits, UnitPrices
from tests.integration.runtime.stack import Replica, Tenant, eventually
from tests.integration.runtime.upstream import Upstream

HELLO: list[Any] = [{"role": "user", "content": "Hello?"}]
FAR = "Pacific/Kiritimati"
"""14 hours ahead of UTC."""
LISTS = ("daily", "byKind", "byModel", "byUser", "byKey")


@pytest.fixture(scope="module")
def tenant(scripted: Tenant, replicas: tuple[Replica, Replica]) -> Tenant:
    scripted.apply(
        replicas,
        limits=Limits(),
        budget=Budget(monthly_nano=3_000_000_000, time_zone=FAR),
        unit_prices=UnitPrices(database_query_nano=7, vector_search_nano=11),
    )
    return scripted


def ask(client: openai.OpenAI, **options: Any) -> Any:
    return client.chat.completions.create(model="gpt-4o-mini", messages=HELLO, **options)


def usage(replica: Replica, key: str, **query: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.get(f"{replica.url}/v1/usage", params=query, headers=headers, timeout=30)


def adds_up(answer: dict[str, Any]) -> None:
    """Each list and the breakdown add up to the total, and each string is its integer."""
    total = answer["total"]["costNano"]
    assert sum(part["costNano"] for part in answer["breakdown"].values()) == total
    for name in LISTS:
        assert sum(entry["costNano"] for entry in answer[name]) == total, name
        assert sum(entry["calls"] for entry in answer[name]) == answer["total"]["calls"], name
        for entry in answer[name]:
            assert sum(part["costNano"] for part in entry["breakdown"].values()) == entry["costNano"]
            assert entry["cost"] == f"{entry['costNano'] // 10**9}.{entry['costNano'] % 10**9:09d}"


def test_a_month_by_day_kind_model_user_and_key(
    tenant: Tenant, replicas: tuple[Replica, Replica], upstream: Upstream
) -> None:
    tenant.reset()
    app = tenant.add_key("app", act=True)
    for replica in replicas:
        ask(replica.client(app), extra_headers={"X-Tenantry-User": "jose"})
    ask(replicas[0].client(tenant.key))
    tenant.settled()
    answer = usage(replicas[1], tenant.key).json()
    adds_up(answer)
    assert answer["total"]["costNano"] >= 3 * (20 * 150 + 2 * 600)
    assert answer["breakdown"]["llm"] == {
        "inputTokens": 60, "cachedInputTokens": 0, "outputTokens": 6, "cost": "0.000012600", "costNano": 12_600
    }  # fmt: skip
    today = datetime.now(UTC).astimezone(ZoneInfo(FAR)).date()
    assert answer["timeZone"] == FAR
    assert {date.fromisoformat(day["date"]) for day in answer["daily"]} <= {today, today - timedelta(days=1)}
    assert {entry["user"]: entry["calls"] for entry in answer["byUser"]}["jose"] == 2
    assert {entry["name"] for entry in answer["byKey"]} >= {"app"}
    assert {entry["model"] for entry in answer["byModel"]} >= {"gpt-4o-mini"}
    assert answer["budget"]["limit"] == "3.000000000"
    assert answer["budget"]["usedNano"] + answer["budget"]["leftNano"] == 3_000_000_000

    def recorded() -> int:
        return int(tenant.sql("SELECT count(*) FROM ledger WHERE kind = 'usage' AND database_queries > 0")[0][0])

    eventually(lambda: recorded() == 1)  # reading is itself a request that is paid
    spent = tenant.spent()
    assert usage(replicas[0], tenant.key).json()["total"]["costNano"] == spent


def test_what_the_ledger_does_for_itself_is_no_database_query(
    tenant: Tenant, replicas: tuple[Replica, Replica]
) -> None:
    client = replicas[0].client(tenant.key)
    # One looks whether there are documents; key, limits, reservation, settlement and audit are the service's own.
    for retrieval, queries in ((True, 1), (False, 0)):
        tenant.settled()
        tenant.reset()
        ask(client, extra_body={"tenantry": {"retrieval": retrieval}})
        tenant.settled()
        assert tenant.sql("SELECT database_queries, database_nano FROM ledger") == [(queries, 7 * queries)]
        answer = usage(replicas[0], tenant.key).json()
        assert answer["breakdown"]["database"]["queries"] == queries


def test_a_past_month_is_its_own(tenant: Tenant, replicas: tuple[Replica, Replica]) -> None:
    tenant.sql(
        "INSERT INTO totals (day, month, kind, model, key_uid, user_name, calls, tokens_in, tokens_out, "
        "database_queries, vector_searches, llm_nano, database_nano, vector_nano) "
        "SELECT date '2025-02-01' + d, '2025-02-01', 'chat', 'gpt-4o', 'gone', 'user' || u, 1, 10, 5, 2, 1, "
        "90071992547409, 20, 3 FROM generate_series(0, 27) d, generate_series(1, 50) u"
    )
    tenant.sql(
        "INSERT INTO totals (day, month, kind, model, key_uid, user_name, calls, llm_nano) "
        "VALUES ('2025-01-31', '2025-01-01', 'chat', 'gpt-4o', 'gone', 'x', 1, 5), "
        "('2025-03-01', '2025-03-01', 'chat', 'gpt-4o', 'gone', 'x', 1, 7)"
    )
    answer = usage(replicas[0], tenant.key, period="2025-02").json()
    adds_up(answer)
    assert answer["period"] == "2025-02"
    assert answer["total"] == {
        "calls": 1400, "cost": "126100789.566404800", "costNano": 1400 * (90071992547409 + 23)
    }  # fmt: skip
    assert len(answer["daily"]) == 28
    assert answer["byKey"][0]["name"] is None
    assert answer["budget"] is None
    assert usage(replicas[0], tenant.key, period="2025-03").json()["total"]["costNano"] == 7
    empty = usage(replicas[0], tenant.key, period="2024-01").json()
    assert empty["total"] == {"calls": 0, "cost": "0.000000000", "costNano": 0}
    assert all(empty[name] == [] for name in LISTS)

    export = usage(replicas[0], tenant.key, period="2025-02", format="csv")
    assert export.headers["content-type"].startswith("text/csv")
    assert 'filename="usage-2025-02.csv"' in export.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(export.text, newline="")))
    assert len(rows) == 1400
    assert sum(int(row["Cost USD"].replace(".", "")) for row in rows) == answer["total"]["costNano"]


def test_more_users_than_are_named_still_add_up(tenant: Tenant, replicas: tuple[Replica, Replica]) -> None:
    tenant.sql(
        "INSERT INTO totals (day, month, kind, model, key_uid, user_name, calls, llm_nano) "
        "SELECT '2025-04-01', '2025-04-01', 'chat', 'gpt-4o', 'k', 'user' || u, 1, u FROM generate_series(1, 1200) u"
    )
    answer = usage(replicas[0], tenant.key, period="2025-04").json()
    adds_up(answer)
    assert len(answer["byUser"]) == 1001
    assert answer["byUser"][0]["user"] == "user1200"
    assert answer["byUser"][-1]["user"] is None
    assert answer["byUser"][-1]["calls"] == 200


def test_a_spent_budget_does_not_close_the_books(tenant: Tenant, replicas: tuple[Replica, Replica]) -> None:
    budget = tenant.configuration.budget
    tenant.apply(replicas, budget=Budget(monthly_nano=1))
    try:
        usage(replicas[0], tenant.key)  # its queries alone spend it
        eventually(lambda: tenant.spent() > 0)
        with pytest.raises(openai.RateLimitError) as refused:
            ask(replicas[0].client(tenant.key))
        assert refused.value.code == "insufficient_quota"
        for replica in replicas:
            before = tenant.spent()
            answer = usage(replica, tenant.key).json()
            assert (answer["budget"]["left"], answer["budget"]["percentUsed"] >= 100) == ("0.000000000", True)
            eventually(lambda before=before: tenant.spent() > before)
    finally:
        tenant.apply(replicas, budget=budget)


def test_what_is_refused(tenant: Tenant, replicas: tuple[Replica, Replica]) -> None:
    for query, param in (({"period": "2026-13"}, "period"), ({"period": "x"}, "period"), ({"format": "xml"}, "format")):
        refused = usage(replicas[0], tenant.key, **query)
        assert refused.status_code == 422
        assert refused.json()["error"]["param"] == param
    narrow = tenant.add_key("chat-only", scopes=("chat",))
    assert usage(replicas[0], narrow).status_code == 403


def test_the_prompt_as_resolved(tenant: Tenant, replicas: tuple[Replica, Replica], upstream: Upstream) -> None:
    tenant.apply(
        replicas, prompt=tenant.configuration.prompt.model_copy(update={"custom_instructions": "Answer in Latin."})
    )
    headers = {"Authorization": f"Bearer {tenant.key}"}
    answer = httpx.get(f"{replicas[0].url}/v1/prompt", headers=headers).json()
    ask(replicas[0].client(tenant.key))
    assert answer["text"] == upstream.asked[-1]["messages"][0]["content"]
    assert answer["text"].startswith(answer["instructions"])
    assert answer["text"].endswith(answer["guard"])
    assert answer["variables"]["customInstructions"] == "Answer in Latin."
    assert "{{ tenantName }}" in answer["template"]
    # what applied to the call is in its audit row
    told = "SELECT details->>'prompt_digest' FROM audit WHERE action = 'chat.completions.create' AND phase = 'intent'"
    assert tenant.sql(told)[-1:] == [(answer["digest"],)]
    narrow = tenant.add_key("no-admin", scopes=("chat", "usage"))
    refused = httpx.get(f"{replicas[0].url}/v1/prompt", headers={"Authorization": f"Bearer {narrow}"})
    assert refused.status_code == 403
    front = httpx.get(f"{replicas[0].url}/").json()
    assert httpx.get(f"{replicas[0].url}{front['openapi']}").json()["openapi"].startswith("3.")
