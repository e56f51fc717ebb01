"""An answer in pieces is the same answer."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tenantry_runtime.assembly import Assembly, chunks

HEAD = {"id": "chatcmpl-1", "created": 1, "model": "gpt-4o-mini"}
texts = st.text(min_size=1)


def assembled(pieces: list[dict[str, Any]], most: int = 1_000_000) -> dict[str, Any] | None:
    assembly = Assembly(most)
    for piece in pieces:
        assembly.take(piece)
    return assembly.answer()


def piece(index: int = 0, finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {**HEAD, "choices": [{"index": index, "delta": delta, "finish_reason": finish}]}


@given(
    st.lists(st.tuples(texts, st.sampled_from(["stop", "length"])), min_size=1, max_size=4),
    st.none() | st.fixed_dictionaries({"prompt_tokens": st.integers(0), "completion_tokens": st.integers(0)}),
)
def test_an_answer_taken_apart_and_put_together_is_the_same(said: list[tuple[str, str]], usage: Any) -> None:
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": {"content": [{"token": text, "logprob": -0.5}]} if index else None,
            "finish_reason": reason,
        }
        for index, (text, reason) in enumerate(said)
    ]
    answer = {**HEAD, "object": "chat.completion", "choices": choices} | ({"usage": usage} if usage else {})
    assert assembled(list(chunks(answer))) == answer


@given(st.lists(texts, min_size=1))
def test_pieces_are_joined_in_their_order(pieces: list[str]) -> None:
    answer = assembled([*(piece(content=text) for text in pieces), piece(finish="stop")])
    assert answer is not None
    assert answer["choices"][0]["message"]["content"] == "".join(pieces)


def test_calls_of_tools_are_joined_too() -> None:
    def call(index: int, **values: Any) -> dict[str, Any]:
        return piece(tool_calls=[{"index": index, **values}])

    answer = assembled(
        [
            call(0, id="a", type="function", function={"name": "f", "arguments": ""}),
            call(1, id="b", type="function", function={"name": "g", "arguments": "{"}),
            call(0, function={"arguments": '{"x":'}),
            call(1, function={"arguments": "}"}),
            call(0, function={"arguments": "1}"}),
            piece(finish="tool_calls"),
        ]
    )
    assert answer is not None
    assert answer["choices"][0]["message"]["tool_calls"] == [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
        {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]


def test_what_broke_off_or_is_not_understood_or_too_long_is_no_answer() -> None:
    whole = [piece(content="word "), piece(finish="stop")]
    assert assembled(whole)
    assert assembled([]) is None
    assert assembled(whole[:1]) is None
    assert assembled([whole[0], piece(1, content="x"), whole[1]]) is None  # the other choice did not end
    assert assembled([whole[0], {"error": {"message": "no"}}, whole[1]]) is None
    assert assembled([{"choices": [7]}, *whole]) is None
    assert assembled([{"choices": [{"delta": {"content": "x"}}]}, *whole]) is None
    assert assembled([piece(content=7), *whole]) is None
    assert assembled([piece(content="x" * 1000), *whole], most=1000) is None
    assert assembled([piece(content="") for _ in range(1000)] + whole, most=1000) is None
