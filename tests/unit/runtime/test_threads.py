"""An answer put together from its pieces, and how much of a conversation goes before a call."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tenantry_runtime.config import Limits, SubjectLimits
from tenantry_runtime.threads import MAX_HISTORY, Said, room

from .configuration import configuration


def piece(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


@given(st.lists(st.text(max_size=5), max_size=10), st.lists(st.tuples(st.integers(0, 2), st.text(max_size=5))))
def test_pieces_make_the_whole(texts: list[str], arguments: list[tuple[int, str]]) -> None:
    said = Said()
    for text in texts:
        said.feed(piece(content=text))
    whole = {0: "", 1: "", 2: ""}
    for number, function in ((n, {"name": f"f{n}"}) for n in whole):
        said.feed(piece(tool_calls=[{"index": number, "id": f"c{number}", "function": function}]))
    for number, part in arguments:
        whole[number] += part
        said.feed(piece(tool_calls=[{"index": number, "function": {"arguments": part}}]))
    assert said.status == "incomplete"
    said.feed(piece("tool_calls"))
    calls = [{"index": n, "id": f"c{n}", "function": {"name": f"f{n}", "arguments": whole[n]}} for n in whole]
    message = said.message
    assert message["tool_calls"] == calls
    assert message.get("content", "") == "".join(texts)
    assert said.status == "completed"
    answer = {"choices": [{"message": message, "finish_reason": "tool_calls"}]}
    assert Said.of(answer).message == message


def test_an_answer_that_is_cut_off_or_broken_is_incomplete() -> None:
    for end in (piece("length"), piece("content_filter"), piece(None), {"error": {"message": "x"}}):
        said = Said()
        said.feed(piece(content="Half"))
        said.feed(end)
        assert said.status == "incomplete"
        assert said.message == {"content": "Half"}
    said.feed(piece("stop"))
    assert said.status == "incomplete"  # an error stays one


def test_what_is_no_answer_adds_nothing() -> None:
    for odd in ({}, {"choices": None}, {"choices": [7]}, {"choices": [{"message": 7}]}):
        assert Said.of(odd).message == {}
    said = Said()
    for chunk in ({"choices": [7]}, piece(tool_calls=[7, {"index": "x"}]), piece(content=7)):
        said.feed(chunk)
    assert said.message == {}


def test_history_leaves_room_in_the_smallest_minute() -> None:
    assert room(configuration()) == MAX_HISTORY
    assert room(configuration(limits=Limits(tokens_per_minute=1000))) == 300
    mine = SubjectLimits(tokens_per_minute=100)
    assert room(configuration(limits=Limits(tokens_per_minute=1000, per_user=mine))) == 30
    assert room(configuration(limits=Limits(per_key=mine, per_user=SubjectLimits()))) == 30
    assert room(configuration(limits=Limits(tokens_per_minute=10**9))) == MAX_HISTORY
