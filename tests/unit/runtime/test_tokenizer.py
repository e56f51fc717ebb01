"""Counting tokens where a provider does not say how many there were."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry_runtime import tokenizer, tokens
from tenantry_runtime.reservation import Usage
from tenantry_runtime.tokenizer import Produced, Unsaid, count, encoding_of


def _said(role: str, content: str, name: str = "") -> dict[str, Any]:
    return {"role": role, "content": content} | ({"name": name} if name else {})


COOKBOOK = [
    _said(
        "system",
        "You are a helpful, pattern-following assistant that translates corporate jargon into plain English.",
    ),
    _said("system", "New synergies will help drive top-line growth.", "example_user"),
    _said("system", "Things working well together will increase revenue.", "example_assistant"),
    _said(
        "system",
        "Let's circle back when we have more bandwidth to touch base on opportunities for increased leverage.",
        "example_user",
    ),
    _said("system", "Let's talk later when we're less busy about how to do better.", "example_assistant"),
    _said("user", "This late pivot means we don't have time to boil the ocean for the client deliverable."),
]
"""The example of OpenAI's cookbook, for which it prints what its API counted."""


@pytest.mark.parametrize(("model", "counted"), [("gpt-3.5-turbo", 129), ("gpt-4", 129), ("gpt-4o-mini", 124)])
async def test_a_prompt_is_counted_as_openais_api_does(model: str, counted: int) -> None:
    usage = await Unsaid.of_chat({"model": model, "messages": COOKBOOK}).usage()
    assert usage == Usage(counted, 0, counted_by=encoding_of(model))
    assert usage.estimated


@pytest.mark.parametrize(
    ("model", "encoding"),
    [
        ("gpt-4o", "o200k_base"),
        ("gpt-4.1-mini", "o200k_base"),
        ("gpt-5", "o200k_base"),
        ("o3", "o200k_base"),
        ("ft:gpt-4o-mini-2024-07-18:acme::x", "o200k_base"),
        ("somebody/else", "o200k_base"),
        ("gpt-4", "cl100k_base"),
        ("gpt-4-turbo", "cl100k_base"),
        ("ft:gpt-3.5-turbo:acme::x", "cl100k_base"),
        ("text-embedding-3-small", "cl100k_base"),
    ],
)
def test_the_models_own_encoding_counts(model: str, encoding: str) -> None:
    assert count(model, ["antidisestablishmentarianism"]) == (6, encoding)


@given(st.text(st.characters()), st.sampled_from(["gpt-4o", "gpt-4"]))
def test_a_count_is_never_more_than_the_bytes(text: str, model: str) -> None:
    counted, by = count(model, [text])
    assert by == encoding_of(model)
    assert (counted > 0) == bool(text)
    assert counted <= len(text.encode("utf-8", "replace"))


_VALUES = st.recursive(
    st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_MESSAGES = st.fixed_dictionaries(
    {"role": st.just("user"), "content": st.text()},
    optional={"name": st.text(min_size=1, max_size=9), "tool_calls": _VALUES},
)


@given(st.lists(_MESSAGES, min_size=1, max_size=5), _VALUES)
def test_what_is_counted_is_never_more_than_what_was_reserved(messages: list[dict[str, Any]], tools: Any) -> None:
    body: dict[str, Any] = {"model": "gpt-4o", "messages": messages, "max_tokens": 3, "n": 2}
    if tools:
        body["tools"] = tools
    _, bound = tokens.prompt_size(body)
    produced = Produced()
    produced.add(0, {"content": "word " * 50})
    usage = Unsaid.of_chat(body, produced)._count()
    assert 0 < usage.input_tokens <= bound
    assert usage.output_tokens == 6  # the provider was told to make no more


@given(st.text("ab .,\né漢👩", min_size=1, max_size=200), st.lists(st.integers(1, 30), min_size=1, max_size=50))
def test_an_answer_in_pieces_is_counted_as_a_whole_one(text: str, sizes: list[int]) -> None:
    pieces, at = Produced(), 0
    while at < len(text):
        size = sizes[at % len(sizes)]
        pieces.add(0, {"content": text[at : at + size]})
        at += size
    assert pieces.texts() == ([text], 0)
    assert pieces.texts() == Produced.of_answer({"choices": [{"message": {"content": text}}]}).texts()


def test_all_that_a_model_writes_is_its_output() -> None:
    produced = Produced()
    produced.add(0, {"content": "He", "reasoning_content": "so", "tool_calls": None})
    produced.add(1, {"content": "She", "refusal": "no"})
    produced.add(0, {"content": "llo", "tool_calls": [{"index": 1, "function": {"name": "f", "arguments": '{"a'}}]})
    produced.add(0, {"tool_calls": [{"index": 1, "function": {"arguments": '": 1}'}}, "broken"]})
    produced.add(0, "broken")
    texts, beyond = produced.texts()
    assert sorted(texts) == sorted(["Hello", "so", "She", "no", "f", '{"a": 1}'])
    assert beyond == 0
    assert Produced.of_answer({"choices": "broken"}).texts() == ([], 0)


def test_what_is_too_long_to_be_kept_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "MOST_KEPT", 10)
    produced = Produced()
    for _ in range(4):
        produced.add(0, {"content": "x" * 10})
    assert produced.texts() == (["x" * 10], 8)


@pytest.mark.parametrize("text", [" ", "\n", "a", "!?", "漢", "\u0301", "<|endoftext|>", "1"])
def test_a_megabyte_of_one_thing_is_counted(text: str) -> None:
    hostile = text * (1_000_000 // len(text.encode()))
    for model in ("gpt-4o", "gpt-4"):
        counted, by = count(model, [hostile])
        assert by == encoding_of(model)
        assert 0 < counted <= len(hostile.encode())


def test_embeddings_are_texts_or_tokens() -> None:
    assert Unsaid.of_embeddings("text-embedding-3-small", "hello world")._count().input_tokens == 2
    assert Unsaid.of_embeddings("text-embedding-3-small", [1, 2, 3])._count().input_tokens == 3
    assert Unsaid.of_embeddings("text-embedding-3-small", ["hello world", [1, 2]])._count().input_tokens == 4


def test_without_its_library_characters_are_counted_and_the_row_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Panic(BaseException):
        pass

    def broken(encoding: str) -> Any:
        raise Panic(encoding)

    monkeypatch.setattr(tokenizer, "_counter", broken)
    assert count("gpt-4o", ["seven chars, and more"]) == (6, "characters")
