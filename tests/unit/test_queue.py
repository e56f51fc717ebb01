import asyncio
import random

import pytest

from tenantry.queue import CALM_SECONDS, LONGEST_BACKOFF_SECONDS, NEW_SECONDS, Queue


async def until(condition, seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
async def running():
    """Starts a queue's workers; ends them after the test."""
    tasks: list[asyncio.Task[None]] = []

    def start(queue: Queue) -> Queue:
        tasks.append(asyncio.create_task(queue.run()))
        return queue

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_key_waits_once(running):
    seen: list[str] = []

    async def work(key: str) -> None:
        seen.append(key)

    queue = Queue(work, 2)
    for _ in range(5):
        queue.add("a")
    running(queue)
    await until(lambda: queue.idle and seen)
    assert seen == ["a"]


async def test_a_key_is_never_worked_on_twice_at_once_and_an_event_meanwhile_is_not_lost(running):
    under_way, most, calls = 0, 0, 0
    gate = asyncio.Event()

    async def work(key: str) -> None:
        nonlocal under_way, most, calls
        calls += 1
        under_way += 1
        most = max(most, under_way)
        await gate.wait()
        under_way -= 1

    queue = running(Queue(work, 4))
    queue.add("a")
    await until(lambda: under_way == 1)
    queue.add("a")
    queue.add("a")
    gate.set()
    await until(lambda: calls == 2 and queue.idle)
    assert most == 1


async def test_it_is_crowded_while_more_wait_than_are_worked_on(running):
    gate, seen = asyncio.Event(), []

    async def work(key: str) -> None:
        seen.append(queue.crowded)
        await gate.wait()

    queue = Queue(work, 2)
    for number in range(6):
        queue.add(f"n{number}")
    running(queue)
    await until(lambda: len(seen) == 2)
    assert queue.crowded
    gate.set()
    await until(lambda: queue.idle)
    assert not queue.crowded
    assert seen[-2:] == [False, False]


async def test_one_that_hangs_holds_up_nobody_else(running):
    done: list[str] = []

    async def work(key: str) -> None:
        if key == "bad":
            await asyncio.Event().wait()
        done.append(key)

    queue = running(Queue(work, 2))
    queue.add("bad")
    for number in range(20):
        queue.add(f"good-{number}")
    await until(lambda: len(done) == 20)


async def test_a_failure_comes_again_and_what_is_returned_too(running):
    calls: list[str] = []

    async def work(key: str) -> float | None:
        calls.append(key)
        if len(calls) == 1:
            raise RuntimeError("the first time")
        return 0.01 if len(calls) == 2 else None

    queue = running(Queue(work, 1, rng=random.Random(1)))
    queue.add("a")
    await until(lambda: len(calls) == 3)


async def test_the_earliest_wish_wins(running):
    calls = 0

    async def work(key: str) -> None:
        nonlocal calls
        calls += 1

    queue = running(Queue(work, 1))
    queue.add("a", 3600)
    queue.add("a", 0.01)
    queue.add("a", 3600)
    await until(lambda: calls == 1)


async def test_back_off_doubles_within_bounds_and_starts_again_after_success():
    async def work(key: str) -> None:
        return None

    queue = Queue(work, 1, rng=random.Random(7))
    pauses = [queue.backoff("a") for _ in range(12)]
    assert 0.25 <= pauses[0] <= 0.5
    assert all(p <= LONGEST_BACKOFF_SECONDS for p in pauses)
    assert pauses[-1] >= LONGEST_BACKOFF_SECONDS / 2
    queue.succeeded("a")
    assert queue.backoff("a") <= 0.5
    assert queue.backoff("b") <= 0.5


async def test_a_region_that_hangs_never_holds_the_workers_of_another(running):
    """By counts: however many of its tenants hang, the others have all of their own workers."""
    hanging, under_way, most, done = 0, 0, 0, 0

    async def work(key: str) -> None:
        nonlocal hanging, under_way, most, done
        if key.startswith("bad"):
            hanging += 1
            await asyncio.Event().wait()
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.001)
        under_way -= 1
        done += 1

    queue = running(Queue(work, 4, group=lambda key: key.split("-")[0]))
    for number in range(50):
        queue.add(f"bad-{number}")
        queue.add(f"worse-{number}")
    await until(lambda: done == 50)
    for number in range(20):
        queue.add(f"good-{number}")
    await until(lambda: done == 70)
    assert hanging == 4
    assert most <= 8
    queue.add("good-1")
    await until(lambda: done == 71)
    assert not queue.idle


async def test_work_ends_with_the_queue_and_nothing_fires_afterwards():
    calls, ended = 0, 0

    async def work(key: str) -> None:
        nonlocal calls, ended
        calls += 1
        try:
            await asyncio.Event().wait()
        finally:
            ended += 1

    queue = Queue(work, 2)
    task = asyncio.create_task(queue.run())
    for key in "abcd":
        queue.add(key)
    queue.add("later", 0.01)
    await until(lambda: calls == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    queue.add("e")
    await asyncio.sleep(0.05)
    assert (calls, ended) == (2, 2)


async def test_what_was_begun_goes_first_then_what_is_new_then_what_nobody_waits_for(running):
    seen: list[str] = []

    def rank(key: str, calm: bool) -> float:
        return CALM_SECONDS if calm else 0 if key.startswith("begun") else NEW_SECONDS

    async def work(key: str) -> None:
        seen.append(key)

    queue = Queue(work, 1, rank=rank)
    queue.add("calm", calm=True)
    queue.add("new")
    queue.add("begun")
    queue.add("changed", calm=True)
    queue.add("changed")  # somebody waits for it now
    queue.add("new-2")
    running(queue)
    await until(lambda: queue.idle and len(seen) == 5)
    assert seen == ["begun", "new", "changed", "new-2", "calm"]
