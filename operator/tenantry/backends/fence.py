"""What keeps a replica that no longer leads from writing: looked at before every write, not only when it renews.

A process can be stopped for longer than its Lease lasts (SIGSTOP, a paused virtual machine, a starved CPU) and go on
in the middle of its work, before it could notice that another replica has taken over.
"""

import math
import time


def clock() -> float:
    """Seconds that also pass while the machine sleeps, where the system has such a clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Fence:
    """Open until a moment of `clock()`; without a Lease, as in tools, always."""

    def __init__(self) -> None:
        self._until = math.inf

    def open_until(self, moment: float) -> None:
        self._until = moment

    def shut(self) -> None:
        self._until = -math.inf

    @property
    def shuts_out(self) -> bool:
        return clock() >= self._until


MESSAGE = "This replica's Lease has run out, so it writes nothing; the replica that leads goes on"
