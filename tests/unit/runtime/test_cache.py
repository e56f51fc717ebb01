"""What makes one question the same as another, which answers are kept, and calls that others wait for."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request

from tenantry_runtime import cache, chat_request
from tenantry_runtime.assembly import Assembly
from tenantry_runtime.call import Call
from tenantry_runtime.chat_request import ChatRequest, RetrievalWish
from tenantry_runtime.config import Cache, LeakGuard, Limits, Prompt
from tenantry_runtime.flight import AHEAD, AHEAD_FOR_OTHERS, Chunk, Flight, carried
from tenantry_runtime.keys import Caller
from tenantry_runtime.retrieval import Hit

from .configuration import configuration

HELLO = {"messages": [{"role": "user", "content": "hi"}]}
SETTINGS = configuration(cache=Cache())


def read(**changes: Any) -> ChatRequest:
    return chat_request.read(HELLO | changes, SETTINGS)


# --- Keys ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": [{"role": "user", "content": "Hi"}]},
        {"messages": [{"role": "system", "content": "hi"}]},
        {"messages": [*HELLO["messages"], {"role": "assistant", "content": ""}]},
        {"temperature": 0},
        {"max_tokens": 7},
        {"n": 2},
        {"seed": 1},
        {"stop": "x"},
        {"top_p": 0.5},
        {"response_format": {"type": "json_object"}},
        {"logprobs": True},
        {"tenantry": {"retrieval": False}},
        {"tenantry": {"retrieval": {"topK": 1}}},
        {"tenantry": {"retrieval": {"minScore": 0.9}}},
        {"tenantry": {"retrieval": {"vectorStoreIds": ["vs_1"]}}},
    ],
)
def test_another_question_has_another_key(changes: dict[str, Any]) -> None:
    assert cache.key(SETTINGS, None, read()) != cache.key(SETTINGS, None, read(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"tenant_uid": "b0000000-9d5a-4c57-8a86-0c3f5a1f4f01"},
        {"display_name": "Other"},
        {"tier": "free"},
        {"prompt": Prompt(template="Be kind, {{ tenantName }}.")},
        {"prompt": Prompt(template=SETTINGS.prompt.template, custom_instructions="Be kind.")},
        {"leak_guard": LeakGuard(secrets="Block")},
        {"limits": Limits(tokens_per_minute=1000)},  # fewer passages have room
    ],
)
def test_another_tenant_or_another_setting_has_another_key(changes: dict[str, Any]) -> None:
    assert cache.key(SETTINGS, None, read()) != cache.key(configuration(**changes), None, read())


def test_the_same_question_has_the_same_key() -> None:
    one, user = cache.key(SETTINGS, None, read()), cache.key(SETTINGS, "ann", read())
    for changes in (
        {"stream": True, "stream_options": {"include_usage": True}},
        {"user": "somebody", "metadata": {"a": "b"}},
        {"temperature": 2},  # the tenant's is the most
        {"temperature": 0.7, "max_tokens": 100_000},
        {"model": "gpt-4o-mini", "tenantry": {"retrieval": True}},
    ):
        assert cache.key(SETTINGS, None, read(**changes)) == one
    for change in ({"budget": None}, {"cache": Cache(ttl_seconds=5)}):
        assert cache.key(configuration(**change), None, read()) == one
    assert len({one, user, cache.key(SETTINGS, "bob", read())}) == 3
    ordered = read(logit_bias={"1": 1, "2": 2}), read(logit_bias={"2": 2, "1": 1})
    assert len({cache.key(SETTINGS, None, request) for request in ordered}) == 1


def ticket(settings: Cache, control: str = "", **changes: Any) -> cache.Ticket | None:
    tenant = configuration(cache=settings)
    request = Request({"type": "http", "headers": [(b"cache-control", control.encode())] if control else []})
    call = Call.__new__(Call)
    call.request, call.configuration, call.caller = request, tenant, Caller("", "", "ann", frozenset())
    return cache.ticket(call, chat_request.read(HELLO | changes, tenant))


def test_who_is_looked_up_at_all() -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    assert ticket(Cache())
    assert not ticket(Cache(mode="Off"))
    assert not ticket(Cache(), tenantry={"cache": False})
    assert ticket(Cache(), tenantry={"cache": True})
    assert not ticket(Cache(), "max-age=0, No-Store")
    assert not ticket(Cache(), tenantry={"conversation": "conv_1"})
    assert not ticket(Cache(), tools=[tool])
    assert not ticket(Cache(), functions=[tool["function"]])
    said = [*HELLO["messages"], {"role": "assistant", "content": None, "tool_calls": [{"id": "a"}]}]
    assert not ticket(Cache(), messages=said)
    assert not ticket(Cache(), messages=[{"role": "tool", "tool_call_id": "a", "content": "x"}])
    for changes, looked in (
        ({}, False),
        ({"temperature": 0}, True),
        ({"seed": 0}, True),
        ({"temperature": 0.1}, False),
    ):
        assert bool(ticket(Cache(mode="Deterministic"), **changes)) is looked
    fresh, usual = ticket(Cache(), "no-cache"), ticket(Cache())
    assert fresh
    assert usual
    assert fresh.fresh
    assert not usual.fresh
    assert fresh.key == usual.key
    assert ticket(Cache(scope="User")).key != usual.key  # type: ignore[union-attr]


# --- Answers -------------------------------------------------------------------------------------------------


def answer(text: str = "Hello", finish: str = "stop", **message: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text} | message, "finish_reason": finish}
    return {"id": "chatcmpl-1", "choices": [choice], "usage": {"prompt_tokens": 20, "completion_tokens": 2}}


@pytest.mark.parametrize(
    "refused",
    [
        {},
        {"choices": []},
        {"choices": "no"},
        {"choices": [None]},
        {"choices": [{"finish_reason": "stop"}]},
        answer(finish="length"),
        answer(finish="content_filter"),
        answer(tool_calls=[{"id": "a"}]),
        answer(content=None),
        answer("x" * cache.MAX_ANSWER),
        {"choices": [*answer()["choices"], *answer(finish="length")["choices"]]},
    ],
)
def test_only_an_answer_that_came_to_its_end_is_kept(refused: dict[str, Any]) -> None:
    assert cache.kept(refused, []) is None


def test_an_answer_given_again_says_that_nothing_was_used() -> None:
    hit = Hit("file-1", "vs_1", "größe.md", 0.75, "The text \x00.", {"kind": "test"}, 0, datetime.now(UTC))
    kept = cache.kept(answer("größer \x00"), [hit])
    assert kept
    assert "\x00" not in kept  # PostgreSQL's text could not hold it
    found = cache.again(kept)
    given = found.answer
    assert found.hits == [hit]
    assert given["choices"] == answer("größer \x00")["choices"]
    assert given["id"] not in ("chatcmpl-1", cache.again(kept).answer["id"])
    assert given["usage"]["total_tokens"] == given["usage"]["prompt_tokens"] == given["usage"]["completion_tokens"] == 0
    assert given["usage"]["tenantry"] == {"cache": "hit", "saved": {"prompt_tokens": 20, "completion_tokens": 2}}
    without = cache.kept({**answer(), "usage": None}, [])
    assert without
    assert cache.again(without).answer["usage"]["tenantry"]["saved"] == {"prompt_tokens": 0, "completion_tokens": 0}


# --- Flights -------------------------------------------------------------------------------------------------


class Source:
    """A stream of numbered chunks that waits at `gate` before the last; `ended`: how it came to its end."""

    def __init__(self, count: int = 3) -> None:
        self.count, self.given, self.ended = count, 0, ""
        self.gate = asyncio.Event()

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        try:
            for number in range(self.count):
                if number == self.count - 1:
                    await self.gate.wait()
                self.given += 1
                finish = "stop" if number == self.count - 1 else None
                yield {"choices": [{"index": 0, "delta": {"content": f"{number} "}, "finish_reason": finish}]}
            self.ended = "whole"
        except BaseException as error:
            self.ended = type(error).__name__
            raise


class Carried:
    def __init__(self, source: Source) -> None:
        self.flight, self.ended = Flight(), asyncio.Event()
        self.brought: dict[str, Any] | None = None
        self.tasks: list[asyncio.Task[None]] = []
        self.chunks = carried(self.flight, source.chunks(), Assembly(10**6), self._end, self._begin)

    def _end(self, answer: dict[str, Any] | None) -> None:
        self.brought = answer
        self.flight.land("answer" if answer else None)
        self.ended.set()

    def _begin(self, work: Any) -> asyncio.Task[None]:
        self.tasks.append(asyncio.create_task(work))
        return self.tasks[-1]

    async def end(self) -> None:
        async with asyncio.timeout(30):
            await self.ended.wait()
            await asyncio.gather(*self.tasks, return_exceptions=True)


async def test_a_carried_stream_is_the_same_stream() -> None:
    source = Source()
    source.gate.set()
    stream = Carried(source)
    chunks = [chunk async for chunk in stream.chunks]
    assert [chunk["choices"][0]["delta"]["content"] for chunk in chunks] == ["0 ", "1 ", "2 "]
    assert stream.brought
    assert stream.brought["choices"][0]["message"]["content"] == "0 1 2 "
    assert await stream.flight.answer(1) == "answer"


@pytest.mark.parametrize("waits_inside", [False, True])
async def test_a_client_that_leaves_alone_stops_the_source(waits_inside: bool) -> None:
    """Whether its generator is closed between two chunks, or its task is cancelled while it waits for one."""
    source = Source()
    stream = Carried(source)
    if waits_inside:

        async def client() -> None:
            async for _ in stream.chunks:
                pass

        task = asyncio.create_task(client())
        async with asyncio.timeout(30):
            while source.given < 2:
                await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    else:
        await anext(stream.chunks)
        await stream.chunks.aclose()
    await stream.end()
    assert source.ended in ("CancelledError", "GeneratorExit")
    assert stream.brought is None
    assert await stream.flight.answer(1) is None


async def test_a_client_that_leaves_does_not_stop_it_for_others() -> None:
    source = Source()
    stream = Carried(source)
    await anext(stream.chunks)
    stream.flight.join()
    waiting = asyncio.create_task(stream.flight.answer(30))
    await stream.chunks.aclose()
    assert not waiting.done()
    source.gate.set()
    assert await waiting == "answer"
    await stream.end()
    assert source.ended == "whole"


async def test_what_the_source_raises_its_client_is_told() -> None:
    async def source() -> AsyncGenerator[Chunk, None]:
        yield {"choices": []}
        raise ValueError("no")

    flight, ended = Flight(), []
    stream = carried(flight, source(), Assembly(100), ended.append, asyncio.create_task)
    assert await anext(stream) == {"choices": []}
    with pytest.raises(ValueError, match="no"):
        await anext(stream)
    assert ended == [None]


async def test_a_slow_client_is_not_read_ahead_of_without_end() -> None:
    source = Source(10 * AHEAD_FOR_OTHERS)
    stream = Carried(source)
    await anext(stream.chunks)

    async def read_ahead() -> int:
        before = -1
        while before != source.given:
            before = source.given
            for _ in range(10):
                await asyncio.sleep(0)
        return source.given

    assert await read_ahead() <= AHEAD + 1
    stream.flight.join()  # others are not held up by it
    assert AHEAD_FOR_OTHERS <= await read_ahead() <= AHEAD_FOR_OTHERS + 1
    stream.flight.leave()
    await stream.chunks.aclose()
    await stream.end()


async def test_waiting_has_an_end() -> None:
    assert await Flight().answer(0.01) is None


def test_a_wish_is_in_the_key_with_every_field_that_it_has() -> None:
    request = read()
    assert request.retrieval == RetrievalWish(5, 0.2, None)
    changed = replace(request, retrieval=replace(request.retrieval, top_k=6))
    assert cache.key(SETTINGS, None, changed) != cache.key(SETTINGS, None, request)


# --- Storing -------------------------------------------------------------------------------------------------


async def test_a_busy_replica_stores_together_what_one_alone_stores_at_once() -> None:
    statements: list[tuple[float, int]] = []
    tasks: list[asyncio.Task[None]] = []

    async def ask(statement: str, values: list[Any]) -> list[Any]:
        statements.append((asyncio.get_running_loop().time(), len(values) // 4))
        return []

    def finish(work: Any) -> asyncio.Task[None]:
        tasks.append(asyncio.create_task(work))
        return tasks[-1]

    service: Any = SimpleNamespace(store=SimpleNamespace(ask=ask), finish=finish)
    store, tickets = cache.ResponseCache(service), [cache.Ticket(b"%d" % number, False, False) for number in range(20)]
    began = asyncio.get_running_loop().time()
    for ticket in tickets:
        store.keep(ticket, answer(), [])
        if ticket is tickets[0]:
            await asyncio.sleep(0.001)
    await asyncio.gather(*tasks)
    assert [rows for _, rows in statements] == [1, 8, 8, 3]
    assert statements[0][0] < began + cache.STORE_SECONDS <= statements[1][0]
    assert len(tasks) == 1
