"""What is done again and again."""

from __future__ import annotations

import asyncio

import pytest

from tenantry import pauses


async def test_an_error_that_nobody_foresaw_ends_nothing_and_is_said(caplog: pytest.LogCaptureFixture) -> None:
    took: list[float] = []
    third = asyncio.Event()

    async def work() -> None:
        if len(took) == 1:
            raise ValueError("unforeseen")
        if len(took) == 2:
            third.set()

    def pause(seconds: float) -> float:
        took.append(seconds)
        return 0.0

    going = asyncio.create_task(pauses.for_ever(work, pause, "The thing could not be kept"))
    async with asyncio.timeout(30):
        await third.wait()
    going.cancel()
    with pytest.raises(asyncio.CancelledError):
        await going
    (said,) = caplog.records
    assert said.message == "The thing could not be kept; it is tried again"
    assert said.exc_info
    assert min(took) >= 0
