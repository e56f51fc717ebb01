"""How many uploads there may be at once."""

import asyncio

import pytest

from tenantry_runtime.errors import ApiError
from tenantry_runtime.routes import files
from tenantry_runtime.service import UPLOADS


async def test_an_upload_waits_for_room_and_is_told_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    uploads = asyncio.Semaphore(UPLOADS)
    let_go = [asyncio.Event() for _ in range(UPLOADS + 1)]
    inside = set[int]()

    async def upload(number: int) -> None:
        async with files._room(uploads):
            inside.add(number)
            await let_go[number].wait()

    running = [asyncio.create_task(upload(number)) for number in range(UPLOADS + 1)]
    for _ in range(10):
        await asyncio.sleep(0)
    assert inside == set(range(UPLOADS))
    monkeypatch.setattr(files, "WAIT_SECONDS", 0)
    with pytest.raises(ApiError) as refused:
        async with files._room(uploads):
            raise AssertionError
    assert (refused.value.status, refused.value.code) == (503, "uploads_busy")
    assert refused.value.headers["Retry-After"] == "5"
    let_go[0].set()
    await running[0]
    for _ in range(10):
        await asyncio.sleep(0)
    assert inside == set(range(UPLOADS + 1))
    for event in let_go:
        event.set()
    await asyncio.gather(*running)
    assert uploads._value == UPLOADS
