"""How many uploads there may be at once, and how slow one may be."""

import asyncio

import pytest
from starlette.requests import Request
from starlette.types import Message, Receive

from tenantry_runtime import uploads
from tenantry_runtime.errors import ApiError
from tenantry_runtime.service import UPLOADS
from tenantry_runtime.uploads import Uploads


async def until(count: int, inside: set[int]) -> None:
    async with asyncio.timeout(30):
        while len(inside) != count:
            await asyncio.sleep(0.01)


async def test_an_upload_waits_for_room_and_is_told_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    places = Uploads(UPLOADS)
    let_go = [asyncio.Event() for _ in range(UPLOADS + 1)]
    inside = set[int]()

    async def upload(number: int) -> None:
        async with places.place():
            inside.add(number)
            await let_go[number].wait()

    running = [asyncio.create_task(upload(number)) for number in range(UPLOADS + 1)]
    await until(UPLOADS, inside)
    assert inside == set(range(UPLOADS))
    monkeypatch.setattr(uploads, "WAIT_SECONDS", 0)
    with pytest.raises(ApiError) as refused:
        async with places.place():
            raise AssertionError
    assert (refused.value.status, refused.value.code) == (503, "uploads_busy")
    assert refused.value.headers["Retry-After"] == "5"
    let_go[0].set()
    await running[0]
    await until(UPLOADS + 1, inside)
    for event in let_go:
        event.set()
    await asyncio.gather(*running)
    # All places are free again.
    async with places.place(), places.place(), places.place(), places.place():
        pass


class Clock:
    """Moves the loop's time as the test says; timers run when it has passed theirs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        self.ahead, real = 0.0, loop.time
        monkeypatch.setattr(loop, "time", lambda: real() + self.ahead)

    async def move(self, seconds: float) -> None:
        """A second at a time, each with all that it leads to."""
        for _ in range(round(seconds)):
            self.ahead += 1
            for _ in range(20):
                await asyncio.sleep(0)


def body(pieces: "asyncio.Queue[bytes]") -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": await pieces.get(), "more_body": True}

    return receive


async def upload(places: Uploads, pieces: "asyncio.Queue[bytes]", inside: list[str], name: str) -> str:
    """Receive a body without an end; the code of what ended it."""
    try:
        async with places.place() as place:
            inside.append(name)
            request = Request({"type": "http"}, place.counted(body(pieces)))
            async with place.coming():
                async for _ in request.stream():
                    pass
    except ApiError as error:
        return f"{error.status} {error.code} {error.param}"
    raise AssertionError


async def test_slow_uploads_make_room_for_one_that_waits_and_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, places, inside = Clock(monkeypatch), Uploads(UPLOADS), list[str]()
    pieces = [asyncio.Queue[bytes]() for _ in range(UPLOADS)]
    slow = [asyncio.create_task(upload(places, pieces[n], inside, f"slow-{n}")) for n in range(UPLOADS)]
    for _ in range(10):  # nobody waits: they may take as long as their connection lets them
        for each in pieces[1:]:
            each.put_nowait(b"x" * 1000)
        await clock.move(6)
    assert not any(task.done() for task in slow)
    pieces[0].put_nowait(b"x" * 90 * uploads.RATE)  # as fast as is asked for
    await clock.move(1)
    others = [asyncio.create_task(upload(places, asyncio.Queue(), inside, f"other-{n}")) for n in range(2)]
    await clock.move(3)
    assert set(inside[UPLOADS:]) == {"other-0", "other-1"}
    assert not slow[0].done()
    ended = [task for task in slow if task.done()]  # as many as waited, and no more
    assert [task.result() for task in ended] == ["408 request_timeout file"] * 2
    (left,) = (task for task in slow[1:] if not task.done())
    # The newer ones have a while of their own: the third slow one makes room first.
    last = [asyncio.create_task(upload(places, asyncio.Queue(), inside, f"last-{n}")) for n in range(2)]
    await clock.move(uploads.GRACE - 6)
    assert left.done()
    assert not any(task.done() for task in (slow[0], *others, *last))
    assert len(inside) == UPLOADS + 3
    await clock.move(8)
    assert [task.done() for task in others].count(True) == 1
    assert len(inside) == UPLOADS + 4
    running = [task for task in (*slow, *others, *last) if not task.done()]
    assert slow[0] in running
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    async with places.place(), places.place(), places.place(), places.place():
        pass


async def test_what_is_being_stored_is_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its body has come: the time that we take is not the client's."""
    clock, places = Clock(monkeypatch), Uploads(1)
    async with places.place() as place:
        async with place.coming():
            pass
        other = asyncio.create_task(upload(places, asyncio.Queue(), [], "other"))
        await clock.move(uploads.GRACE + 5)
        assert not other.done()
    other.cancel()
    await asyncio.gather(other, return_exceptions=True)
