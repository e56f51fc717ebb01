"""Identical requests in flight are one upstream call over all replicas, whatever becomes of the one that makes it."""

import asyncio
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import Any

import openai
import psycopg
import pytest
from psycopg.pq import TransactionStatus

from tenantry_runtime import cache, claims
from tenantry_runtime.config import Cache, Documents, Limits, SubjectLimits
from tenantry_runtime.limits import arrays
from tenantry_runtime.service import Service
from tests.integration.runtime.stack import Replica, Stack, Tenant, eventually
from tests.integration.runtime.test_cache import END, USAGE, ask, streamed
from tests.integration.runtime.test_documents import QUESTION, add
from tests.integration.runtime.test_meter import EVENT
from tests.integration.runtime.upstream import Upstream, chunk, delta

COST = 20 * 150 + 2 * 600
"""Nano-dollars of one answer of `upstream`'s, as a stream too where that is `WHOLE`."""
WHOLE = [delta("Hello"), delta(" there"), END, chunk(choices=[], usage={"prompt_tokens": 20, "completion_tokens": 2})]
SOON = claims.LEASE_SECONDS + 10
"""Seconds within which others are answered when a claim has run out, on a busy machine; the patience is 70."""


@pytest.fixture(scope="module")
def tenant(stack: Stack, upstream: Upstream) -> Tenant:
    return stack.tenant(
        provider_url=upstream.url,
        cache=Cache(),
        replicas=3,
        documents=Documents(max_files=50, max_file_bytes=1_000_000),
    )


@pytest.fixture(scope="module")
def three(tenant: Tenant) -> Iterator[tuple[Replica, ...]]:
    with tenant.replica() as one, tenant.replica() as two, tenant.replica() as last:
        yield one, two, last


@pytest.fixture
def clients(tenant: Tenant, three: tuple[Replica, ...]) -> list[openai.OpenAI]:
    time.sleep(4 * cache.STORE_SECONDS)  # for what the test before has still to keep
    tenant.reset()
    tenant.sql("TRUNCATE response_cache, response_claims")
    return [replica.client(tenant.key) for replica in three]


def claimed(tenant: Tenant) -> int:
    return int(tenant.sql("SELECT count(*) FROM response_claims WHERE until > clock_timestamp()")[0][0])


class Flying:
    """Requests under way, each in a thread."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._calls: list[Future[Any]] = []

    def begin(self, client: openai.OpenAI, how: Callable[..., Any] = ask, **options: Any) -> None:
        def one() -> tuple[str | None, Any]:
            try:
                said, answer, *_ = how(client, **options)
            except openai.APIStatusError as error:
                return None, error.status_code
            except openai.APIConnectionError:
                return None, "cut"
            return said, answer if isinstance(answer, str) else answer.choices[0].message.content

        self._calls.append(self._pool.submit(one))

    def answers(self, timeout: float = 60) -> list[tuple[str | None, Any]]:
        """What the header said, and the text, the status of an error, or 'cut'."""
        ends = time.monotonic() + timeout
        return [call.result(max(0.0, ends - time.monotonic())) for call in self._calls]


@contextmanager
def flying(upstream: Upstream) -> Iterator[Flying]:
    with ThreadPoolExecutor(40) as pool:
        try:
            yield Flying(pool)
        finally:
            upstream.gate.set()


@contextmanager
def led(client: openai.OpenAI, upstream: Upstream, how: Callable[..., Any] = ask, **options: Any) -> Iterator[Flying]:
    """While the provider waits, one request has asked it."""
    upstream.gate.clear()
    with flying(upstream) as calls:
        calls.begin(client, how, **options)
        eventually(lambda: upstream.asked)
        yield calls


def test_thirty_questions_to_three_replicas_are_one_call_upstream(
    tenant: Tenant, clients: list[openai.OpenAI], upstream: Upstream
) -> None:
    upstream.delay, upstream.events = 1.5, WHOLE
    with flying(upstream) as calls:
        for number in range(30):
            calls.begin(clients[number % 3], streamed if number % 2 else ask)
        answers = calls.answers()
    assert sorted(answers) == [("hit", "Hello there")] * 29 + [("miss", "Hello there")]
    assert len(upstream.asked) == 1
    tenant.settled()
    assert tenant.sql("SELECT count(*), sum(llm_nano), count(*) FILTER (WHERE llm_nano = 0) FROM ledger") == [
        (30, COST, 29)
    ]
    assert tenant.sql("SELECT sum(calls), sum(llm_nano), sum(tokens_in) FROM totals") == [(30, COST, 20)]
    told = tenant.sql(
        "SELECT phase, count(*), count(*) FILTER (WHERE details ->> 'cache' = 'hit') FROM audit GROUP BY 1 ORDER BY 1"
    )
    assert told == [("intent", 30, 29), ("outcome", 30, 0)]
    assert tenant.sql("SELECT DISTINCT status FROM audit WHERE phase = 'outcome'") == [("200",)]
    assert tenant.sql("SELECT count(*) FROM response_claims") == [(0,)]


@pytest.mark.parametrize("replicas", [1, 3])
def test_only_several_replicas_claim(
    tenant: Tenant, three: tuple[Replica, ...], clients: list[openai.OpenAI], upstream: Upstream, replicas: int
) -> None:
    tenant.apply(three, replicas=replicas)
    try:
        with led(clients[0], upstream) as calls:
            assert claimed(tenant) == (replicas > 1)
            calls.begin(clients[1])
            if replicas == 1:
                eventually(lambda: len(upstream.asked) == 2)
            upstream.gate.set()
            assert [text for _, text in calls.answers()] == ["Hello there"] * 2
        assert len(upstream.asked) == 3 - min(replicas, 2)
    finally:
        tenant.apply(three, replicas=3)


def test_who_leads_dies(tenant: Tenant, clients: list[openai.OpenAI], upstream: Upstream) -> None:
    """By SIGKILL: its claim runs out, and one of the others asks the provider for all of them."""
    with tenant.replica() as mortal, led(mortal.client(tenant.key), upstream) as calls:
        for number in range(8):
            calls.begin(clients[number % 2])
        eventually(lambda: claimed(tenant) == 1)
        # It is renewed while the call is under way.
        ((until,),) = tenant.sql("SELECT until FROM response_claims")
        eventually(lambda: tenant.sql("SELECT until FROM response_claims") > [(until,)])
        assert len(upstream.asked) == 1
        mortal.child.kill()
        upstream.gate.set()
        answers = calls.answers(SOON)
    assert answers[0] == (None, "cut")
    assert [text for _, text in answers[1:]] == ["Hello there"] * 8
    assert len(upstream.asked) == 2
    assert sorted(said for said, _ in answers[1:]) == ["hit"] * 7 + ["miss"]


def test_the_database_cuts_every_connection(tenant: Tenant, clients: list[openai.OpenAI], upstream: Upstream) -> None:
    """What waits asks again over another one; the claim is not lost with them."""
    own = tenant.credentials.postgres.user
    with led(clients[0], upstream) as calls:
        for client in clients[1:]:
            calls.begin(client)
        # Nobody has a connection to ask over for a moment: the claim is renewed afterwards.
        assert tenant.sql("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = %s", (own,))
        ((until,),) = tenant.sql("SELECT until FROM response_claims")
        eventually(lambda: tenant.sql("SELECT until FROM response_claims") > [(until,)])
        upstream.gate.set()
        answers = calls.answers(SOON)
    assert [text for _, text in answers] == ["Hello there"] * 3
    assert len(upstream.asked) == 1


def test_an_answer_that_can_not_be_kept(tenant: Tenant, clients: list[openai.OpenAI], upstream: Upstream) -> None:
    upstream.answer["choices"][0]["finish_reason"] = "length"
    with led(clients[0], upstream) as calls:
        for client in clients[1:]:
            calls.begin(client)
        upstream.gate.set()
        assert calls.answers(SOON) == [("miss", "Hello there")] * 3
    assert len(upstream.asked) == 3
    eventually(lambda: claimed(tenant) == 0)
    # Nor does the next one wait for what this process has just given back.
    assert [ask(clients[0])[0] for _ in range(3)] == ["miss"] * 3


def test_a_provider_that_fails(tenant: Tenant, clients: list[openai.OpenAI], upstream: Upstream) -> None:
    upstream.failures = 1
    with led(clients[0], upstream) as calls:
        for client in clients[1:]:
            calls.begin(client)
        upstream.gate.set()
        answers = calls.answers(SOON)
    assert [text for _, text in answers] == [502, "Hello there", "Hello there"]
    assert len(upstream.asked) <= 3
    eventually(lambda: claimed(tenant) == 0)


def test_a_refusal_leaves_no_claim(
    tenant: Tenant, three: tuple[Replica, ...], clients: list[openai.OpenAI], upstream: Upstream
) -> None:
    key = tenant.add_key("acting", act=True)
    ann, bob = (three[n].client(key, default_headers={"X-Tenantry-User": user}) for n, user in enumerate(("ann", "bo")))
    tenant.apply(three, limits=Limits(per_user=SubjectLimits(requests_per_minute=1)))
    try:
        assert ask(ann, "Another question?")[0] == "miss"
        with flying(upstream) as calls:
            for _ in range(3):
                calls.begin(ann)
            assert calls.answers(SOON) == [(None, 429)] * 3
        assert tenant.sql("SELECT count(*) FROM response_claims") == [(0,)]
        assert ask(bob)[0] == "miss"
    finally:
        tenant.apply(three, limits=Limits())


def test_a_stream_is_waited_for_by_whole_answers_elsewhere(clients: list[openai.OpenAI], upstream: Upstream) -> None:
    more = Event()
    upstream.events = [delta("Hel"), more, delta("lo there"), END, chunk(choices=[], usage=USAGE)]
    with flying(upstream) as calls:
        calls.begin(clients[0], streamed)
        assert upstream.streaming.wait(30)
        for how in (ask, streamed):
            calls.begin(clients[1], how)
            calls.begin(clients[2], how)
        more.set()
        answers = calls.answers()
    assert answers == [("miss", "Hello there"), *[("hit", "Hello there")] * 4]
    assert len(upstream.asked) == 1


def test_a_client_that_leaves_its_stream_lets_the_others_go_on(
    tenant: Tenant, clients: list[openai.OpenAI], upstream: Upstream
) -> None:
    upstream.events = [delta("twelve chars"), 300]
    stream = clients[0].chat.completions.create(
        model="gpt-4o-mini", messages=[{"role": "user", "content": "Hello?"}], stream=True
    )
    next(iter(stream))
    assert upstream.streaming.wait(30)
    with flying(upstream) as calls:
        calls.begin(clients[1])
        stream.close()
        assert calls.answers(SOON) == [("miss", "Hello there")]
    assert upstream.stopped.wait(30)
    assert len(upstream.asked) == 2


def test_who_asks_for_a_new_answer_waits_for_nobody(
    tenant: Tenant, clients: list[openai.OpenAI], upstream: Upstream
) -> None:
    with led(clients[0], upstream) as calls:
        calls.begin(clients[1], extra_headers={"Cache-Control": "no-cache"})
        eventually(lambda: len(upstream.asked) == 2)
        assert claimed(tenant) == 1
        upstream.gate.set()
        assert calls.answers() == [("miss", "Hello there")] * 2
    with led(clients[0], upstream, extra_headers={"Cache-Control": "no-cache"}) as calls:
        assert claimed(tenant) == 0
        upstream.gate.set()
        calls.answers()


def test_documents_that_change_meanwhile(tenant: Tenant, clients: list[openai.OpenAI], upstream: Upstream) -> None:
    """An answer from those of before is not given to who asked after the change."""
    with led(clients[0], upstream) as calls:
        tenant.sql("UPDATE documents_state SET changed_at = clock_timestamp()")
        calls.begin(clients[1])
        upstream.gate.set()
        assert calls.answers() == [("miss", "Hello there")] * 2
    assert len(upstream.asked) == 2


def test_calls_that_search_documents_are_one_too(
    tenant: Tenant, clients: list[openai.OpenAI], upstream: Upstream
) -> None:
    question = str(QUESTION[0]["content"])
    store = clients[0].vector_stores.create(name="docs").id
    file = add(clients[0], store)
    extra = {"question": question, "extra_body": {"tenantry": {"retrieval": {"minScore": -1}}}}
    try:
        for client in clients:
            ask(client, "So that each replica knows of them?")
        tenant.reset()
        tenant.sql("TRUNCATE response_cache")
        upstream.reset()
        upstream.delay, upstream.events = 1.0, WHOLE
        with flying(upstream) as calls:
            for number in range(12):
                calls.begin(clients[number % 3], streamed if number % 2 else ask, **extra)
            answers = calls.answers()
        assert sorted(answers) == [("hit", "Hello there")] * 11 + [("miss", "Hello there")]
        assert len(upstream.asked) == len(upstream.embedded) == 1
        assert "Falcon drone" in upstream.asked[0]["messages"][0]["content"]
        tenant.settled()
        assert tenant.sql("SELECT kind, count(*), sum(llm_nano) FROM ledger GROUP BY 1 ORDER BY 1") == [
            ("chat", 12, COST),
            ("retrieval", 1, 5 * 20),
        ]
        assert claimed(tenant) == 0
    finally:
        clients[0].files.delete(file)
        clients[0].vector_stores.delete(store)


def test_users_apart_have_claims_apart(
    tenant: Tenant, three: tuple[Replica, ...], clients: list[openai.OpenAI], upstream: Upstream
) -> None:
    key = tenant.add_key("for others", act=True)
    tenant.apply(three, cache=Cache(scope="User"))
    ann, bob = (
        three[n].client(key, default_headers={"X-Tenantry-User": user}) for n, user in enumerate(("ann", "bob"))
    )
    try:
        with led(ann, upstream) as calls:
            calls.begin(bob)
            eventually(lambda: len(upstream.asked) == 2)
            assert claimed(tenant) == 2
            upstream.gate.set()
            assert calls.answers() == [("miss", "Hello there")] * 2
    finally:
        tenant.apply(three, cache=Cache())


async def test_batches_of_two_replicas_wait_for_nobody_in_a_circle(
    tenant: Tenant, three: tuple[Replica, ...], clients: list[openai.OpenAI], upstream: Upstream
) -> None:
    """Each batch is one transaction of up to 32 calls; the same questions come in another order to each replica."""
    upstream.delay = 0.2
    questions = [f"Question {number}?" for number in range(48)]
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    before = tenant.sql(deadlocks)
    calm = [replica.log.read_text().count("is given up") for replica in three]

    async def answered(client: openai.AsyncOpenAI, question: str) -> str | None:
        answer = await client.chat.completions.create(
            model="gpt-4o-mini", messages=[{"role": "user", "content": question}]
        )
        return answer.choices[0].message.content

    async with (
        openai.AsyncOpenAI(base_url=f"{three[0].url}/v1", api_key=tenant.key, max_retries=0, timeout=60) as one,
        openai.AsyncOpenAI(base_url=f"{three[1].url}/v1", api_key=tenant.key, max_retries=0, timeout=60) as two,
    ):
        for turn in range(4):
            upstream.asked.clear()
            # The first calls of a tenant have no meter to lock yet.
            tenant.sql("TRUNCATE response_cache" if turn else "TRUNCATE response_cache, ledger, totals, meter")
            own = [f"{question} {turn}" for question in questions]
            answers = await asyncio.gather(
                *(answered(one, question) for question in own),
                *(answered(two, question) for question in reversed(own)),
            )
            assert answers == ["Hello there"] * 96
            assert len(upstream.asked) == 48
    assert tenant.sql(deadlocks) == before
    assert [replica.log.read_text().count("is given up") for replica in three] == calm


async def test_a_process_keeps_and_gives_back_what_it_has_claimed(tenant: Tenant, clients: list[openai.OpenAI]) -> None:
    service = Service(tenant.credentials)
    await service.store.open()
    mine = service.cache.claims
    running = asyncio.create_task(mine.run())
    try:
        one, two, other = claims.Claim(b"1"), claims.Claim(b"2"), claims.Claim(b"3")
        for claim, seconds in ((one, 60), (two, 60), (other, -120)):
            tenant.sql(
                "INSERT INTO response_claims VALUES (%s, %s, clock_timestamp() + make_interval(secs => %s))",
                (claim.key, claim.owner, seconds),
            )
        mine.hold(one)
        late = "SELECT key FROM response_claims WHERE until < clock_timestamp() + interval '30 seconds' ORDER BY key"
        async with asyncio.timeout(30):
            while await asyncio.to_thread(tenant.sql, late) != [(b"1",), (b"3",)]:  # renewed, for a shorter time
                await asyncio.sleep(0.1)
        mine.give_back(one)
        mine.give_back(claims.Claim(two.key))  # another's
        again = await mine.make(one.key)
        assert again.owner != one.owner
        left = "SELECT key FROM response_claims ORDER BY key"
        assert await asyncio.to_thread(tenant.sql, left) == [(b"2",), (b"3",)]
        await service.cache.sweep(tenant.configuration)
        assert await asyncio.to_thread(tenant.sql, left) == [(b"2",)]
    finally:
        running.cancel()
        await service.store.close()


# --- The function --------------------------------------------------------------------------------------------


class Caller:
    """Calls claim_and_reserve as the service does, over a connection of its own."""

    def __init__(self, tenant: Tenant) -> None:
        self.connection = tenant.connect()
        self.connection.autocommit = True

    def ask(self, key: bytes = b"k", searches: bool = False, owner: uuid.UUID | None = None, **limits: Any) -> Any:
        """The columns `answer`, `claimed` and `outcome`."""
        look = (owner or uuid.uuid4(), 5.0, key, 3600, 5, searches)
        call = (uuid.uuid4(), "key", "key", "user", "chat", "gpt", 1, True, 10, 20, 20, 1, 0, 100, 10, "", 60.0, "UTC")
        values = (*look, *call, *arrays(Limits(**limits)), None, *EVENT, "{}")
        statement = f"SELECT answer, claimed, outcome FROM claim_and_reserve({', '.join(['%s'] * 36)})"
        return self.connection.execute(statement.encode(), values).fetchall()[0]

    def sql(self, statement: str, values: Any = None) -> Any:
        return self.connection.execute(statement.encode(), values)


@pytest.fixture
def callers(tenant: Tenant, clients: list[openai.OpenAI]) -> Iterator[tuple[Caller, Caller]]:
    both = Caller(tenant), Caller(tenant)
    yield both
    for caller in both:
        caller.connection.close()


def test_one_claims_and_reserves(callers: tuple[Caller, Caller], tenant: Tenant) -> None:
    one, two = callers
    owner = uuid.uuid4()
    assert one.ask(owner=owner) == (None, True, "ok")
    assert two.ask() == (None, False, None)
    assert two.ask(b"other") == (None, True, "ok")
    assert one.ask(owner=owner) == (None, True, "ok")  # asked a second time, since the answer was lost
    assert tenant.sql("SELECT count(*) FROM ledger") == [(3,)]
    two.sql("UPDATE response_claims SET until = clock_timestamp() WHERE key = 'k'")
    assert two.ask() == (None, True, "ok")  # it has run out
    assert one.ask(owner=owner) == (None, False, None)
    two.sql("INSERT INTO response_cache VALUES ('k', NULL, clock_timestamp(), 1, 'kept')")
    assert one.ask() == ("kept", None, None)


def test_a_refused_call_claims_nothing(callers: tuple[Caller, Caller], tenant: Tenant) -> None:
    assert callers[0].ask(requests_per_minute=0) == (None, False, "too_large")
    assert tenant.sql("SELECT count(*) FROM response_claims") == [(0,)]
    assert callers[1].ask() == (None, True, "ok")


def test_who_searches_first_claims_without_reserving(callers: tuple[Caller, Caller], tenant: Tenant) -> None:
    one, two = callers
    assert one.ask(searches=True) == (None, True, "ok")  # there is nothing to be found
    tenant.sql(
        "SET session_replication_role = replica; "  # without a store and a file
        "INSERT INTO vector_store_files (id, store_id, file_id, status, key_uid, key_name, user_name) "
        "VALUES (gen_random_uuid(), 'vs', 'f', 'completed', '', '', '')"
    )
    try:
        assert one.ask(b"2", searches=True) == (None, True, None)
        assert two.ask(b"2", searches=True) == (None, False, None)
        assert two.ask(b"3") == (None, True, "ok")
    finally:
        tenant.sql("DELETE FROM vector_store_files")


def test_what_is_committed_while_the_lock_is_waited_for_is_seen(callers: tuple[Caller, Caller], tenant: Tenant) -> None:
    """A claim, and an answer that is stored as its claim is given back."""
    one, two = callers
    waits = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
    one.ask(b"so that there is a meter")
    for stored in (False, True):
        one.connection.autocommit = False
        assert one.ask(b"stored" if stored else b"claimed") == (None, True, "ok")
        with ThreadPoolExecutor(1) as pool:
            later = pool.submit(two.ask, b"stored" if stored else b"claimed")
            eventually(lambda: tenant.sql(waits, (two.connection.info.backend_pid,)) == [(1,)])
            if stored:
                one.sql("DELETE FROM response_claims WHERE key = 'stored'")
                one.sql("INSERT INTO response_cache VALUES ('stored', NULL, clock_timestamp(), 1, 'kept')")
            one.connection.commit()
            assert later.result(30) == (None, False, None)
        one.connection.autocommit = True
    assert two.ask(b"stored") == ("kept", None, None)
    assert two.connection.info.transaction_status == TransactionStatus.IDLE


def test_the_service_may_do_this_and_no_more(tenant: Tenant, clients: list[openai.OpenAI]) -> None:
    own = tenant.credentials.postgres
    with psycopg.connect(
        host=own.host, port=own.port, dbname=own.database, user=own.user, password=own.password.get_secret_value(),
        options=f"-c search_path={tenant.schema}", autocommit=True,
    ) as connection:  # fmt: skip
        values = (uuid.uuid4(), 5.0, b"k", 3600, 5, "UTC")
        row = connection.execute(f"SELECT claimed FROM {'look_and_claim'}(%s, %s, %s, %s, %s, %s)".encode(), values)
        assert row.fetchall() == [(True,)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("TRUNCATE response_claims")
