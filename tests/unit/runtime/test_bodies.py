"""The memory of all bodies together: taken as they come, given back when their requests end, however they end."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry_runtime.bodies import FREE, Bodies
from tenantry_runtime.errors import ApiError

MOST = 100_000


async def nothing() -> dict:
    raise AssertionError("nobody reads here")


async def sent(_) -> None:
    raise AssertionError("nobody writes here")


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 60_000)), max_size=60))
def test_it_never_holds_more_and_forgets_nothing(steps: list[tuple[int, int]]) -> None:
    """Six requests at a time grow in any order; each that is refused, or at the end, gives back what it took."""
    bodies, scopes, sizes = Bodies(MOST), [{} for _ in range(6)], [0] * 6
    for number, more in steps:
        size = sizes[number] + more
        before = bodies.held
        refused = refusal(bodies, scopes[number], size)
        if refused:
            assert (refused.status, refused.code) == (503, "bodies_busy")
            assert "Retry-After" in refused.headers
            assert bodies.held == before
            assert size > FREE  # a small one is never refused
            asyncio.run(bodies.around(ends)(scopes[number], nothing, sent))
        scopes[number], sizes[number] = ({}, 0) if refused else (scopes[number], size)
        assert bodies.held == sum(max(0, size - FREE) for size in sizes) <= MOST
    for scope in scopes:
        asyncio.run(bodies.around(ends)(scope, nothing, sent))
    assert bodies.held == 0


def refusal(bodies: Bodies, scope: dict, size: int) -> ApiError | None:
    try:
        bodies.grow(scope, size)
    except ApiError as error:
        return error
    return None


async def ends(*_) -> None:
    return


async def test_a_request_that_fails_or_is_cancelled_gives_back_too() -> None:
    bodies = Bodies(MOST)
    reached = asyncio.Event()

    async def fails(scope, *_) -> None:
        bodies.grow(scope, 50_000)
        raise RuntimeError

    async def hangs(scope, *_) -> None:
        bodies.grow(scope, 50_000)
        reached.set()
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError):
        await bodies.around(fails)({}, nothing, sent)
    assert bodies.held == 0
    task = asyncio.create_task(bodies.around(hangs)({}, nothing, sent))
    await reached.wait()
    assert bodies.held == 50_000 - FREE
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert bodies.held == 0
