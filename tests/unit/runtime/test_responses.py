"""Responses: read into a chat request, and made of a chat answer, whole and as the SDK puts its events together."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import omit
from openai._models import construct_type_unchecked
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import ResponseStreamEvent

from tenantry_runtime import responses_request
from tenantry_runtime.errors import ApiError
from tenantry_runtime.filters import Comparison
from tenantry_runtime.responses_answer import Answer, ResponseEvents, usage_object
from tenantry_runtime.responses_request import ResponseRequest
from tenantry_runtime.retrieval import Hit
from tenantry_runtime.threads import Said

from .configuration import configuration

HITS = [
    Hit("file-1", "vs_1", "a.txt", 0.9, "one", {"k": 1}, chunk=0, created_at=1),
    Hit("file-1", "vs_1", "a.txt", 0.8, "two", {}, chunk=1, created_at=1),
]
SEARCH = {"type": "file_search", "vector_store_ids": ["vs_1"], "max_num_results": 3}
FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True, "description": None}


def read(**body: Any) -> ResponseRequest:
    return responses_request.read({"model": "gpt-4o-mini", "input": "Hello", **body}, configuration())


def test_a_text_becomes_a_chat_request() -> None:
    request = read(instructions="Be brief.", max_output_tokens=7, temperature=0.1, top_p=0.5)
    chat = request.chat
    assert chat.messages[1:] == [{"role": "user", "content": "Hello"}]
    assert (chat.max_tokens, chat.temperature, chat.passed) == (7, 0.1, {"top_p": 0.5})
    assert chat.retrieval is None
    assert request.query == ""
    sent = chat.upstream("OURS", 7, "user")["messages"]
    assert [message["content"] for message in sent] == ["OURS", "Be brief.", "Hello"]  # after ours, never instead
    assert request.echo["instructions"] == "Be brief."


def test_items_become_messages() -> None:
    chat = read(
        input=[
            {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "done"},
        ]
    ).chat
    assert [message["role"] for message in chat.messages] == ["user", "assistant", "tool"]
    only = read(conversation={"id": "conv_1"}, input=[{"type": "function_call_output", "call_id": "c9", "output": "x"}])
    assert only.chat.messages == [{"role": "tool", "tool_call_id": "c9", "content": "x"}]
    assert only.chat.conversation == "conv_1"
    assert [item["type"] for item in only.chat.items] == ["function_call_output"]


def test_tools_and_formats_are_translated() -> None:
    schema = {"type": "object", "properties": {}}
    request = read(
        tools=[SEARCH | {"ranking_options": {"score_threshold": 0.4}}, FUNCTION],
        tool_choice={"type": "function", "name": "f"},
        parallel_tool_calls=False,
        text={"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True}, "verbosity": "low"},
        reasoning={"effort": "low"},
    )
    wish = request.chat.retrieval
    assert wish is not None
    assert (wish.stores, wish.top_k, wish.min_score) == (["vs_1"], 3, 0.4)
    assert request.query == "Hello"
    assert request.chat.passed == {
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "parallel_tool_calls": False,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}},
        "verbosity": "low",
        "reasoning_effort": "low",
    }
    assert wish.filters is None
    only = read(tools=[SEARCH | {"filters": {"type": "eq", "key": "kind", "value": "test"}}]).chat.retrieval
    assert only is not None
    assert only.filters == Comparison("eq", "kind", "test")
    assert read(tools=[SEARCH], tool_choice="none").chat.retrieval is None
    assert read(tools=[SEARCH], tool_choice="required").chat.passed == {}  # no function: no choice for the provider


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"input": None}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"type": "file_search_call", "queries": []}]}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input.0.content.0"),
        ({"conversation": 7}, "conversation"),
        ({"conversation": {"id": "conv/1"}}, "conversation"),
        ({"tools": {}}, "tools"),
        ({"include": ""}, "include"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [SEARCH, SEARCH]}, "tools.1.type"),
        ({"tools": [{"type": "file_search"}]}, "tools.0.vector_store_ids"),
        ({"tools": [SEARCH | {"max_num_results": 51}]}, "max_num_results"),
        ({"tools": [SEARCH | {"other": 1}]}, "tools.0.other"),
        ({"tools": [SEARCH | {"filters": 7}]}, "tools.0.filters"),
        ({"tools": [{"type": "function"}]}, "tools.0.name"),
        ({"tool_choice": "often"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "unknown"}}, "tool_choice"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"truncation": "left"}, "truncation"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"tenantry": {"retrieval": False}}, "tenantry.retrieval"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"stream": "yes"}, "stream"),
    ],
)
def test_what_is_wrong_is_named(body: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as refused:
        read(**body)
    assert (refused.value.status, refused.value.param) == (422, param)


def test_usage_in_responses_words() -> None:
    told = {
        "prompt_tokens": 10,
        "completion_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 6},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    usage = usage_object(told)
    assert usage is not None
    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (10, 4, 14)
    assert usage["input_tokens_details"]["cached_tokens"] == 6
    assert usage["output_tokens_details"] == {"reasoning_tokens": 3}
    assert usage_object(None) is None
    assert usage_object({"prompt_tokens": "x"}) is None


def test_a_search_is_an_item_with_citations_and_results_where_asked_for() -> None:
    said = Said.of({"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]})
    for include, results in (([], None), ([responses_request.RESULTS], ["one", "two"])):
        answer = Answer(read(tools=[SEARCH], include=include), HITS)
        search, message = answer.output(said)
        assert (search["type"], search["queries"]) == ("file_search_call", ["Hello"])
        found = search["results"]
        assert (found and [hit["text"] for hit in found]) == results
        cited = {"type": "file_citation", "index": 0, "file_id": "file-1", "filename": "a.txt"}
        assert message["content"][0]["annotations"] == [cited]
        kept, said_again = answer.shape(said.message, said.status, answer.message_id)
        assert kept == search | {"results": None}
        assert said_again == message
    assert [item["type"] for item in Answer(read(), HITS).output(said)] == ["message"]


def events(chunks: list[dict[str, Any]], request: ResponseRequest, hits: list[Hit]) -> tuple[Answer, list[Any]]:
    answer = Answer(request, hits)

    async def source() -> AsyncGenerator[dict[str, Any], None]:
        for chunk in chunks:
            yield chunk

    async def collect() -> list[Any]:
        return [json.loads(event.split(b"data: ")[1]) async for event in ResponseEvents(answer).events(source())]

    return answer, asyncio.run(collect())


def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def call(number: int, text: str | None, **first: Any) -> dict[str, Any]:
    function = {"arguments": text, **first}
    return chunk(tool_calls=[{"index": number, "id": f"c{number}", "function": function}])


def put_together(found: list[Any]) -> Any:
    """The final response as the SDK's own helper makes it; it raises where the order is not as it should be."""
    state: Any = ResponseStreamState(input_tools=omit, text_format=omit)
    for number, event in enumerate(found):
        assert event["sequence_number"] == number
        state.handle_event(construct_type_unchecked(value=event, type_=ResponseStreamEvent))
    return state._completed_response


_TEXT = st.lists(st.text(min_size=1, max_size=4), max_size=6)


@given(_TEXT, _TEXT, st.lists(st.tuples(st.integers(0, 2), st.text(max_size=4)), max_size=8), st.booleans())
def test_events_make_what_the_whole_answer_is(
    texts: list[str], refusals: list[str], arguments: list[tuple[int, str]], search: bool
) -> None:
    chunks = [chunk(role="assistant", content="")]
    chunks += [chunk(content=text) for text in texts]
    chunks += [chunk(refusal=text) for text in refusals]
    chunks += [
        call(number, text, name=f"f{number}") if n == 0 else call(number, text)
        for n, (number, text) in enumerate(arguments)
    ]
    chunks += [chunk("tool_calls" if arguments else "stop"), {"choices": [], "usage": {"prompt_tokens": 3}}]
    answer, found = events(chunks, read(tools=[SEARCH] if search else []), HITS)
    kinds = [event["type"] for event in found]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    response = put_together(found)
    said = Said()
    for piece in chunks:
        said.feed(piece)
    whole = {item["id"]: item for item in answer.output(said)}
    assert {item["id"]: item for item in found[-1]["response"]["output"]} == whole
    assert response.output_text == "".join(texts)
    deltas = [event["delta"] for event in found if event["type"] == "response.output_text.delta"]
    assert "".join(deltas) == "".join(texts)
    assert response.usage.input_tokens == 3


def test_an_answer_that_is_cut_off_is_incomplete_and_says_why() -> None:
    for reason, told in (("length", "max_output_tokens"), ("content_filter", "content_filter"), (None, None)):
        _, found = events([chunk(content="Half"), *([chunk(reason)] if reason else [])], read(), [])
        assert found[-1]["type"] == "response.incomplete"
        response = found[-1]["response"]
        assert response["incomplete_details"] == {"reason": told}
        assert response["output"][0]["status"] == "incomplete"


def test_an_error_ends_the_stream_with_what_the_sdk_raises_for() -> None:
    _, found = events(
        [chunk(content="Half"), {"error": {"message": "It broke.", "code": "upstream_error"}}], read(), []
    )
    assert found[-2]["type"] == "response.failed"
    assert found[-2]["response"]["error"]["message"] == "It broke."
    assert found[-1] == {"error": {"message": "It broke.", "code": "upstream_error"}}
    assert not any(event.get("type") == "response.completed" for event in found)


def test_a_stream_without_any_chunk_is_a_response_all_the_same() -> None:
    _, found = events([], read(), [])
    assert [event["type"] for event in found] == ["response.created", "response.in_progress", "response.incomplete"]
