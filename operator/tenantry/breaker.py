"""A circuit breaker for each store of each region: one that does not answer is asked by one tenant at a time.

Without it every tenant of a dead region would hold a worker for the whole of a timeout, and would ask the store
again and again while it recovers (M. Nygard, Release It!, "Circuit Breaker").
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenantry import pauses
from tenantry.api.conditions import Reason
from tenantry.backends.errors import BackendError

T = TypeVar("T")
Wake = Callable[[str, float], None]
"""Looks at a tenant (its name) again after so many seconds."""
OPENS = frozenset({Reason.DATABASE_UNAVAILABLE, Reason.VECTORS_UNAVAILABLE})
OPEN_SECONDS = 3.0
"""How long a store that did not answer is left alone, at first."""
LONGEST_SECONDS = 15.0
"""And at most, after tries that failed too: so soon is seen that it is back."""
WAKES_PER_SECOND = 50
"""Of the tenants that waited for it, once it is back."""


class Breaker:
    """Closed: everybody passes.  Open: everybody hears the last error at once, until one may try again.

    Who was refused need not come back in time by itself: `wake` is called for one tenant when a try is due, and for
    all that wait once the store has answered.
    """

    def __init__(
        self,
        wake: Wake | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._wake = wake
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._error: BackendError | None = None
        self._pause = OPEN_SECONDS
        self._until = 0.0
        self._trying = False
        self._waiting: dict[str, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def __call__(self, step: Callable[[], Awaitable[T]], tenant: str = "") -> T:
        """Run `step`, or raise what the last one that tried was told."""
        trial = self._error is not None
        if self._error is not None:
            if self._trying or self._clock() < self._until:
                self._waits(tenant)
                raise BackendError(self._error.reason, self._error.message)
            self._trying = True
        try:
            result = await step()
        except BackendError as error:
            if error.reason in OPENS and not error.own:
                self._open(error, tenant, trial)
            elif trial:
                self.close()  # it answered, though it refused
            raise
        else:
            self.close()
            return result
        finally:
            if trial:
                self._trying = False

    def _open(self, error: BackendError, tenant: str, trial: bool) -> None:
        if trial:
            self._pause = min(LONGEST_SECONDS, self._pause * 2)
        elif self._error is None:
            self._pause = OPEN_SECONDS
        self._error = error
        pause = pauses.at_most(self._pause, self._rng)
        self._until = self._clock() + pause
        self._waits(tenant)
        self._later(pause)

    def _waits(self, tenant: str) -> None:
        if tenant:
            self._waiting[tenant] = None

    def _later(self, seconds: float) -> None:
        if self._wake is None:
            return
        if self._timer:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._nudge)

    def _nudge(self) -> None:
        """Have one of those who wait try; if it does not come to that, for it was deleted, the next one."""
        self._timer = None
        if self._error is None or self._wake is None or not self._waiting:
            return
        if not self._trying:
            tenant = next(iter(self._waiting))
            del self._waiting[tenant]
            self._wake(tenant, 0)
        self._later(self._pause)

    def close(self) -> None:
        """It answers, or another one is asked from now on: whoever waits may go on."""
        self._error = None
        if self._timer:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = list(self._waiting), {}
        if self._wake:
            for number, tenant in enumerate(waiting):
                self._wake(tenant, (number + self._rng.random()) / WAKES_PER_SECOND)
