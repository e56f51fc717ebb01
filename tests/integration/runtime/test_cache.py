"""The response cache: one answer for the same question, over replicas, streams and changes; with the official SDK."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from tenantry_runtime import cache
from tenantry_runtime.config import Cache, Limits, Prompt
from tenantry_runtime.service import Service
from tests.integration.runtime.stack import Replica, Tenant, eventually
from tests.integration.runtime.test_documents import QUESTION, add
from tests.integration.runtime.test_limits import until_refused
from tests.integration.runtime.upstream import Upstream, chunk, delta

ON = Cache()
OFF = Cache(mode="Off")
USAGE = {"prompt_tokens": 31, "completion_tokens": 4, "total_tokens": 35}
END = chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])


@pytest.fixture(scope="module")
def tenant(scripted: Tenant, replicas: tuple[Replica, Replica]) -> Iterator[Tenant]:
    before = scripted.configuration
    scripted.apply(replicas, cache=ON, limits=Limits(), budget=None)
    yield scripted
    scripted.apply(replicas, cache=OFF, limits=before.limits, budget=before.budget)


@pytest.fixture(autouse=True)
def empty(request: pytest.FixtureRequest) -> None:
    time.sleep(4 * cache.STORE_SECONDS)  # for what the test before has still to keep
    for name in ("tenant", "home"):
        if name in request.fixturenames:
            request.getfixturevalue(name).sql("TRUNCATE response_cache, ledger, totals, meter")


@pytest.fixture
def client(tenant: Tenant, replicas: tuple[Replica, Replica]) -> openai.OpenAI:
    return replicas[0].client(tenant.key)


@pytest.fixture
def other(tenant: Tenant, replicas: tuple[Replica, Replica]) -> openai.OpenAI:
    """A client of the second replica."""
    return replicas[1].client(tenant.key)


def ask(client: openai.OpenAI, question: str = "Hello?", **options: Any) -> tuple[str | None, Any]:
    """What the header says of the cache, and the answer."""
    raw = client.chat.completions.with_raw_response.create(
        model="gpt-4o-mini", messages=[{"role": "user", "content": question}], **options
    )
    return raw.headers.get(cache.HEADER), raw.parse()


def rows(tenant: Tenant, least: int = 1) -> list[tuple[Any, ...]]:
    """The rows of the cache, once there are so many: an answer does not wait for being kept."""
    return eventually(
        lambda: len(found := tenant.sql("SELECT key, bytes FROM response_cache")) >= least and found, timeout=30
    )


def test_the_same_question_is_answered_once_by_the_model(
    tenant: Tenant, client: openai.OpenAI, other: openai.OpenAI, upstream: Upstream, replicas: tuple[Replica, Replica]
) -> None:
    before = [replicas[1].metric("tenantry_cache_requests_total", result=result) for result in ("hit", "miss")]
    first_said, first = ask(client)
    assert first_said == "miss"
    assert first.model_extra["tenantry"]["cache"] == "miss"
    rows(tenant)
    again_said, again = ask(other)
    assert again_said == "hit"
    assert len(upstream.asked) == 1
    assert again.choices == first.choices
    assert again.id != first.id
    assert (first.usage.total_tokens, again.usage.total_tokens) == (22, 0)
    assert again.usage.model_extra["tenantry"] == {
        "cache": "hit",
        "saved": {"prompt_tokens": 20, "completion_tokens": 2},
    }
    assert again.model_extra["tenantry"]["cache"] == "hit"
    tenant.settled()
    calls = tenant.sql("SELECT kind, model, status, tokens_in, tokens_out, llm_nano FROM ledger ORDER BY at")
    assert calls == [
        ("chat", "gpt-4o-mini", "settled", 20, 2, 20 * 150 + 2 * 600),
        ("chat", "gpt-4o-mini", "settled", 0, 0, 0),
    ]
    assert tenant.sql("SELECT sum(calls), sum(tokens_in) FROM totals") == [(2, 20)]
    told = tenant.sql(
        "SELECT phase, details ->> 'cache', length(details ->> 'prompt_digest'), details ->> 'model', "
        "details ->> 'prices' FROM audit JOIN ledger USING (id) WHERE phase = 'intent' ORDER BY ledger.at"
    )
    assert told == [("intent", said, 64, "gpt-4o-mini", "2026-01-01") for said in ("miss", "hit")]
    assert tenant.sql("SELECT DISTINCT audit.status FROM audit JOIN ledger USING (id) WHERE phase = 'outcome'") == [
        ("200",)
    ]
    after = [replicas[1].metric("tenantry_cache_requests_total", result=result) for result in ("hit", "miss")]
    assert after == [before[0] + 1, before[1]]


def test_a_hit_is_a_request_to_the_limits_and_no_tokens(
    tenant: Tenant, replicas: tuple[Replica, Replica], client: openai.OpenAI, upstream: Upstream
) -> None:
    tenant.apply(replicas, limits=Limits(requests_per_minute=3, tokens_per_day=700, tokens_per_minute=700))
    upstream.answer["usage"] = {"prompt_tokens": 9000, "completion_tokens": 50, "total_tokens": 9050}
    try:
        assert ask(client)[0] == "miss"
        rows(tenant)
        with pytest.raises(openai.RateLimitError) as refused:
            ask(client, "Another question?")
        assert refused.value.body["limit"] in ("day", "tokens")
        assert [ask(client)[0] for _ in range(2)] == ["hit", "hit"]
        assert until_refused(client).body["limit"] == "requests"
        assert len(upstream.asked) == 1
    finally:
        tenant.apply(replicas, limits=Limits())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"extra_headers": {"Cache-Control": "no-store"}}, [None, None]),
        ({"extra_body": {"tenantry": {"cache": False}}}, [None, None]),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}, [None, None]),
        ({"extra_headers": {"Cache-Control": "no-cache"}}, ["miss", "miss"]),
    ],
)
def test_who_asks_for_a_new_answer_gets_one(
    tenant: Tenant, client: openai.OpenAI, upstream: Upstream, options: dict[str, Any], said: list[str | None]
) -> None:
    assert [ask(client, **options)[0] for _ in said] == said
    assert len(upstream.asked) == 2
    kept = bool(said[0])
    if kept:
        rows(tenant)
    assert ask(client)[0] == ("hit" if kept else "miss")
    assert len(upstream.asked) == 3 - kept


def test_a_new_answer_takes_the_place_of_the_old(tenant: Tenant, client: openai.OpenAI, upstream: Upstream) -> None:
    ask(client)
    rows(tenant)
    before = tenant.sql("SELECT answer FROM response_cache")
    upstream.answer["choices"][0]["message"]["content"] = "Hello anew"
    assert ask(client, extra_headers={"Cache-Control": "no-cache"})[1].choices[0].message.content == "Hello anew"
    eventually(lambda: tenant.sql("SELECT answer FROM response_cache") != before, timeout=30)
    assert ask(client)[1].choices[0].message.content == "Hello anew"


def streamed(client: openai.OpenAI, question: str = "Hello?", **options: Any) -> tuple[str | None, str, list[Any]]:
    """The header, the text, and all chunks."""
    raw = client.chat.completions.with_raw_response.create(
        model="gpt-4o-mini", messages=[{"role": "user", "content": question}], stream=True, **options
    )
    chunks = list(raw.parse())
    text = "".join(piece.choices[0].delta.content or "" for piece in chunks if piece.choices)
    return raw.headers.get(cache.HEADER), text, chunks


def test_a_stream_and_a_whole_answer_are_each_others(
    tenant: Tenant, client: openai.OpenAI, other: openai.OpenAI, upstream: Upstream
) -> None:
    upstream.events = [delta("Hel"), delta("lo there"), END, chunk(choices=[], usage=USAGE)]
    said, text, chunks = streamed(client)
    assert (said, text) == ("miss", "Hello there")
    assert chunks[0].model_extra["tenantry"] == {"documents": [], "cache": "miss"}
    rows(tenant)
    said, whole = ask(other)
    assert (said, whole.choices[0].message.content, whole.choices[0].finish_reason) == ("hit", "Hello there", "stop")
    assert whole.usage.model_extra["tenantry"]["saved"] == {"prompt_tokens": 31, "completion_tokens": 4}
    said, text, chunks = streamed(other, stream_options={"include_usage": True})
    assert (said, text) == ("hit", "Hello there")
    assert [piece.usage.total_tokens for piece in chunks if piece.usage] == [0]
    assert chunks[0].model_extra["tenantry"]["cache"] == "hit"
    assert [piece.choices[0].finish_reason for piece in chunks if piece.choices][-1] == "stop"
    assert not [piece for piece in streamed(client)[2] if piece.usage]
    assert len(upstream.asked) == 1
    tenant.settled()
    assert tenant.sql("SELECT sum(llm_nano), count(*) FROM ledger") == [(31 * 150 + 4 * 600, 4)]
    # and the other way round
    assert ask(client, "Who is there?")[0] == "miss"
    rows(tenant, 2)
    assert streamed(client, "Who is there?")[:2] == ("hit", "Hello there")


def test_what_did_not_come_to_its_end_is_not_kept(tenant: Tenant, client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.answer["choices"][0]["finish_reason"] = "length"
    assert [ask(client, "One?")[0] for _ in range(2)] == ["miss", "miss"]
    upstream.events = [delta("Hello")]  # breaks off
    assert [streamed(client, "Two?")[0] for _ in range(2)] == ["miss", "miss"]
    upstream.failures = 1
    with pytest.raises(openai.InternalServerError):
        ask(client, "Three?")
    upstream.answer["choices"][0]["finish_reason"] = "stop"
    assert ask(client, "Three?")[0] == "miss"
    assert len(rows(tenant)) == 1


def test_a_client_that_leaves_a_stream_stops_it(tenant: Tenant, client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.events = [delta("twelve chars"), 300]
    stream = client.chat.completions.create(
        model="gpt-4o-mini", messages=[{"role": "user", "content": "Hello?"}], stream=True
    )
    next(iter(stream))
    assert upstream.streaming.wait(30)
    stream.close()
    assert upstream.stopped.wait(60)
    tenant.settled()
    assert tenant.sql("SELECT status, tokens_out, estimated FROM ledger") == [("settled", 3, True)]
    upstream.reset()
    assert ask(client)[0] == "miss"  # and nobody waits for what was stopped


def at_once(client: openai.OpenAI, upstream: Upstream, count: int) -> list[Any]:
    """The answers (or errors) to the same question asked so often while the provider waits."""
    upstream.gate.clear()

    def one(number: int) -> Any:
        try:
            return streamed(client)[1] if number % 2 else ask(client)[1].choices[0].message.content
        except openai.APIStatusError as error:
            return error.status_code

    with ThreadPoolExecutor(count) as pool:
        first = pool.submit(one, 0)
        eventually(lambda: upstream.asked)
        rest = [pool.submit(one, number) for number in range(1, count)]
        # All are in: one that comes later is a hit, which makes no difference to what is asserted.
        upstream.gate.set()
        return [call.result(60) for call in (first, *rest)]


def test_questions_asked_at_once_are_one_call_upstream(
    tenant: Tenant, replicas: tuple[Replica, Replica], client: openai.OpenAI, upstream: Upstream
) -> None:
    upstream.delay = 1.0  # so that most of them do wait
    assert at_once(client, upstream, 8) == ["Hello there"] * 8
    assert len(upstream.asked) == 1
    tenant.settled()
    assert tenant.sql("SELECT count(*), sum(llm_nano) FROM ledger") == [(8, 20 * 150 + 2 * 600)]
    # each is a request of its own
    tenant.sql("TRUNCATE response_cache")
    upstream.reset()
    upstream.delay = 1.0
    tenant.apply(replicas, limits=Limits(requests_per_minute=5))
    try:
        answers = at_once(client, upstream, 8)
        assert 5 <= answers.count("Hello there") <= 6  # one may have come back within the time that it takes
        assert answers.count(429) == 8 - answers.count("Hello there")
        assert len(upstream.asked) == 1
    finally:
        tenant.apply(replicas, limits=Limits())


def test_who_waits_for_a_call_that_fails_goes_on(tenant: Tenant, client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.delay, upstream.failures = 1.0, 1
    answers = at_once(client, upstream, 4)
    assert answers[0] == 502
    assert answers[1:] == ["Hello there"] * 3
    assert len(upstream.asked) <= 4


def test_users_share_an_answer_only_where_the_tenant_says_so(
    tenant: Tenant, replicas: tuple[Replica, Replica], upstream: Upstream
) -> None:
    key = tenant.add_key("acting", act=True)
    ann, bob = (replicas[0].client(key, default_headers={"X-Tenantry-User": user}) for user in ("ann", "bob"))
    ask(ann)
    rows(tenant)
    assert ask(bob)[0] == "hit"
    tenant.apply(replicas, cache=Cache(scope="User"))
    try:
        assert ask(ann)[0] == "miss"
        rows(tenant, 2)
        assert [ask(user)[0] for user in (ann, bob)] == ["hit", "miss"]
    finally:
        tenant.apply(replicas, cache=ON)


def test_modes(tenant: Tenant, replicas: tuple[Replica, Replica], client: openai.OpenAI, upstream: Upstream) -> None:
    try:
        tenant.apply(replicas, cache=Cache(mode="Deterministic"))
        assert ask(client)[0] is None
        assert ask(client, temperature=0)[0] == "miss"
        assert ask(client, seed=7)[0] == "miss"
        rows(tenant, 2)
        assert ask(client, temperature=0)[0] == "hit"
        tenant.apply(replicas, cache=OFF)
        assert ask(client, temperature=0)[0] is None
    finally:
        tenant.apply(replicas, cache=ON)


def test_an_answer_grows_old(tenant: Tenant, replicas: tuple[Replica, Replica], client: openai.OpenAI) -> None:
    ask(client)
    rows(tenant)
    tenant.sql("UPDATE response_cache SET stored_at = stored_at - interval '3590 seconds'")
    assert ask(client)[0] == "hit"
    tenant.sql("UPDATE response_cache SET stored_at = stored_at - interval '20 seconds'")
    assert ask(client)[0] == "miss"  # after an hour, where the tenant says nothing else
    eventually(lambda: tenant.sql("SELECT 1 FROM response_cache WHERE stored_at > now() - interval '1 minute'"))
    tenant.sql("UPDATE response_cache SET stored_at = stored_at - interval '70 seconds'")
    try:
        tenant.apply(replicas, cache=Cache(ttl_seconds=60))  # a change holds for what is there already
        assert ask(client)[0] == "miss"
    finally:
        tenant.apply(replicas, cache=ON)


def test_a_change_of_the_prompt_is_in_the_next_answer(
    tenant: Tenant, replicas: tuple[Replica, Replica], client: openai.OpenAI, upstream: Upstream
) -> None:
    """Within ten seconds of the change, with the cache on, and without a failed request."""
    ask(client)
    rows(tenant)
    before = tenant.configuration.prompt
    tenant.configure(prompt=Prompt(template=before.template, custom_instructions="Answer in Portuguese."))
    try:
        eventually(lambda: ask(client) and "Answer in Portuguese." in upstream.asked[-1]["messages"][0]["content"], 10)
    finally:
        tenant.apply(replicas, prompt=before)


def test_the_table_is_bounded(tenant: Tenant) -> None:
    async def swept(settings: Cache) -> int:
        service = Service(tenant.credentials)
        await service.store.open()
        try:
            await service.cache.sweep(tenant.configuration.model_copy(update={"cache": settings}))
        finally:
            await service.store.close()
        return int(tenant.sql("SELECT count(*) FROM response_cache")[0][0])

    def fill(count: int, size: int, age: str, version: str = "NULL") -> None:
        tenant.sql(
            "INSERT INTO response_cache SELECT decode(md5(random()::text || n), 'hex'), "
            f"{version}, clock_timestamp() - interval '{age}' - n * interval '1 microsecond', {size}, '' "
            f"FROM generate_series(1, {count}) n"
        )

    assert tenant.sql("SELECT relpersistence FROM pg_class WHERE oid = 'response_cache'::regclass") == [("u",)]
    fill(cache.BATCH + 5, 10, "2 hours")
    fill(7, 10, "1 second")
    fill(3, 10, "1 second", "timestamptz '2020-01-01'")  # of documents that have changed since
    assert asyncio.run(swept(ON)) == 7
    fill(cache.MAX_ROWS, 10, "10 seconds")
    assert asyncio.run(swept(ON)) == cache.MAX_ROWS
    newest = tenant.sql("SELECT key FROM response_cache ORDER BY stored_at DESC, key LIMIT 10")
    tenant.sql("UPDATE response_cache SET bytes = %s", (cache.MAX_BYTES // 10,))
    assert asyncio.run(swept(ON)) == 10
    assert tenant.sql("SELECT key FROM response_cache ORDER BY stored_at DESC, key") == newest
    assert asyncio.run(swept(OFF)) == 0


# --- Documents -----------------------------------------------------------------------------------------------


@pytest.fixture
def documented(home: Tenant, service: Replica, second: Replica) -> Iterator[tuple[openai.OpenAI, openai.OpenAI]]:
    """Clients of two replicas of a tenant with documents."""
    home.apply((service, second), cache=ON)
    yield service.client(home.key), second.client(home.key)
    home.apply((service, second), cache=OFF)


def test_a_deleted_document_is_never_given_again(home: Tenant, documented: tuple[openai.OpenAI, openai.OpenAI]) -> None:
    client, other = documented
    question = str(QUESTION[0]["content"])
    store = client.vector_stores.create(name="docs").id
    file = add(client, store)
    try:
        said, first = ask(client, question)
        assert said == "miss"
        assert "45 days" in first.choices[0].message.content
        rows(home)
        ((searched,),) = home.sql("SELECT count(*) FROM ledger WHERE kind = 'retrieval'")
        said, again = ask(other, question)
        assert said == "hit"
        assert again.choices == first.choices
        assert again.model_extra["tenantry"]["documents"] == first.model_extra["tenantry"]["documents"] != []
        assert home.sql("SELECT count(*) FROM ledger WHERE kind = 'retrieval'") == [(searched,)]  # nothing was embedded
        assert ask(other, question, extra_body={"tenantry": {"retrieval": False}})[0] == "miss"
        rows(home, 2)
    finally:
        client.files.delete(file)
    # gone from the table with the deletion itself, but for what no document had a part in
    assert home.sql("SELECT documents_at FROM response_cache") == [(None,)]
    for one in documented:
        said, after = ask(one, question, stream=False)
        assert "45 days" not in after.choices[0].message.content
        assert after.model_extra["tenantry"]["documents"] == []
    assert ask(other, question, extra_body={"tenantry": {"retrieval": False}})[0] == "hit"
    client.vector_stores.delete(store)


@pytest.mark.parametrize("way", ["update", "detach", "store", "all"])
def test_each_way_to_take_a_document_out_is_in_the_next_answer(
    home: Tenant, documented: tuple[openai.OpenAI, openai.OpenAI], way: str
) -> None:
    client, other = documented
    store = client.vector_stores.create(name="docs").id
    file = add(client, store)
    wanted = {"filters": {"type": "eq", "key": "kind", "value": "test"}, "vectorStoreIds": [store]}
    extra = {"extra_body": {"tenantry": {"retrieval": wanted}}}
    question = str(QUESTION[0]["content"])
    for one, said in ((client, "miss"), (other, "hit")):
        result, answer = ask(one, question, **extra)
        assert (result, "45 days" in answer.choices[0].message.content) == (said, True)
        rows(home)
    if way == "update":
        client.vector_stores.files.update(file, vector_store_id=store, attributes={"kind": "other"})
    elif way == "detach":
        client.vector_stores.files.delete(file, vector_store_id=store)
    elif way == "store":
        client.vector_stores.delete(store)
    else:
        client.delete(f"/files?confirm={home.name}", cast_to=object)
    if way != "update":  # what is deleted is not kept until it is swept either
        assert home.sql("SELECT 1 FROM response_cache WHERE documents_at IS NOT NULL") == []
    for one in documented:
        if way == "store":
            with pytest.raises(openai.NotFoundError):
                ask(one, question, **extra)
        result, answer = ask(one, question, **(extra if way != "store" else {}))
        assert "45 days" not in answer.choices[0].message.content
        assert answer.model_extra["tenantry"]["documents"] == []
    if way != "all":
        client.files.delete(file)
    if way != "store":
        client.vector_stores.delete(store)
