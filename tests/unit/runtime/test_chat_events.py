"""The events of a streamed chat: what has come together is sent together, and nothing waits for what has not come."""

from collections import deque
from collections.abc import AsyncGenerator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry_runtime.routes.chat import TOGETHER, _events

Chunk = dict[str, Any]
USAGE = {"prompt_tokens": 1, "completion_tokens": 1}
ONLY_USAGE: Chunk = {"choices": [], "usage": USAGE}


def said(text: str, **more: Any) -> Chunk:
    return {"choices": [{"index": 0, "delta": {"content": text}}], **more}


async def sent(arrivals: Sequence[Sequence[Chunk]], include_usage: bool = False) -> tuple[list[bytes], list[int]]:
    """The pieces that are sent of chunks that arrive so, and how many had been sent when each arrival was awaited."""
    prepared: Any = SimpleNamespace(request=SimpleNamespace(include_usage=include_usage), ahead=())
    pieces: list[bytes] = []
    before: list[int] = []

    async def chunks() -> AsyncGenerator[Chunk, None]:
        for arrival in arrivals:
            before.append(len(pieces))
            prepared.ahead = ahead = deque(arrival)
            while ahead:
                yield ahead.popleft()
        before.append(len(pieces))

    async for piece in _events(chunks(), prepared):
        pieces.append(piece)
    return pieces, before


async def test_what_has_come_together_is_sent_together() -> None:
    pieces, before = await sent([[said("a")], [said("b"), said("c")], [said("d")]])
    assert [piece.count(b"data: ") for piece in pieces] == [1, 2, 1, 1]
    assert pieces[-1] == b"data: [DONE]\n\n"
    assert before == [0, 1, 2, 3]


async def test_nothing_waits_behind_a_usage_that_is_only_for_us() -> None:
    """The settlement comes after it: the client has the whole answer by then."""
    pieces, before = await sent([[said("a"), said("b", usage=USAGE), ONLY_USAGE], [ONLY_USAGE]])
    assert pieces[1:] == [b"data: [DONE]\n\n"]
    assert b"usage" not in pieces[0]
    assert before == [0, 1, 1]
    pieces, _ = await sent([[said("a"), ONLY_USAGE]], include_usage=True)
    assert pieces[0].count(b"usage") == 1


async def test_one_piece_is_bounded() -> None:
    pieces, _ = await sent([[said("x")] * 1000])
    assert max(piece.count(b"data: ") for piece in pieces) <= TOGETHER
    assert sum(piece.count(b"data: ") for piece in pieces) == 1001


_chunk = st.one_of(st.text(max_size=9).map(said), st.just(ONLY_USAGE), st.just(said("u", usage=USAGE)), st.just({}))


@pytest.mark.parametrize("include_usage", [False, True])
@given(arrivals=st.lists(st.lists(_chunk, max_size=9), max_size=9))
async def test_the_events_are_the_same_however_they_come(arrivals: list[list[Chunk]], include_usage: bool) -> None:
    pieces, before = await sent(arrivals, include_usage)
    alone, _ = await sent([[chunk] for arrival in arrivals for chunk in arrival], include_usage)
    assert b"".join(pieces) == b"".join(alone)
    assert len(pieces) == before[-1] + 1
