"""A provider that does not say what a call used: it is counted with a tokenizer, and the row says so."""

from collections.abc import Callable
from typing import Any

import openai
import pytest

from tenantry_runtime.config import Budget, Limits
from tenantry_runtime.tokenizer import count
from tests.integration.runtime.stack import Replica, Tenant
from tests.integration.runtime.upstream import Upstream, chunk, delta

SAID = "Refunds take thirty days, counted from the day on which the goods came back to us."
HELLO: list[Any] = [{"role": "user", "content": "Hello?"}]


@pytest.fixture(scope="module")
def tenant(scripted: Tenant, replicas: tuple[Replica, Replica]) -> Tenant:
    scripted.apply(replicas, limits=Limits(), budget=Budget(monthly_nano=10**9))
    return scripted


@pytest.fixture
def client(tenant: Tenant, replicas: tuple[Replica, Replica]) -> openai.OpenAI:
    tenant.settled()
    tenant.reset()
    return replicas[0].client(tenant.key)


def whole(client: openai.OpenAI, upstream: Upstream) -> None:
    client.chat.completions.create(model="gpt-4o-mini", messages=HELLO)


def streamed(client: openai.OpenAI, upstream: Upstream) -> None:
    for _ in client.chat.completions.create(model="gpt-4o-mini", messages=HELLO, stream=True):
        pass


def cut(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.events = [*upstream.events, 300, delta("never sent")]
    stream = client.chat.completions.create(model="gpt-4o-mini", messages=HELLO, stream=True)
    next(iter(stream))
    assert upstream.streaming.wait(30)
    stream.close()
    assert upstream.stopped.wait(60)


def responded(client: openai.OpenAI, upstream: Upstream) -> None:
    client.responses.create(model="gpt-4o-mini", input="Hello?", store=False)


@pytest.mark.parametrize("ask", [whole, streamed, cut, responded])
def test_chat_is_counted(
    tenant: Tenant, client: openai.OpenAI, upstream: Upstream, ask: Callable[[openai.OpenAI, Upstream], None]
) -> None:
    del upstream.answer["usage"]
    upstream.answer["choices"][0]["message"]["content"] = SAID
    upstream.events = [delta(SAID[at : at + 7]) for at in range(0, len(SAID), 7)]
    ask(client, upstream)
    tenant.settled()
    made, by = count("gpt-4o-mini", [SAID])
    ((given, out, cost, estimated),) = tenant.sql("SELECT tokens_in, tokens_out, llm_nano, estimated FROM ledger")
    (asked,) = upstream.asked
    assert (out, estimated) == (made, True)
    sent, _ = count("gpt-4o-mini", [message["content"] for message in asked["messages"]])
    assert given == sent + 4 * len(asked["messages"]) + 3  # a role is one token, and OpenAI's frame three
    assert cost == given * 150 + out * 600
    ((told,),) = tenant.sql("SELECT details FROM audit WHERE phase = 'outcome'")
    assert told["counted_by"] == by == "o200k_base"


def test_a_tools_call_is_output(tenant: Tenant, client: openai.OpenAI, upstream: Upstream) -> None:
    called = {"index": 0, "id": "c", "type": "function", "function": {"name": "look", "arguments": '{"where": '}}
    more = {"index": 0, "function": {"arguments": '"here"}'}}
    upstream.events = [
        chunk(choices=[{"index": 0, "delta": {"tool_calls": [piece]}, "finish_reason": None}])
        for piece in (called, more)
    ]
    streamed(client, upstream)
    tenant.settled()
    made, _ = count("gpt-4o-mini", ["look", '{"where": "here"}'])
    assert tenant.sql("SELECT tokens_out, estimated FROM ledger") == [(made, True)]


def test_embeddings_are_counted(tenant: Tenant, client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.tells_usage = False
    client.embeddings.create(model="wordllama-256", input=[SAID, "one more"])
    given, _ = count("wordllama-256", [SAID, "one more"])
    assert tenant.sql("SELECT tokens_in, llm_nano, estimated FROM ledger") == [(given, given * 20, True)]


def test_what_the_provider_says_is_not_counted_again(tenant: Tenant, client: openai.OpenAI, upstream: Upstream) -> None:
    whole(client, upstream)
    ((told,),) = tenant.sql("SELECT details FROM audit WHERE phase = 'outcome'")
    assert "counted_by" not in told
    assert tenant.sql("SELECT tokens_in, tokens_out, estimated FROM ledger") == [(20, 2, False)]
