"""A circuit breaker for each store of each region: one that does not answer is asked by one tenant at a time.

Without it every tenant of a dead region would hold a worker for the whole of a timeout, and so slow the tenants
of all other regions (M. Nygard, Release It!, "Circuit Breaker").
"""

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenantry.api.conditions import Reason
from tenantry.backends.errors import BackendError

T = TypeVar("T")
OPENS = frozenset({Reason.DATABASE_UNAVAILABLE, Reason.VECTORS_UNAVAILABLE})
OPEN_SECONDS = 3.0
"""How long a store that did not answer is left alone."""


class Breaker:
    """Closed: everybody passes.  Open: everybody hears the last error at once, until one may try again."""

    def __init__(self, open_seconds: float = OPEN_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._open_seconds = open_seconds
        self._clock = clock
        self._error: BackendError | None = None
        self._until = 0.0
        self._trying = False

    async def __call__(self, step: Callable[[], Awaitable[T]]) -> T:
        """Run `step`, or raise what the last one that tried was told."""
        trial = self._error is not None
        if self._error is not None:
            if self._trying or self._clock() < self._until:
                raise BackendError(self._error.reason, self._error.message)
            self._trying = True
        try:
            result = await step()
        except BackendError as error:
            if error.reason in OPENS:
                self._error, self._until = error, self._clock() + self._open_seconds
            elif trial:
                self._error = None  # it answered, though it refused
            raise
        else:
            self._error = None
            return result
        finally:
            if trial:
                self._trying = False
