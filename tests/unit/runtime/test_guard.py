"""The leak guard on requests, passages and answers, without servers."""

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantry_runtime import chat_request, errors
from tenantry_runtime.config import Compliance, LeakGuard, leak_hash
from tenantry_runtime.guard import BETWEEN, NOT_TEXT, Guard, policies
from tenantry_runtime.guard_stream import GuardedStream
from tenantry_runtime.leaks import Detector, apply
from tenantry_runtime.prompt import Passage
from tests.unit.runtime.configuration import configuration
from tests.unit.runtime.test_leaks import TEXTS, identifiers

KEY = "AK" + "IA" + "Q3R5S7T2V4W6X3Y5"
FOREIGN = "tenant-umbrella"
LIST_KEY = b"the key of a list, of this test."


def a_call(foreign: str = "Block", secrets: str = "Redact", level: str = "Basic") -> Any:
    guard = Guard(SimpleNamespace(), "0" * 32)  # type: ignore[arg-type]
    guard.detector = Detector(identifiers(FOREIGN))
    guard.loaded.set()
    counted = Counter[str]()
    metrics = SimpleNamespace(leak=lambda _, kind, count: counted.update({kind: count}))
    return SimpleNamespace(
        service=SimpleNamespace(guard=guard, metrics=metrics),
        configuration=configuration(
            leak_guard=LeakGuard(foreign_tenant=foreign, secrets=secrets), compliance=Compliance(logging_level=level)
        ),
        event=SimpleNamespace(basic={}, full={}),
        counted=counted,
    )


def a_request(call: Any, messages: list[dict[str, Any]], **more: Any) -> chat_request.ChatRequest:
    read = chat_request.read({"messages": messages, **more}, call.configuration)
    return asyncio.run(call.service.guard.request(call, read))


def test_a_prompt_is_redacted_wherever_its_text_is() -> None:
    call = a_call("Redact")
    tool = {"type": "function", "function": {"name": "f", "description": f"use {KEY}", "parameters": {}}}
    made = {"id": KEY, "type": "function", "function": {"name": "f", "arguments": f'{{"x": "{KEY}"}}'}}
    request = a_request(
        call,
        [
            {"role": "user", "content": [{"type": "text", "text": f"a {KEY}"}]},
            {"role": "assistant", "content": None, "tool_calls": [made]},
            {"role": "tool", "tool_call_id": KEY, "content": f"of {FOREIGN}"},
        ],
        tools=[tool],
    )
    first, second, third = request.messages
    assert first["content"][0]["text"] == "a [redacted]"
    assert second["tool_calls"][0]["function"]["arguments"] == '{"x": "[redacted]"}'
    assert second["tool_calls"][0]["id"] == third["tool_call_id"] == KEY  # what ties them together stays
    assert third["content"] == "of [redacted]"
    assert request.passed["tools"][0]["function"]["description"] == "use [redacted]"
    assert call.event.basic["leaks"] == {"messages": {"redacted": {"aws_key": 3, "foreign_tenant": 1}}}
    assert call.counted == {"aws_key": 3, "foreign_tenant": 1}


@pytest.mark.parametrize("name", sorted(NOT_TEXT))
def test_a_property_of_a_schema_is_looked_into_whatever_its_name(name: str) -> None:
    properties = {name: {"type": "string", "description": f"as {KEY} has it"}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": properties}}}
    request = a_request(a_call(), [{"role": "user", "content": "hi"}], tools=[tool])
    shown = request.passed["tools"][0]["function"]["parameters"]["properties"][name]
    assert shown == {"type": "string", "description": "as [redacted] has it"}


def test_a_prompt_is_blocked_with_the_name_of_its_message() -> None:
    call = a_call()
    with pytest.raises(errors.ApiError) as refused:
        a_request(call, [{"role": "user", "content": KEY}, {"role": "user", "content": f"what does {FOREIGN} pay?"}])
    error = refused.value
    assert (error.status, error.code, error.param) == (422, "content_blocked", "messages.1")
    assert FOREIGN not in error.message
    assert call.event.basic["leaks"] == {"messages": {"redacted": {"aws_key": 1}, "blocked": {"foreign_tenant": 1}}}


def test_a_warning_changes_nothing_and_is_audited() -> None:
    call = a_call("Warn", "Warn")
    messages = [{"role": "user", "content": f"{KEY} {FOREIGN}"}]
    assert a_request(call, messages).messages == messages
    assert call.event.basic["leaks"] == {"messages": {"warned": {"aws_key": 1, "foreign_tenant": 1}}}
    assert not call.counted


def test_a_passage_with_something_blocked_is_left_out() -> None:
    call = a_call()
    texts = ("fine", f"{FOREIGN} pays more", f"key {KEY}")
    hits = [Passage(f"file-{at}", "a.txt", text) for at, text in enumerate(texts)]
    shown = asyncio.run(call.service.guard.passages(call, hits))
    assert [hit.text for hit in shown] == ["fine", "key [redacted]"]
    assert call.event.basic["leaks"]["documents"] == {"blocked": {"foreign_tenant": 1}, "redacted": {"aws_key": 1}}


@settings(max_examples=100, deadline=None)
@given(st.lists(TEXTS, max_size=4))
def test_what_is_found_in_one_text_is_found_when_all_are_looked_at_together(texts: list[str]) -> None:
    detector = a_call().service.guard.detector
    if any(detector.find(text)[0] for text in texts):
        assert detector.find(BETWEEN.join(texts))[0]


def test_whole_answers() -> None:
    message = {"role": "assistant", "content": f"it is {KEY}"}
    choices = [
        {"index": 0, "message": message, "logprobs": {"content": [{"token": KEY}]}},
        {"index": 1, "message": {"role": "assistant", "content": "no"}, "logprobs": {"content": [{"token": "no"}]}},
    ]
    call = a_call()
    answer = call.service.guard.answer(call, {"id": "c", "choices": choices})
    assert answer["choices"][0]["message"]["content"] == "it is [redacted]"
    assert answer["choices"][0]["logprobs"] is None
    assert answer["choices"][1] == choices[1]
    call = a_call(secrets="Block")
    with pytest.raises(errors.ApiError) as refused:
        call.service.guard.answer(call, {"choices": choices})
    assert (refused.value.status, refused.value.code) == (403, "answer_withheld")
    assert KEY not in refused.value.message
    assert call.event.basic["leaks"] == {"answer": {"blocked": {"aws_key": 1}}}


def test_bodies_for_the_audit() -> None:
    guard = a_call("Warn", "Warn").service.guard  # whatever the policy
    body = {"messages": [{"role": "user", "content": [f"{KEY} of {FOREIGN}", 7, None]}]}
    assert guard.redact(body) == {"messages": [{"role": "user", "content": ["[redacted] of [redacted]", 7, None]}]}
    deep: Any = KEY
    for _ in range(5000):
        deep = [deep]
    assert KEY not in repr(guard.redact(deep))


def test_at_full_the_audit_has_the_bodies_without_what_was_found() -> None:
    messages = [{"role": "user", "content": f"{KEY} of {FOREIGN}"}]
    call = a_call("Warn", "Warn", level="Full")
    a_request(call, messages)
    answer = {"choices": [{"index": 0, "message": {"role": "assistant", "content": f"yes, {KEY}"}}]}
    assert call.service.guard.answer(call, answer) == answer
    assert call.event.full["messages"] == [{"role": "user", "content": "[redacted] of [redacted]"}]
    assert call.event.full["answer"] == [{"role": "assistant", "content": "yes, [redacted]"}]
    out, _ = passed(call, [a_chunk(0, {"content": piece}) for piece in ("no, ", KEY[:7], KEY[7:])])
    assert texts_of(out, 0)["content"] == f"no, {KEY}"
    assert call.event.full["answer"] == [{"choice": 0, "content": "no, [redacted]"}]
    call = a_call()
    a_request(call, [{"role": "user", "content": "Hello"}])
    assert not call.event.full


# --- streams


def a_chunk(index: int, delta: dict[str, Any], reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {"id": "c", "model": "m", "choices": [{"index": index, "delta": delta, "finish_reason": reason, **more}]}


def passed(call: Any, chunks: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], GuardedStream]:
    stream = GuardedStream(call)
    out = [after for chunk in chunks if (after := stream.feed(chunk)) is not None]
    if rest := stream.finish():
        out.append(rest)
    stream.tell()
    return out, stream


def texts_of(chunks: list[dict[str, Any]], index: int) -> dict[str, str]:
    """What a client puts together of one choice."""
    texts: dict[str, str] = {}
    for choice in (choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index):
        for name in ("content", "refusal"):
            texts[name] = texts.get(name, "") + (choice["delta"].get(name) or "")
        for tool in choice["delta"].get("tool_calls") or []:
            name = f"tool {tool['index']}"
            texts[name] = texts.get(name, "") + (tool.get("function") or {}).get("arguments", "")
    return texts


def deltas(rng: Any, texts: dict[tuple[int, str], str]) -> list[dict[str, Any]]:
    """Chunks that make up these texts of these choices, cut and mixed at random."""
    rest = dict(texts)
    chunks = []
    while rest:
        (index, name) = rng.choice(sorted(rest))
        size = rng.randint(1, 12)
        piece, rest[index, name] = rest[index, name][:size], rest[index, name][size:]
        if not rest[index, name]:
            del rest[index, name]
        tool = {"index": 1, "function": {"arguments": piece}}
        chunks.append(a_chunk(index, {"tool_calls": [tool]} if name == "tool 1" else {name: piece}))
    return chunks


@settings(max_examples=40, deadline=None)
@given(st.lists(TEXTS, min_size=6, max_size=6), st.randoms(use_true_random=False), st.booleans())
def test_each_text_of_each_choice_has_a_window_of_its_own(texts: list[str], rng: Any, ends: bool) -> None:
    call = a_call("Redact")
    named = {(at % 2, ("content", "refusal", "tool 1")[at // 2]): text for at, text in enumerate(texts)}
    chunks = deltas(rng, named)
    if ends:
        chunks += [a_chunk(index, {}, "stop") for index in (0, 1)]
    chunks.append({"id": "c", "choices": [], "usage": {"prompt_tokens": 1}})
    out, _ = passed(call, chunks)
    for (index, name), text in named.items():
        whole = apply(call.service.guard.detector, text, policies(call.configuration))
        assert texts_of(out, index).get(name, "") == whole.text
    found = sum(
        (apply(call.service.guard.detector, text, policies(call.configuration)).found for text in texts), Counter()
    )
    assert call.counted == found


def test_a_clean_stream_keeps_all_but_its_cutting() -> None:
    usage = {"id": "c", "choices": [], "usage": {"prompt_tokens": 1}}
    tool = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": ""}}
    chunks = [
        a_chunk(0, {"role": "assistant", "content": ""}),
        a_chunk(0, {"content": "Hello"}),
        a_chunk(0, {"content": " there, "}),
        a_chunk(0, {"tool_calls": [tool]}),
        a_chunk(0, {"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]}),
        a_chunk(0, {"tool_calls": [{"index": 0, "function": {"arguments": ": 12"}}]}),
        a_chunk(0, {}, "tool_calls"),
        usage,
    ]
    out, stream = passed(a_call(), chunks)
    assert not stream.blocked
    assert out[0] == chunks[0]
    assert texts_of(out, 0) == {"content": "Hello there, ", "refusal": "", "tool 0": '{"a": 12'}
    assert (
        next(t for c in out for ch in c["choices"] for t in ch["delta"].get("tool_calls", []))["function"]["name"]
        == "look_up"
    )
    assert out[-2]["choices"][0]["finish_reason"] == "tool_calls"
    assert out[-1] == usage


def test_a_blocked_stream_ends_before_what_was_found() -> None:
    call = a_call()
    out, stream = passed(
        call, [a_chunk(0, {"content": piece}) for piece in ("They are at tenant", "-umb", "rella, as", " I said")]
    )
    assert stream.blocked == "foreign_tenant"
    assert texts_of(out, 0)["content"] == "They are at "
    assert call.event.basic["leaks"] == {"answer": {"blocked": {"foreign_tenant": 1}}}
    call = a_call()
    out, stream = passed(call, [a_chunk(0, {"content": "at tenant-umbrella"}), a_chunk(0, {}, "stop")])
    assert stream.blocked
    assert texts_of(out, 0)["content"] == "at "


def test_log_probabilities_come_at_the_end_or_not_at_all() -> None:
    def streamed(*pieces: str) -> Any:
        chunks = [a_chunk(0, {"content": p}, logprobs={"content": [{"token": p}], "refusal": None}) for p in pieces]
        out, _ = passed(a_call(), [*chunks, a_chunk(0, {}, "stop", logprobs=None)])
        assert not any(choice.get("logprobs") for chunk in out[:-1] for choice in chunk["choices"])
        return out[-1]["choices"][0]["logprobs"]

    assert streamed("Hel", "lo") == {"content": [{"token": "Hel"}, {"token": "lo"}], "refusal": None}
    assert streamed("it is ", KEY[:5], KEY[5:]) is None


# --- the list


class Lists:
    """A store that answers as the region's list would."""

    def __init__(self, *names: str) -> None:
        self.there, self.version, self.broken = True, 1, False
        self.names, self.asked = names, 0

    async def one(self, statement: str, values: Any = ()) -> Any:
        if "pg_namespace" in statement:
            return (self.there,)
        if "leak_identifiers" not in statement:
            return (self.version,)
        self.asked += 1
        hashes = b"".join(leak_hash(LIST_KEY, name) for name in self.names)
        return (self.version, None if self.broken else LIST_KEY, [len(name) for name in self.names], hashes or None)


async def a_look(guard: Guard) -> None:
    """One round of the reader's."""
    running = asyncio.create_task(guard.run())
    for _ in range(20):
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_the_list_is_read_again_only_where_its_version_changed() -> None:
    lists = Lists("tenant-hera")
    guard = Guard(lists, "0" * 32)  # type: ignore[arg-type]
    await a_look(guard)
    assert guard.detector.find("tenant-hera")[0]
    await a_look(guard)
    assert lists.asked == 1
    lists.names, lists.version = ("tenant-zeus",), 2
    await a_look(guard)
    assert guard.detector.find("tenant-zeus")[0]
    assert not guard.detector.find("tenant-hera")[0]


async def test_without_a_list_secrets_are_found_and_with_a_broken_one_the_last_holds() -> None:
    lists = Lists("tenant-hera")
    lists.there = False
    guard = Guard(lists, "0" * 32)  # type: ignore[arg-type]
    await a_look(guard)
    assert guard.loaded.is_set()
    assert guard.detector.find(KEY)[0]
    lists.there = True
    await a_look(guard)
    lists.broken, lists.version = True, 2
    await a_look(guard)
    assert guard.detector.find("tenant-hera")[0]


async def test_nothing_passes_before_the_list_was_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenantry_runtime.guard.PATIENCE", 0.05)
    guard = Guard(Lists(), "0" * 32)  # type: ignore[arg-type]
    with pytest.raises(errors.ApiError) as refused:
        await guard.ready()
    assert (refused.value.status, refused.value.code) == (503, "store_unavailable")
    await a_look(guard)
    await guard.ready()


async def test_a_notice_of_a_change_is_not_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where looks are an hour apart, a list that changed is read after its notice, and not without."""
    monkeypatch.setattr("tenantry_runtime.guard.REFRESH", 3600)
    monkeypatch.setattr("tenantry_runtime.guard.SPREAD", (0, 0.01))
    lists = Lists("tenant-hera")
    guard = Guard(lists, "0" * 32)  # type: ignore[arg-type]
    task = asyncio.create_task(guard.run())
    await guard.loaded.wait()
    lists.names, lists.version = ("tenant-zeus",), 2
    guard.changed.set()
    async with asyncio.timeout(30):
        while not guard.detector.find("tenant-zeus")[0]:
            await asyncio.sleep(0.01)
    assert not guard.changed.is_set()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
