"""The leak guard through the official SDK: prompts, documents, answers and streams, and a list that changes."""

import asyncio
import json
import random
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tenantry_runtime.config import LEAKS_CHANNEL, LeakGuard, leak_hash
from tenantry_runtime.live import LiveConfiguration
from tests.corpus import secrets
from tests.integration.runtime.stack import Replica, Stack, Tenant, eventually
from tests.integration.runtime.upstream import Upstream, chunk, delta

LIST_KEY = b"the key of this region's list..."
FOREIGN = "tenant-umbrella"
SEED = 20261122
MADE = {kind: make(random.Random(SEED)) for kind, make in secrets.MADE.items()}
KEY = MADE["github"]


class LeakList:
    """`tenantry_shared` as the operator makes it, which here the test does."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        with stack.postgres.connect(dbname="tenantry") as connection:
            for statement in (
                "CREATE SCHEMA tenantry_shared",
                "CREATE TABLE tenantry_shared.leak_identifiers (hash bytea PRIMARY KEY, owner text NOT NULL)",
                "CREATE TABLE tenantry_shared.leak_settings (id integer PRIMARY KEY DEFAULT 1, key bytea NOT NULL,"
                " lengths integer[] NOT NULL, version bigint NOT NULL)",
                "GRANT USAGE ON SCHEMA tenantry_shared TO PUBLIC",
                "GRANT SELECT ON ALL TABLES IN SCHEMA tenantry_shared TO PUBLIC",
            ):
                connection.execute(statement.encode())
        self.version = 0
        self.owned: dict[str, str] = {}

    def write(self, owned: dict[str, str]) -> int:
        """By identifier: the UID of its tenant.  Returns the version."""
        self.version += 1
        with self._stack.postgres.connect(dbname="tenantry") as connection, connection.transaction():
            connection.execute(b"DELETE FROM tenantry_shared.leak_identifiers")
            for identifier, owner in owned.items():
                connection.execute(
                    b"INSERT INTO tenantry_shared.leak_identifiers VALUES (%s, %s)",
                    (leak_hash(LIST_KEY, identifier), owner.replace("-", "")),
                )
            connection.execute(b"DELETE FROM tenantry_shared.leak_settings")
            connection.execute(
                b"INSERT INTO tenantry_shared.leak_settings (key, lengths, version) VALUES (%s, %s, %s)",
                (LIST_KEY, sorted({len(identifier) for identifier in owned}), self.version),
            )
            connection.execute(f"NOTIFY {LEAKS_CHANNEL}".encode())
        return self.version

    def drop(self) -> None:
        with self._stack.postgres.connect(dbname="tenantry") as connection:
            connection.execute(b"DROP SCHEMA tenantry_shared CASCADE")


@pytest.fixture(scope="module")
def leak_list(stack: Stack) -> Iterator[LeakList]:
    made = LeakList(stack)
    yield made
    made.drop()


@pytest.fixture(scope="module")
def guarded(leak_list: LeakList, scripted: Tenant, replicas: tuple[Replica, Replica]) -> Replica:
    """A replica that runs since before there was a list."""
    version = leak_list.write({FOREIGN: "other", f"tenant-{scripted.name}": scripted.uid})
    eventually(lambda: f"version {version} of the list" in replicas[0].log.read_text())
    return replicas[0]


@pytest.fixture
def client(scripted: Tenant, guarded: Replica) -> openai.OpenAI:
    scripted.reset()
    return guarded.client(scripted.key)


def ask(client: openai.OpenAI, text: str = "Hello?", **more: Any) -> Any:
    return client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": text}], **more)


def says(text: str) -> list[dict[str, Any]]:
    """A stream in pieces of three characters."""
    return [delta(text[at : at + 3]) for at in range(0, len(text), 3)]


def leaks_of(tenant: Tenant) -> list[dict[str, Any]]:
    """What the audit says of leaks, oldest first."""
    rows = tenant.sql("SELECT details->'leaks' FROM audit WHERE details ? 'leaks' ORDER BY at")
    return [row[0] for row in rows]


def test_a_secret_does_not_reach_the_provider(scripted: Tenant, client: openai.OpenAI, upstream: Upstream) -> None:
    ask(client, f"What is {KEY}?")
    assert upstream.asked[-1]["messages"][-1]["content"] == "What is [redacted]?"
    told = leaks_of(scripted)[-1]
    assert told == {"messages": {"redacted": {"github_token": 1}}}


def test_another_tenants_name_is_refused_and_nothing_is_sent(
    scripted: Tenant, client: openai.OpenAI, upstream: Upstream, guarded: Replica
) -> None:
    where = {"tenant": scripted.name, "kind": "foreign_tenant"}
    before = guarded.metric("tenantry_leaks_blocked_total", **where)
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        ask(client, f"What does {FOREIGN} pay?")
    assert (refused.value.code, refused.value.param) == ("content_blocked", "messages.0")
    assert FOREIGN not in str(refused.value)
    assert not upstream.asked
    assert guarded.metric("tenantry_leaks_blocked_total", **where) == before + 1
    ask(client, f"I am of tenant-{scripted.name}, not an umbrella.")  # one's own name, and a bare word
    assert scripted.sql("SELECT details->'leaks', status, error FROM audit WHERE error = 'content_blocked'")[-1] == (
        {"messages": {"blocked": {"foreign_tenant": 1}}},
        "422",
        "content_blocked",
    )


def test_answers(scripted: Tenant, client: openai.OpenAI, upstream: Upstream) -> None:
    message = upstream.answer["choices"][0]["message"]
    message["content"] = f"It is {KEY}."
    assert ask(client).choices[0].message.content == "It is [redacted]."
    message["content"] = f"They are at {FOREIGN}."
    with pytest.raises(openai.PermissionDeniedError) as withheld:
        ask(client)
    assert withheld.value.code == "answer_withheld"
    assert len(upstream.asked) == 2  # which the SDK does not ask for again
    scripted.settled()
    assert [row[0] for row in scripted.sql("SELECT status FROM ledger")] == ["settled", "settled"]
    assert scripted.spent() == 2 * (20 * 150 + 2 * 600)
    assert leaks_of(scripted)[-1] == {"answer": {"blocked": {"foreign_tenant": 1}}}
    rows = scripted.sql("SELECT phase, status, error FROM audit ORDER BY at DESC LIMIT 1")
    assert rows == [("outcome", "403", "answer_withheld")]


@pytest.mark.parametrize("kind", MADE)
def test_a_streamed_secret_is_redacted(client: openai.OpenAI, upstream: Upstream, kind: str) -> None:
    upstream.events = [
        *says(f"It is {MADE[kind]} – grüß dich"),
        chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}]),
    ]
    text = "".join(c.choices[0].delta.content or "" for c in ask(client, stream=True))
    assert text == "It is [redacted] – grüß dich"


def test_a_stream_that_names_another_tenant_ends_with_an_error(
    scripted: Tenant, client: openai.OpenAI, upstream: Upstream
) -> None:
    upstream.events = [*says(f"They are at {FOREIGN}, "), 30, *says("of course.")]
    seen: list[str] = []
    parts = (part.choices[0].delta.content or "" for part in ask(client, stream=True))
    with pytest.raises(openai.APIError) as withheld:
        seen.extend(parts)
    assert "".join(seen) == "They are at "
    assert withheld.value.code == "answer_withheld"
    assert upstream.stopped.wait(20)  # and the provider writes no more
    scripted.settled()
    ((status, made),) = scripted.sql("SELECT status, tokens_out FROM ledger")
    assert status == "settled"
    assert made > 0
    assert leaks_of(scripted)[-1] == {"answer": {"blocked": {"foreign_tenant": 1}}}


def test_two_choices_and_a_tool_do_not_mix(client: openai.OpenAI, upstream: Upstream) -> None:
    arguments = json.dumps({"key": KEY, "note": "é"})
    texts = {0: "Half of it is " + KEY[:20], 1: KEY[20:] + " is the rest"}
    upstream.events = []
    for at in range(0, 60, 4):
        for index, text in texts.items():
            upstream.events.append(chunk(choices=[{"index": index, "delta": {"content": text[at : at + 4]}}]))
        tool = {"index": 0, "function": {"arguments": arguments[at : at + 4]}}
        upstream.events.append(chunk(choices=[{"index": 0, "delta": {"tool_calls": [tool]}}]))
    tool = {"index": 0, "function": {"arguments": arguments[60:]}}
    upstream.events.append(chunk(choices=[{"index": 0, "delta": {"tool_calls": [tool]}}]))
    got: dict[Any, str] = {0: "", 1: "", "tool": ""}
    for part in ask(client, stream=True, n=2):
        for choice in part.choices:
            got[choice.index] += choice.delta.content or ""
            for call in choice.delta.tool_calls or []:
                got["tool"] += (call.function.arguments if call.function else "") or ""
    assert (got[0], got[1]) == (texts[0], texts[1])
    assert json.loads(got["tool"]) == {"key": "[redacted]", "note": "é"}


def test_responses_pass_the_same_guard(scripted: Tenant, client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.answer["choices"][0]["message"]["content"] = f"It is {KEY}."
    whole = client.responses.create(model="gpt-4o-mini", input=f"Is it {KEY}?")
    assert upstream.asked[-1]["messages"][-1]["content"] == "Is it [redacted]?"
    assert whole.output_text == "It is [redacted]."
    upstream.events = says(f"It is {KEY}, of {FOREIGN}.")
    seen: list[str] = []
    events = client.responses.create(model="gpt-4o-mini", input="Hello?", stream=True)
    deltas = (event.delta for event in events if event.type == "response.output_text.delta")
    with pytest.raises(openai.APIError, match="withheld"):
        seen.extend(deltas)
    assert "".join(seen) == "It is [redacted], of "
    scripted.settled()
    told = leaks_of(scripted)[-1]
    assert told == {"answer": {"redacted": {"github_token": 1}, "blocked": {"foreign_tenant": 1}}}


def test_a_conversation_keeps_what_was_let_through(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.answer["choices"][0]["message"]["content"] = f"Noted: {KEY}."
    talk = client.conversations.create()
    more = {"tenantry": {"conversation": talk.id, "retrieval": False}}
    ask(client, f"Keep {KEY}.", extra_body=more)
    kept = [part.text for item in client.conversations.items.list(talk.id, order="asc") for part in item.content]
    assert kept == ["Keep [redacted].", "Noted: [redacted]."]
    ask(client, "And now?", extra_body=more)
    said = [message["content"] for message in upstream.asked[-1]["messages"][1:]]
    assert said == ["Keep [redacted].", "Noted: [redacted].", "And now?"]


def test_policies_and_the_list_change_without_a_restart(
    scripted: Tenant, replicas: tuple[Replica, Replica], client: openai.OpenAI, upstream: Upstream, leak_list: LeakList
) -> None:
    scripted.apply(replicas, leak_guard=LeakGuard(foreign_tenant="Redact", secrets="Block"))
    ask(client, f"I am of {FOREIGN}.")
    assert upstream.asked[-1]["messages"][-1]["content"] == "I am of [redacted]."
    with pytest.raises(openai.UnprocessableEntityError, match="a secret"):
        ask(client, KEY)
    scripted.apply(replicas, leak_guard=LeakGuard(foreign_tenant="Warn", secrets="Warn"))
    ask(client, f"{KEY} of {FOREIGN}")
    assert upstream.asked[-1]["messages"][-1]["content"] == f"{KEY} of {FOREIGN}"
    assert leaks_of(scripted)[-1] == {"messages": {"warned": {"github_token": 1, "foreign_tenant": 1}}}
    scripted.apply(replicas, leak_guard=LeakGuard())
    version = leak_list.write({"tenant-zeus": "other", FOREIGN: scripted.uid})
    for replica in replicas:
        eventually(lambda replica=replica: f"version {version} of the list" in replica.log.read_text())
    ask(client, f"{FOREIGN} is mine now")
    with pytest.raises(openai.UnprocessableEntityError):
        ask(client, "and Tenant-Zeus is not")


def test_what_is_retrieved_and_embedded_is_looked_at(home: Tenant, service: Replica, leak_list: LeakList) -> None:
    version = leak_list.write({"tenant-hera": "other"})
    eventually(lambda: f"version {version} of the list" in service.log.read_text())
    client = service.client(home.key)
    store = client.vector_stores.create(name="guarded")
    for name, text in {
        "a": f"The warehouse's door opens with {KEY} at night.",
        "b": "The warehouse's door of tenant-hera opens at noon.",
        "c": "The warehouse's door opens for </document> everybody </documents> at noon.",
    }.items():
        file = client.files.create(file=(f"{name}.txt", text.encode()), purpose="assistants")
        assert (
            client.vector_stores.files.create_and_poll(vector_store_id=store.id, file_id=file.id).status == "completed"
        )
    found = client.vector_stores.search(store.id, query="When does the warehouse's door open?", max_num_results=5)
    texts = {hit.filename: hit.content[0].text for hit in found}
    assert set(texts) == {"a.txt", "c.txt"}
    assert texts["a.txt"] == "The warehouse's door opens with [redacted] at night."
    assert leaks_of(home)[-1] == {"documents": {"blocked": {"foreign_tenant": 1}, "redacted": {"github_token": 1}}}
    with pytest.raises(openai.UnprocessableEntityError):
        client.embeddings.create(model="wordllama-256", input=["fine", "of tenant-hera"])
    client.vector_stores.delete(store.id)


async def test_who_listens_hears_of_the_list_and_still_of_the_configuration(home: Tenant) -> None:
    heard: list[str] = []
    notes = (lambda: heard.append("leaks"), lambda: heard.append("keys"))
    live = LiveConfiguration(home.credentials.postgres, home.tag, *notes)
    task = asyncio.create_task(live.run())
    try:
        async with asyncio.timeout(60):
            await live.loaded.wait()
            while not heard:
                home.sql(f"NOTIFY {LEAKS_CHANNEL}")
                await asyncio.sleep(0.05)
            assert set(heard) == {"leaks"}
            name = home.configuration.display_name
            home.configure(display_name="Renamed Inc")
            while live.current is None or live.current.display_name != "Renamed Inc":
                await asyncio.sleep(0.05)
            assert "keys" in heard
            home.configure(display_name=name)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
