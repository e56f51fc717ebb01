"""Limits and budget: shared by all replicas, exact about when to come again, never overdrawn."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from tenantry_runtime.config import Budget, Limits, ModelPrice, SubjectLimits
from tests.integration.runtime.stack import Replica, Stack, Tenant, eventually
from tests.integration.runtime.upstream import Upstream, chunk, delta

HELLO: list[Any] = [{"role": "user", "content": "Hello?"}]


@pytest.fixture(scope="module")
def tenant(scripted: Tenant) -> Tenant:
    return scripted


def ask(client: openai.OpenAI, **options: Any) -> Any:
    return client.chat.completions.create(model="gpt-4o-mini", messages=HELLO, **options)


def until_refused(client: openai.OpenAI, most: int = 30) -> openai.RateLimitError:
    """Ask until a limit refuses."""
    for _ in range(most):
        try:
            ask(client)
        except openai.RateLimitError as error:
            return error
    raise AssertionError(f"{most} calls, and none was refused")


def many(tenant: Tenant, replicas: tuple[Replica, ...], count: int) -> list[int]:
    """The statuses of so many calls at once, spread over the replicas."""
    clients = [replica.client(tenant.key) for replica in replicas]

    def one(number: int) -> int:
        try:
            ask(clients[number % len(clients)])
        except openai.APIStatusError as error:
            return error.status_code
        return 200

    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(one, range(count)))


@pytest.fixture(scope="module")
def three(tenant: Tenant, replicas: tuple[Replica, Replica]) -> Iterator[tuple[Replica, ...]]:
    """Three replicas."""
    with tenant.replica() as third:
        yield (*replicas, third)


def test_three_replicas_share_the_minutes_requests(tenant: Tenant, three: tuple[Replica, ...]) -> None:
    tenant.apply(three, limits=Limits(requests_per_minute=5), budget=None)
    started = time.monotonic()
    statuses = many(tenant, three, 30)
    refilled = int((time.monotonic() - started) * 5 / 60) + 1
    assert set(statuses) == {200, 429}
    assert 5 <= statuses.count(200) <= 5 + refilled


@pytest.mark.parametrize("limit", ["tokens_per_minute", "tokens_per_day"])
def test_three_replicas_share_the_tokens(
    tenant: Tenant, three: tuple[Replica, ...], upstream: Upstream, limit: str
) -> None:
    upstream.all_that_is_granted = True
    upstream.delay = 0.2
    tenant.apply(three, limits=Limits(**{limit: 1500}), budget=None)
    started = time.monotonic()
    assert set(many(tenant, three, 48)) == {200, 429}
    refilled = (time.monotonic() - started) * 1500 / 60 + 1 if limit == "tokens_per_minute" else 0
    tenant.settled()
    ((used,),) = tenant.sql("SELECT sum(tokens_in + tokens_out) FROM ledger")
    assert 1000 < used <= 1500 + refilled


def test_three_replicas_share_the_concurrency(tenant: Tenant, three: tuple[Replica, ...], upstream: Upstream) -> None:
    tenant.apply(three, limits=Limits(concurrency=2), budget=None)
    upstream.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(many, tenant, three, 12)
        eventually(lambda: len(upstream.asked) == 2)
        eventually(lambda: sum(replica.metric("tenantry_rate_limited_total", limit="concurrency") for replica in three))
        eventually(lambda: tenant.sql("SELECT count(*) FROM audit WHERE status = '429'") == [(10,)])
        assert len(upstream.asked) == 2
        upstream.gate.set()
        assert sorted(running.result(60)) == [200] * 2 + [429] * 10


def test_five_hundred_users_over_three_replicas_never_exceed_their_tenant(
    tenant: Tenant, three: tuple[Replica, ...]
) -> None:
    limits = Limits(requests_per_minute=60, per_user=SubjectLimits(requests_per_minute=5))
    tenant.apply(three, limits=limits, budget=None)
    key = tenant.add_key("for-all", act=True)
    clients = [replica.client(key) for replica in three]

    def one(number: int) -> str:
        try:
            ask(clients[number % 3], extra_headers={"X-Tenantry-User": f"user-{number}"})
        except openai.RateLimitError as error:
            return str(error.body["limit"])
        return "ok"

    started = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(one, range(500)))
    refilled = int(time.monotonic() - started) + 1
    assert set(outcomes) == {"ok", "requests"}
    assert 60 <= outcomes.count("ok") <= 60 + refilled


def test_each_user_has_limits_of_its_own_within_the_tenants(tenant: Tenant, replicas: tuple[Replica, Replica]) -> None:
    limits = Limits(requests_per_minute=12, per_user=SubjectLimits(requests_per_minute=5))
    tenant.apply(replicas, limits=limits, budget=None)
    key = tenant.add_key(f"app-{time.monotonic_ns()}", act=True)
    clients = [replica.client(key) for replica in replicas]
    started = time.monotonic()

    def one(number: int) -> str:
        try:
            ask(clients[number % 2], extra_headers={"X-Tenantry-User": f"user-{number % 4}"})
        except openai.RateLimitError as error:
            return str(error.body["limit"])
        return "ok"

    with ThreadPoolExecutor(8) as pool:
        first = list(pool.map(one, [0] * 5 + [1] * 5 + [0] * 5))  # two users: each has its own
        assert set(first) == {"ok", "user_requests"}
        more = list(pool.map(one, range(40)))
    refilled = int((time.monotonic() - started) * 12 / 60) + 1
    assert 12 <= (first + more).count("ok") <= 12 + refilled
    assert "requests" in more  # others have taken what the tenant has
    ((most,),) = tenant.sql(
        "SELECT max(n) FROM (SELECT count(*) AS n FROM ledger WHERE model <> '' GROUP BY user_name) AS u"
    )
    assert most <= 5 + refilled


def test_a_provider_that_tells_no_usage_is_estimated(
    tenant: Tenant, replicas: tuple[Replica, Replica], upstream: Upstream
) -> None:
    tenant.apply(replicas, limits=Limits(), budget=None)
    del upstream.answer["usage"]
    ask(replicas[0].client(tenant.key))
    ((given, made, estimated),) = tenant.sql("SELECT tokens_in, tokens_out, estimated FROM ledger")
    assert estimated
    assert given > 50  # the system prompt is in it
    assert 2 <= made <= 6


def test_cached_input_is_paid_at_its_own_price(
    tenant: Tenant, replicas: tuple[Replica, Replica], upstream: Upstream
) -> None:
    before = tenant.configuration.prices
    price = ModelPrice(input_nano=150, output_nano=600, cached_input_nano=75)
    tenant.apply(replicas, limits=Limits(), budget=None, prices=before | {"gpt-4o-mini": price})
    usage = {"prompt_tokens": 2000, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 1920}}
    upstream.answer["usage"] = usage
    upstream.events = [delta("Hi"), chunk(choices=[], usage=usage)]
    client = replicas[0].client(tenant.key)
    ask(client)
    list(ask(client, stream=True))
    cost = 80 * 150 + 1920 * 75 + 10 * 600
    assert tenant.sql("SELECT tokens_cached, llm_nano FROM ledger") == [(1920, cost)] * 2
    assert tenant.sql("SELECT tokens_cached, llm_nano FROM totals") == [(3840, 2 * cost)]
    tenant.apply(replicas, prices=before)


@pytest.mark.parametrize("usage", [None, {"prompt_tokens": 20, "completion_tokens": 400}], ids=["counted", "told"])
def test_a_stream_over_the_end_of_the_month_and_of_the_day_is_the_last_months(
    tenant: Tenant, replicas: tuple[Replica, Replica], upstream: Upstream, usage: Any
) -> None:
    """The month ends, by the meter's own stored end, while the stream runs: nothing is cut, and all is paid once."""
    tenant.apply(replicas, limits=Limits(tokens_per_day=50_000), budget=Budget(monthly_nano=400_000))
    ended = threading.Event()
    upstream.events = [delta("before "), ended, delta("after"), *([chunk(choices=[], usage=usage)] if usage else [])]
    clients = [replica.client(tenant.key) for replica in replicas]
    stream = iter(ask(clients[0], stream=True))
    text = next(stream).choices[0].delta.content
    assert upstream.streaming.wait(30)
    ((month, day),) = tenant.sql("SELECT month, day FROM ledger WHERE model <> ''")
    assert until_refused(clients[1], 1).code == "insufficient_quota"  # the stream has reserved all that there is
    tenant.sql("UPDATE meter SET month_ends_at = clock_timestamp(), day_ends_at = clock_timestamp()")
    ask(clients[1])  # the first call of the new month opens it, while the stream goes on
    ((new_month, new_day),) = tenant.sql("SELECT month, day FROM meter WHERE subject = 'tenant'")
    assert new_month > month
    assert new_day > day
    assert tenant.sql("SELECT status FROM ledger WHERE month = %s AND model <> ''", (month,)) == [("reserved",)]
    ended.set()
    text += "".join(part.choices[0].delta.content for part in stream if part.choices)
    assert text == "before after"
    tenant.settled()
    ((given, made, nano),) = tenant.sql(
        "SELECT tokens_in, tokens_out, cost_nano FROM ledger WHERE month = %s AND day = %s AND model <> ''",
        (month, day),
    )
    assert nano == given * 150 + made * 600 > 0
    assert usage is None or (given, made) == (20, 400)
    by_month = dict(tenant.sql("SELECT month, sum(llm_nano) FROM totals WHERE llm_nano > 0 GROUP BY month"))
    assert by_month == {month: nano, new_month: 20 * 150 + 2 * 600}
    # The new month and day hold the second call alone.
    ((spent, taken),) = tenant.sql("SELECT month_nano, day_tokens FROM meter WHERE subject = 'tenant'")
    assert (spent, taken) == (by_month[new_month], 22)
    rows = tenant.sql("SELECT phase, count(*) FROM audit WHERE action = 'chat.completions.create' GROUP BY phase")
    assert dict(rows) == {"intent": 2, "outcome": 2, "event": 1}  # of two calls, and of the refusal
    for client in clients:  # and so the usage says, on each replica
        told = client.get("/usage", options={"params": {"period": f"{month:%Y-%m}"}}, cast_to=httpx.Response).json()
        assert told["total"]["costNano"] == nano


def test_who_waits_as_long_as_told_is_not_refused_again(tenant: Tenant, replicas: tuple[Replica, Replica]) -> None:
    tenant.apply(replicas, limits=Limits(requests_per_minute=20), budget=None)
    client = replicas[0].client(tenant.key)
    raw = client.chat.completions.with_raw_response.create(model="gpt-4o-mini", messages=HELLO)
    assert raw.headers["x-ratelimit-limit-requests"] == "20"
    assert raw.headers["x-ratelimit-remaining-requests"] == "19"
    assert raw.headers["x-ratelimit-reset-requests"].endswith("s")
    assert many(tenant, replicas, 40).count(429) >= 15
    error = until_refused(client)
    headers = error.response.headers
    assert error.code == "rate_limit_exceeded"
    wait = error.body["retryAfter"]
    assert 0 < wait <= 3
    assert error.body["limit"] == "requests"
    assert error.body["remaining"] == 0
    assert int(headers["retry-after"]) >= wait
    assert int(headers["retry-after-ms"]) >= wait * 1000
    time.sleep(wait)
    ask(client)
    # and so the SDK's own back-off succeeds with one further attempt
    until_refused(client)
    ask(replicas[1].client(tenant.key, max_retries=1))
    assert replicas[0].metric("tenantry_rate_limited_total", limit="requests") >= 1


def test_the_minutes_tokens_clamp_an_answer_before_they_refuse(
    tenant: Tenant, replicas: tuple[Replica, Replica], upstream: Upstream
) -> None:
    tenant.apply(replicas, limits=Limits(tokens_per_minute=600), budget=None)
    client = replicas[0].client(tenant.key)
    raw = client.chat.completions.with_raw_response.create(model="gpt-4o-mini", messages=HELLO)
    granted = int(raw.headers["x-tenantry-max-tokens"])
    assert upstream.asked[-1]["max_tokens"] == granted < 500
    assert granted > 300
    # what was not used came back: the next one fits too
    second = client.chat.completions.with_raw_response.create(model="gpt-4o-mini", messages=HELLO)
    assert int(second.headers["x-tenantry-max-tokens"]) > 300
    upstream.answer["usage"] = {"prompt_tokens": 500, "completion_tokens": 200, "total_tokens": 700}
    ask(client)
    with pytest.raises(openai.RateLimitError) as refused:
        ask(client)
    assert refused.value.body["limit"] == "tokens"
    with pytest.raises(openai.APIStatusError, match="600 with its answer would fit") as large:
        client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "many words " * 400}])
    assert large.value.status_code == 413


def test_the_days_tokens(tenant: Tenant, replicas: tuple[Replica, Replica], upstream: Upstream) -> None:
    tenant.apply(replicas, limits=Limits(tokens_per_day=700), budget=None)
    upstream.answer["usage"] = {"prompt_tokens": 600, "completion_tokens": 50, "total_tokens": 650}
    client = replicas[0].client(tenant.key)
    ask(client)
    with pytest.raises(openai.RateLimitError, match="700 tokens a day") as refused:
        ask(replicas[1].client(tenant.key, max_retries=2))
    assert refused.value.body["limit"] == "day"
    wait = refused.value.body["retryAfter"]
    assert 0 < wait <= 86_400
    # The SDK, which does not wait until tomorrow, is refused once and not three times.
    assert wait <= 120 or tenant.sql("SELECT count(*) FROM audit WHERE status = '429'") == [(1,)]


def test_concurrency_is_the_tenants(tenant: Tenant, replicas: tuple[Replica, Replica], upstream: Upstream) -> None:
    tenant.apply(replicas, limits=Limits(concurrency=2), budget=None)
    upstream.gate.clear()
    with ThreadPoolExecutor(3) as pool:
        clients = [replica.client(tenant.key) for replica in replicas]
        running = [pool.submit(ask, client) for client in clients]
        eventually(lambda: len(upstream.asked) == 2)
        with pytest.raises(openai.RateLimitError, match="2 calls run already") as refused:
            ask(clients[0])
        assert refused.value.body["limit"] == "concurrency"
        upstream.gate.set()
        assert [call.result().choices[0].message.content for call in running] == ["Hello there"] * 2
    ask(clients[0])


def test_fifty_parallel_calls_on_a_budget_for_three(
    tenant: Tenant, replicas: tuple[Replica, Replica], three: tuple[Replica, ...], upstream: Upstream
) -> None:
    upstream.all_that_is_granted = True
    upstream.delay = 0.5
    each = 20 * 150 + 500 * 600
    budget = 3 * each
    tenant.apply(three, limits=Limits(), budget=Budget(monthly_nano=budget))
    statuses = many(tenant, three, 50)
    tenant.settled()
    assert set(statuses) == {200, 429}
    assert each <= tenant.spent() <= budget
    client = replicas[0].client(tenant.key, max_retries=2)
    refused = until_refused(client)  # ever shorter answers, until none is worth starting
    assert refused.code == "insufficient_quota"
    assert refused.response.headers["x-should-retry"] == "false"
    assert tenant.spent() <= budget
    # reads go on, and a larger budget opens again by itself
    assert client.files.list().data == []
    assert tenant.sql("SELECT database_queries FROM ledger WHERE kind = 'documents'") == [(1,)]
    told = "SELECT event_type, status FROM audit WHERE action = 'files.list'"
    assert tenant.sql(told) == [("data_access", "200")]
    for path in ("usage", "audit"):
        assert client.get(f"/{path}", cast_to=httpx.Response).status_code == 200
        recorded = "SELECT l.database_queries > 0, a.status FROM ledger l JOIN audit a USING (id) WHERE l.kind = %s"
        assert tenant.sql(recorded, (path,)) == [(True, "200")]
    tenant.configure(budget=Budget(monthly_nano=100 * each))

    def open_again() -> bool:
        try:
            ask(client)
        except openai.RateLimitError:
            return False
        return True

    eventually(open_again)
    assert replicas[0].metric("tenantry_budget_dollars") == pytest.approx(100 * each / 1e9)


def test_a_budget_that_only_alerts_blocks_nothing(
    tenant: Tenant, replicas: tuple[Replica, Replica], upstream: Upstream
) -> None:
    tenant.apply(replicas, limits=Limits(), budget=Budget(monthly_nano=1, on_exceeded="AlertOnly"))
    for _ in range(3):
        ask(replicas[0].client(tenant.key))
    assert tenant.spent() > 1


def test_the_output_is_clamped_to_what_money_allows(
    tenant: Tenant, replicas: tuple[Replica, Replica], upstream: Upstream
) -> None:
    tenant.apply(replicas, limits=Limits(), budget=Budget(monthly_nano=300_000))
    raw = replicas[0].client(tenant.key).chat.completions.with_raw_response.create(model="gpt-4o-mini", messages=HELLO)
    granted = int(raw.headers["x-tenantry-max-tokens"])
    assert 32 <= granted < 500
    assert upstream.asked[-1]["max_tokens"] == granted


def test_a_free_tenants_question_fits_its_minute(stack: Stack) -> None:
    """1,000 tokens a minute hold a small document's ingestion, a question with retrieval, and its answer."""
    free = stack.tenant(
        tier="free",
        limits=Limits(requests_per_minute=20, tokens_per_minute=1000, tokens_per_day=50_000, concurrency=2),
        budget=Budget(monthly_nano=10**9),
    )
    with free.replica() as replica:
        client = replica.client(free.key)
        text = (
            b"# Terms\n\nThe return window for the Falcon drone is 45 days. A drone that was flown can be returned "
            b"too, when it is clean.\n\n# Shipping\n\nShipping is free of charge within the country. Elsewhere it "
            b"costs what the carrier asks for.\n\n# Warranty\n\nMotors are covered for two years."
        )
        file = client.files.create(file=("terms.txt", text), purpose="assistants")
        store = client.vector_stores.create(file_ids=[file.id])
        eventually(lambda: client.vector_stores.retrieve(store.id).file_counts.completed == 1)
        answer = client.chat.completions.create(
            model="gpt-4o-mini", messages=[{"role": "user", "content": "How long can I return a Falcon drone?"}]
        )
        assert "45 days" in answer.choices[0].message.content
        assert answer.choices[0].finish_reason == "stop"


def test_a_document_larger_than_the_minute_paces_itself(stack: Stack) -> None:
    slow = stack.tenant(limits=Limits(tokens_per_minute=12_000))
    with slow.replica() as replica:
        client = replica.client(slow.key)
        text = "\n\n".join(f"Paragraph number {n} says a few words about item {n}." for n in range(780)).encode()
        file = client.files.create(file=("long.txt", text), purpose="assistants")
        store = client.vector_stores.create(file_ids=[file.id])
        eventually(lambda: client.vector_stores.retrieve(store.id).file_counts.completed == 1, timeout=120)
        ((used,),) = slow.sql("SELECT sum(tokens_in) FROM ledger WHERE kind = 'ingestion'")
        assert used > 12_000  # more than a minute holds, and yet nothing failed
