"""Items of conversations: read from a client, made into chat messages and from them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry_runtime import conversation_items as items
from tenantry_runtime import conversation_messages as chat
from tenantry_runtime.errors import ApiError


def test_a_text_becomes_a_part_of_the_roles_own_kind() -> None:
    user = items.read({"role": "user", "content": "Hello"}, "items.0")
    assert user["content"] == [{"type": "input_text", "text": "Hello"}]
    assert user["type"] == "message"
    assert user["id"].startswith("msg_")
    said = items.read({"id": "theirs", "role": "assistant", "content": [{"type": "text", "text": "Hi"}]}, "items.0")
    assert said["content"] == [items.output_text("Hi")]
    assert said["id"] != "theirs"
    assert items.is_answer(said)
    assert not items.is_answer(user)


def test_an_answer_is_handed_back_as_it_was() -> None:
    citation = {"type": "file_citation", "index": 3, "file_id": "file-1", "filename": "a.txt"}
    part = items.output_text("Hi", [citation])
    given = items.message("assistant", [part, {"type": "refusal", "refusal": "No."}], "incomplete")
    read = items.read(given, "items.0")
    assert {**read, "id": ""} == {**given, "id": ""}
    part["annotations"].append({"type": "url_citation", "url": "x"})
    assert items.read(given, "items.0")["content"][0]["annotations"] == [citation]


@pytest.mark.parametrize(
    ("given", "param"),
    [
        (7, "items.0"),
        ({}, "items.0.type"),
        ({"type": "reasoning"}, "items.0.type"),
        ({"type": ["message"]}, "items.0.type"),
        ({"role": "tool", "content": "x"}, "items.0.role"),
        ({"role": ["user"], "content": "x"}, "items.0.role"),
        ({"role": "user"}, "items.0.content"),
        ({"role": "user", "content": []}, "items.0.content"),
        ({"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}, "items.0.content.0"),
        ({"role": "user", "content": [{"type": "refusal", "refusal": "x"}]}, "items.0.content.0"),
        ({"role": "user", "content": ["x"]}, "items.0.content.0"),
        ({"role": "user", "content": "a\x00b"}, "items.0.content.0.text"),
        ({"type": "function_call", "name": "f", "arguments": "{}"}, "items.0.call_id"),
        ({"type": "function_call", "call_id": "c", "name": 1, "arguments": "{}"}, "items.0.name"),
        ({"type": "function_call_output", "call_id": "c", "output": [1]}, "items.0.output"),
        ({"type": "file_search_call", "queries": "x"}, "items.0.queries"),
    ],
)
def test_what_is_no_item_is_refused_by_name(given: Any, param: str) -> None:
    with pytest.raises(ApiError) as refused:
        items.read_all([given], "items")
    assert (refused.value.status, refused.value.param) == (422, param)


def test_an_item_and_a_batch_are_bounded() -> None:
    large = {"role": "user", "content": [{"type": "text", "text": "x" * items.MAX_ITEM_BYTES}]}
    with pytest.raises(ApiError) as refused:
        items.read(large, "items.0")
    assert refused.value.status == 413
    one = {"role": "user", "content": "x"}
    assert len(items.read_all([one] * items.MAX_BATCH, "items")) == items.MAX_BATCH
    for wrong in ([one] * (items.MAX_BATCH + 1), [], {}, None):
        with pytest.raises(ApiError):
            items.read_all(wrong, "items")


def test_chat_messages_go_in_and_come_out_as_they_were() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    other = {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Wait.", "tool_calls": [call, other]},
        {"role": "tool", "tool_call_id": "c1", "content": "one"},
        {"role": "tool", "tool_call_id": "c2", "content": "two"},
        {"role": "assistant", "content": "Done."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    ]
    kept = chat.from_messages([{"role": "system", "content": "not kept"}, *messages])
    assert chat.to_messages(kept) == messages


def test_calls_and_outputs_are_brought_together_or_left_out() -> None:
    def call(identity: str) -> dict[str, Any]:
        return items.function_call(identity, "f", "{}")

    said = items.message("user", [{"type": "input_text", "text": "q"}])
    kept = [
        items.function_output("gone", "cut off"),  # its call did not fit
        call("a"),
        call("unanswered"),
        said,  # another request's, which came in between
        items.function_output("a", "one"),
        call("b"),
    ]
    messages = chat.to_messages(kept, frozenset({"b"}))
    assert [message["role"] for message in messages] == ["assistant", "tool", "user", "assistant"]
    assert [tool["id"] for tool in messages[0]["tool_calls"]] == ["a"]
    assert messages[1] == {"role": "tool", "tool_call_id": "a", "content": "one"}
    assert [tool["id"] for tool in messages[3]["tool_calls"]] == ["b"]
    answer = items.message("assistant", [items.output_text("Hi")])
    with_its_text = chat.to_messages([said, answer, call("b")], frozenset({"b"}))
    assert [message["role"] for message in with_its_text] == ["user", "assistant"]
    moved = chat.to_messages([call("b"), said, answer], frozenset({"b"}))  # behind what is no part of its answer
    assert [message["content"] for message in moved] == ["q", "Hi", None]


_CALLS = st.integers(0, 4).map(lambda n: items.function_call(f"c{n}", "f", "{}"))
_OUTPUTS = st.integers(0, 4).map(lambda n: items.function_output(f"c{n}", "x"))
_SAID = st.sampled_from(["user", "assistant"]).map(lambda role: items.read({"role": role, "content": "x"}, ""))


@given(st.lists(st.one_of(_CALLS, _OUTPUTS, _SAID), max_size=20))
def test_whatever_is_left_of_a_conversation_a_provider_takes_it(kept: list[dict[str, Any]]) -> None:
    kept = list({(item["type"], item.get("call_id") or item["id"]): item for item in kept}.values())
    waiting: list[str] = []
    for message in chat.to_messages(kept):
        if message["role"] == "tool":
            waiting.remove(message["tool_call_id"])
            continue
        assert not waiting  # the outputs come directly after the calls
        waiting = [call["id"] for call in message.get("tool_calls", ())]
        assert waiting or message["content"]
    assert not waiting
    said = [item for item in kept if item["type"] == "message"]
    assert sum(message.get("content") == "x" and message["role"] != "tool" for message in chat.to_messages(kept)) == (
        len(said)
    )


def test_an_answer_is_kept_as_far_as_it_was_produced() -> None:
    assert chat.answer_items({"content": None}, "completed", "msg_1") == []
    (only,) = chat.answer_items({"content": "Half of"}, "incomplete", "msg_1")
    assert (only["id"], only["status"]) == ("msg_1", "incomplete")
    (long,) = chat.answer_items({"content": "x" * (chat.MAX_ANSWER + 1)}, "completed", "msg_1")
    assert long["status"] == "incomplete"
    assert len(long["content"][0]["text"]) == chat.MAX_ANSWER
    calls = [{"id": "c1", "function": {"name": "f", "arguments": "{}"}}]
    (call,) = chat.answer_items({"content": "", "tool_calls": calls}, "completed", "msg_1")
    assert (call["type"], call["call_id"], call["name"]) == ("function_call", "c1", "f")


def test_tokens_are_estimated_for_every_kind() -> None:
    for item in (
        items.read({"role": "user", "content": "some words here"}, ""),
        items.message("assistant", [{"type": "refusal", "refusal": "some words here"}]),
        items.function_call("c", "name", "some words"),
        items.function_output("c", "some words here"),
    ):
        assert 4 < items.item_tokens(item) < 20
    assert items.item_tokens(items.file_search(["q"])) == 0
