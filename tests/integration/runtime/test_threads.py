"""Chat that goes on from a conversation: what the model is sent, and what the conversation holds after it."""

import random
import threading
from typing import Any

import openai
import pytest

from tenantry_runtime import conversations
from tenantry_runtime.config import Limits
from tests.corpus import secrets
from tests.integration.runtime.stack import Replica, Tenant, eventually
from tests.integration.runtime.upstream import Upstream, chunk, delta

HELLO = {"role": "user", "content": "Hello"}
ANSWER = {"role": "assistant", "content": "Hi, I am here."}
END = chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])


@pytest.fixture
def client(scripted: Tenant, replicas: tuple[Replica, Replica]) -> openai.OpenAI:
    return replicas[0].client(scripted.key)


def items(client: openai.OpenAI, conversation: str) -> list[Any]:
    return list(client.conversations.items.list(conversation, order="asc", limit=100))


def texts(client: openai.OpenAI, conversation: str) -> list[str]:
    return [item.content[0].text for item in items(client, conversation) if item.type == "message"]


def say(client: openai.OpenAI, conversation: str, text: str = "And now?", **more: Any) -> Any:
    return client.chat.completions.create(
        model="gpt-4o-mini",
        messages=[{"role": "user", "content": text}],
        extra_body={"tenantry": {"conversation": conversation}},
        **more,
    )


def test_what_was_said_goes_before_and_the_answer_is_added(client: openai.OpenAI, upstream: Upstream) -> None:
    made = client.conversations.create(items=[HELLO, ANSWER])
    answer = client.chat.completions.create(
        model="gpt-4o-mini",
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "And now?"}],
        extra_body={"tenantry": {"conversation": made.id}},
    )
    system, *rest = upstream.asked[-1]["messages"]
    assert system["role"] == "system"
    assert rest == [{"role": "system", "content": "Be brief."}, HELLO, ANSWER, {"role": "user", "content": "And now?"}]
    assert texts(client, made.id) == ["Hello", "Hi, I am here.", "And now?", "Hello there"]
    told = answer.model_extra["tenantry"]["conversation"]
    last = items(client, made.id)[-1]
    assert told == {"id": made.id, "answer": last.id, "leftOut": 0, "stored": True}
    assert (last.role, last.status) == ("assistant", "completed")
    rating = client.post(f"/conversations/{made.id}/items/{last.id}/rating", body={"rating": "down"}, cast_to=object)
    assert isinstance(rating, dict)
    assert rating["rating"] == "down"
    client.conversations.delete(made.id)


def test_a_streams_answer_is_added(client: openai.OpenAI, upstream: Upstream) -> None:
    made = client.conversations.create()
    upstream.events = [delta("Hello"), delta(" there"), END]
    with client.chat.completions.with_streaming_response.create(
        model="gpt-4o-mini", messages=[HELLO], stream=True, extra_body={"tenantry": {"conversation": made.id}}
    ) as answer:
        assert answer.headers["x-tenantry-left-out"] == "0"
        item = answer.headers["x-tenantry-answer-item"]
        assert b"[DONE]" in answer.read()
    assert texts(client, made.id) == ["Hello", "Hello there"]
    last = items(client, made.id)[-1]
    assert (last.id, last.status) == (item, "completed")
    client.conversations.delete(made.id)


def test_what_was_produced_is_kept_where_the_client_goes_away(client: openai.OpenAI, upstream: Upstream) -> None:
    made = client.conversations.create()
    half = "Half of a sentence, and then nothing more."
    upstream.events = [delta(half), 300]
    stream = say(client, made.id, stream=True)
    next(iter(stream))
    assert upstream.streaming.wait(30)
    stream.close()
    question, answer = eventually(lambda: texts(client, made.id))
    assert question == "And now?"
    assert answer  # all but what the leak guard had not let through yet
    assert half.startswith(answer)
    assert items(client, made.id)[-1].status == "incomplete"
    client.conversations.delete(made.id)


def test_a_call_that_fails_adds_nothing(client: openai.OpenAI, upstream: Upstream) -> None:
    made = client.conversations.create(items=[HELLO])
    upstream.status = 500
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError):
            say(client, made.id, stream=stream)
    assert texts(client, made.id) == ["Hello"]
    client.conversations.delete(made.id)


def test_the_newest_that_fit_are_sent(
    scripted: Tenant, replicas: tuple[Replica, Replica], client: openai.OpenAI, upstream: Upstream
) -> None:
    made = client.conversations.create()
    said = [{"role": ("user", "assistant")[n % 2], "content": f"{n:02} " + "word " * 20} for n in range(20)]
    client.conversations.items.create(made.id, items=said)
    scripted.apply(replicas, limits=Limits(tokens_per_minute=1000))
    answer = say(client, made.id, max_tokens=20)
    sent = upstream.asked[-1]["messages"][1:-1]
    left_out = answer.model_extra["tenantry"]["conversation"]["leftOut"]
    assert sent == said[left_out:]
    assert 5 <= len(sent) <= 10  # 300 tokens, of about 33 each
    assert len(items(client, made.id)) == 22  # all are kept
    scripted.apply(replicas, limits=Limits())
    client.conversations.delete(made.id)


def test_the_leak_guard_looks_at_what_was_said_and_at_what_is_kept(client: openai.OpenAI, upstream: Upstream) -> None:
    key = secrets.MADE["github"](random.Random(5))
    made = client.conversations.create(items=[{"role": "user", "content": f"My token is {key}."}])
    upstream.answer["choices"][0]["message"]["content"] = f"You said {key}."
    say(client, made.id, f"It is {key}, is it not?")
    assert key not in str(upstream.asked[-1])
    assert "My token is" in str(upstream.asked[-1])
    before, question, answer = texts(client, made.id)
    assert key in before  # the user's own words, as they were put there
    assert key not in question + answer
    assert (question[:5], answer[:8]) == ("It is", "You said")
    client.conversations.delete(made.id)


def test_two_calls_at_once_are_put_in_order_and_none_is_lost(
    scripted: Tenant, replicas: tuple[Replica, Replica], upstream: Upstream
) -> None:
    clients = [replica.client(scripted.key) for replica in replicas]
    made = clients[0].conversations.create().id
    upstream.gate.clear()
    upstream.events = [delta("Hello there"), END]

    def ask(number: int) -> None:
        answer = say(clients[number % 2], made, f"question {number}", stream=number % 3 == 0)
        if number % 3 == 0:
            list(answer)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(upstream.asked) == 6)
    upstream.gate.set()
    for thread in threads:
        thread.join()
    found = texts(clients[0], made)
    assert sorted(found[::2]) == [f"question {number}" for number in range(6)]
    assert found[1::2] == ["Hello there"] * 6  # each question is followed by its answer
    clients[0].conversations.delete(made)


def test_calls_of_functions_go_on(client: openai.OpenAI, upstream: Upstream) -> None:
    made = client.conversations.create()
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    told = {"role": "assistant", "content": None, "tool_calls": [call]}
    upstream.answer["choices"] = [{"index": 0, "message": told, "finish_reason": "tool_calls"}]
    say(client, made.id, "Use f.", tools=tools)
    assert [item.type for item in items(client, made.id)] == ["message", "function_call"]

    upstream.reset()
    say(client, made.id, "Never mind.", tools=tools)  # the call stays unanswered: no provider would take it
    assert [message["role"] for message in upstream.asked[-1]["messages"]] == ["system", "user", "user"]

    output = {"role": "tool", "tool_call_id": "call_1", "content": "done"}
    client.chat.completions.create(
        model="gpt-4o-mini", messages=[output], tools=tools, extra_body={"tenantry": {"conversation": made.id}}
    )
    assert upstream.asked[-1]["messages"][-2:] == [told, output]
    say(client, made.id, "Thanks.", tools=tools)
    sent = upstream.asked[-1]["messages"]
    assert sent[sent.index(told) + 1] == output
    client.conversations.delete(made.id)


def test_who_may_not_go_on_is_refused_before_the_model_is_asked(
    scripted: Tenant, client: openai.OpenAI, upstream: Upstream
) -> None:
    made = client.conversations.create(items=[HELLO])
    other = client.with_options(api_key=scripted.add_key("someone", user="someone"))
    with pytest.raises(openai.NotFoundError):
        say(other, made.id)
    with pytest.raises(openai.NotFoundError):
        say(client, "conv_unknown")
    lacking = client.with_options(api_key=scripted.add_key("chat-only-2", scopes=("chat",)))
    with pytest.raises(openai.PermissionDeniedError, match="scope conversations"):
        say(lacking, made.id)
    for wrong in ({"n": 2}, {"conversation": 7}):
        own = {"conversation": wrong.pop("conversation", made.id)}
        with pytest.raises(openai.UnprocessableEntityError):
            client.chat.completions.create(model="gpt-4o-mini", messages=[HELLO], extra_body={"tenantry": own, **wrong})
    scripted.sql("UPDATE conversations SET items = %s WHERE id = %s", (conversations.MAX_ITEMS - 1, made.id))
    with pytest.raises(openai.PermissionDeniedError) as full:
        say(client, made.id)
    assert full.value.code == "conversation_full"
    assert upstream.asked == []
    client.conversations.delete(made.id)


def test_an_answer_whose_conversation_is_deleted_meanwhile_is_given(client: openai.OpenAI, upstream: Upstream) -> None:
    made = client.conversations.create()
    upstream.gate.clear()
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(say(client, made.id)))
    asking.start()
    eventually(lambda: upstream.asked)
    client.conversations.delete(made.id)
    upstream.gate.set()
    asking.join()
    assert answers[0].choices[0].message.content == "Hello there"
    assert not answers[0].model_extra["tenantry"]["conversation"]["stored"]
