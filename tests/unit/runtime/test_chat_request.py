"""Reading a chat request: what is refused, with which field's name, and what reaches the provider."""

from typing import Any

import pytest

from tenantry_runtime import chat_request
from tenantry_runtime.errors import ApiError
from tenantry_runtime.filters import Comparison

from .configuration import configuration

HELLO = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [7]}, "messages.0"),
        ({"messages": [{"content": "hi"}]}, "messages.0.role"),
        ({"messages": [{"role": "root", "content": "hi"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content"),
        ({"messages": HELLO, "model": 5}, "model"),
        ({"messages": HELLO, "n": 0}, "n"),
        ({"messages": HELLO, "n": True}, "n"),
        ({"messages": HELLO, "temperature": 3}, "temperature"),
        ({"messages": HELLO, "temperature": "hot"}, "temperature"),
        ({"messages": HELLO, "max_tokens": -1}, "max_tokens"),
        ({"messages": HELLO, "max_completion_tokens": 1.5}, "max_completion_tokens"),
        ({"messages": HELLO, "stream": "yes"}, "stream"),
        ({"messages": HELLO, "stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": HELLO, "tools": {}}, "tools"),
        ({"messages": HELLO, "tools": [{"type": "function"}, {"type": "web_search"}]}, "tools.1.type"),
        ({"messages": HELLO, "tools": [{"type": ["function"]}]}, "tools.0.type"),
        ({"messages": HELLO, "tools": [{"function": {"name": "f"}}]}, "tools.0.type"),
        ({"messages": HELLO, "web_search_options": {}}, "web_search_options"),
        ({"messages": HELLO, "audio": {}}, "audio"),
        ({"messages": HELLO, "tenantry": []}, "tenantry"),
        ({"messages": HELLO, "tenantry": {"tenant": "other"}}, "tenantry.tenant"),
        ({"messages": HELLO, "tenantry": {"retrieval": {"topK": 51}}}, "topK"),
        ({"messages": HELLO, "tenantry": {"retrieval": {"minScore": "x"}}}, "minScore"),
        ({"messages": HELLO, "tenantry": {"retrieval": {"vectorStoreIds": ['x" or 1']}}}, "vectorStoreIds"),
        ({"messages": HELLO, "tenantry": {"retrieval": {"filter": "1"}}}, "tenantry.retrieval.filter"),
        (
            {"messages": HELLO, "tenantry": {"retrieval": {"filters": {"type": "like", "key": "a", "value": "b"}}}},
            "tenantry.retrieval.filters",
        ),
    ],
)
def test_bad_fields_are_named(body: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as refused:
        chat_request.read(body, configuration())
    assert refused.value.status == 422
    assert refused.value.param == param
    assert param.split(".")[-1] in refused.value.message or param in refused.value.message


def test_what_reaches_the_provider() -> None:
    body = {
        "messages": [*HELLO, {"role": "assistant", "content": None, "tool_calls": []}],
        "model": "gpt-4o-mini",
        "response_format": {"type": "json_object"},
        "stop": ["x"],
        "top_p": None,
        "n": 2,
        "user": "me",
        "metadata": {"a": "b"},
        "store": True,
        "service_tier": "priority",
        "stream": True,
    }
    request = chat_request.read(body, configuration())
    assert request.upstream("SYSTEM", 7, "someone") == {
        "model": "gpt-4o-mini",
        "messages": [{"role": "system", "content": "SYSTEM"}, *body["messages"]],
        "response_format": {"type": "json_object"},
        "stop": ["x"],
        "n": 2,
        "temperature": 0.7,
        "max_tokens": 7,
        "user": "someone",
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_newer_models_get_the_newer_field() -> None:
    for model, field in (
        ("gpt-4o", "max_tokens"),
        ("o3-mini", "max_completion_tokens"),
        ("gpt-5", "max_completion_tokens"),
    ):
        settings = configuration(allowed_models=(model,), default_model=model)
        assert chat_request.read({"messages": HELLO}, settings).tokens_field == field


def test_retrieval_is_on_unless_the_request_says_no() -> None:
    settings = configuration()

    def wish(value: Any) -> Any:
        body = {"messages": HELLO} | ({} if value is None else {"tenantry": {"retrieval": value}})
        return chat_request.read(body, settings).retrieval

    assert wish(None) == wish(True) == wish({}) == chat_request.RetrievalWish(5, 0.2, None)
    assert wish(False) is None
    assert wish({"topK": 2, "minScore": 0, "vectorStoreIds": ["vs_1"]}) == chat_request.RetrievalWish(2, 0, ["vs_1"])
    assert wish({"filters": {"type": "eq", "key": "k", "value": "v"}}).filters == Comparison("eq", "k", "v")


def test_the_question_is_the_last_of_the_users() -> None:
    messages = [
        {"role": "user", "content": "first"},
        {"role": "user", "content": [{"type": "text", "text": "second"}, {"type": "text", "text": "part"}]},
        {"role": "assistant", "content": "answer"},
    ]
    assert chat_request.read({"messages": messages}, configuration()).question() == "second\npart"
