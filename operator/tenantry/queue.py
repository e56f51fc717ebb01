"""A keyed work queue: each key at most once in line and at most once under way; failures back off with jitter.

Keys of different groups (regions) wait in different lines, each with workers of its own: a region that hangs holds
its own workers and nobody else's (M. Nygard, Release It!, "Bulkheads").  Within a line, what was begun is ended
before new work is begun, and what nobody waits for (resyncs, retries) comes last; but nothing waits for ever, since
a rank is a number of seconds for which others may come later and still go first.
"""

import asyncio
import heapq
import itertools
import logging
import math
import random
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable

from tenantry import pauses

logger = logging.getLogger(__name__)

FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 60.0
SOON_SECONDS = 30.0
"""Rank of what serves and has changed, and of what was begun and is tried again."""
NEW_SECONDS = 600.0
"""Of what is not yet begun.  Longer than a burst takes: its first are ended long before its last are begun."""
CALM_SECONDS = NEW_SECONDS + 30.0
"""Of what nobody waits for."""


class Queue:
    """`work(key)` returns the seconds after which to look again, or None; an exception backs off.

    `workers`: keys of one group under way at once.  `rank(key, calm)`: see above; `calm` where nothing has happened to
    the key, but a time has come.
    """

    def __init__(
        self,
        work: Callable[[str], Awaitable[float | None]],
        workers: int,
        *,
        group: Callable[[str], str] = lambda key: "",
        rank: Callable[[str, bool], float] = lambda key, calm: CALM_SECONDS if calm else NEW_SECONDS,
        depth: Callable[[int], None] = lambda number: None,
        rng: random.Random | None = None,
    ) -> None:
        self._work = work
        self._workers = workers
        self._group = group
        self._rank = rank
        self._depth = depth
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._lines: dict[str, list[tuple[float, int, str]]] = defaultdict(list)
        """Heaps of when to go first, number, key; one whose time is not that in `_waiting` is void."""
        self._numbers = itertools.count()
        self._busy: Counter[str] = Counter()
        self._tasks: asyncio.TaskGroup | None = None
        self._waiting: dict[str, float] = {}
        self._running: set[str] = set()
        self._again: set[str] = set()
        self._timers: dict[str, tuple[float, asyncio.TimerHandle]] = {}
        self._failures: dict[str, int] = {}

    def add(self, key: str, delay: float = 0, *, calm: bool = False) -> None:
        """Put it in line, now or later.  The earliest of several wishes wins.  `calm`: nothing has happened to it."""
        if delay > 0:
            loop = asyncio.get_running_loop()
            due = loop.time() + delay
            pending = self._timers.get(key)
            if pending and pending[0] <= due:
                return
            if pending:
                pending[1].cancel()
            self._timers[key] = (due, loop.call_at(due, self._fire, key))
            return
        if pending := self._timers.pop(key, None):
            pending[1].cancel()
        if key in self._running:
            self._again.add(key)
            return
        due = time.monotonic() + self._rank(key, calm)
        if due < self._waiting.get(key, math.inf):
            self._waiting[key] = due
            group = self._group(key)
            heapq.heappush(self._lines[group], (due, next(self._numbers), key))
            self._depth(len(self._waiting))
            self._start(group)

    def _fire(self, key: str) -> None:
        self._timers.pop(key, None)
        self.add(key, calm=True)

    def backoff(self, key: str) -> float:
        """The next pause after a failure: doubles up to a minute, and between half and all of it."""
        count = self._failures[key] = self._failures.get(key, 0) + 1
        longest: float = min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(count - 1, 10))
        return pauses.at_most(longest, self._rng)

    def succeeded(self, key: str) -> None:
        self._failures.pop(key, None)

    @property
    def crowded(self) -> bool:
        """More wait than are worked on."""
        return len(self._waiting) > self._workers

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._running

    async def run(self) -> None:
        """Until cancelled; work under way is cancelled with it."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                try:
                    for group in list(self._lines):
                        self._start(group)
                    await asyncio.Event().wait()
                finally:
                    self._tasks = None
        finally:
            for _, timer in self._timers.values():
                timer.cancel()
            self._timers.clear()

    def _start(self, group: str) -> None:
        """Put this group's free workers to work."""
        line = self._lines[group]
        while self._tasks and line and self._busy[group] < self._workers:
            due, _, key = heapq.heappop(line)
            if self._waiting.get(key) != due:
                continue
            del self._waiting[key]
            self._running.add(key)
            self._busy[group] += 1
            self._tasks.create_task(self._one(group, key))
        if not line and not self._busy[group]:
            self._lines.pop(group, None)
            self._busy.pop(group, None)
        self._depth(len(self._waiting))

    async def _one(self, group: str, key: str) -> None:
        delay: float | None = None
        try:
            delay = await self._work(key)
        except Exception:
            logger.exception("The work on %s failed; it is tried again", key)
            delay = self.backoff(key)
        finally:
            self._running.discard(key)
            self._busy[group] -= 1
        if key in self._again:
            self._again.discard(key)
            self.add(key)
        elif delay is not None:
            self.add(key, delay)
        self._start(group)
