"""Fights: an object that another program sets back each time is put back more and more slowly, and its condition
says so.  Pure but for the clock.

A watch tells of every change at once, so two controllers that disagree would otherwise write as fast as they can.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from tenantry import names
from tenantry.api.conditions import Reason
from tenantry.backends.errors import BackendError
from tenantry.backends.observed import Key

Json = dict[str, Any]

CORRECTIONS = 5
"""So many within WINDOW_SECONDS are a fight; a person who edits by hand makes fewer."""
WINDOW_SECONDS = 60.0
FIRST_PAUSE_SECONDS = 10.0
LONGEST_PAUSE_SECONDS = 160.0
QUIET_SECONDS = 20.0
"""A fight is over when nothing was changed back for so long after the last correction."""


@dataclass
class _Fight:
    corrections: deque[float] = field(default_factory=lambda: deque(maxlen=CORRECTIONS))
    pause: float = 0.0
    """0: no fight yet."""
    who: str = ""


class Contests:
    """What was put back lately, by object."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._fights: dict[Key, _Fight] = {}

    def held(self, key: Key) -> None:
        """It was seen to be as it should; raises while that may be a pause of the fight only."""
        fight = self._fights.get(key)
        if fight is None:
            return
        since = self._clock() - fight.corrections[-1]
        if not fight.pause:
            if since > WINDOW_SECONDS:
                del self._fights[key]
            return
        if since < QUIET_SECONDS:
            raise contested(key, fight.who)
        del self._fights[key]

    def before(self, key: Key) -> None:
        """It differs; raises where it is too early to put it back again."""
        fight = self._fights.get(key)
        if fight and fight.pause and self._clock() - fight.corrections[-1] < fight.pause:
            raise contested(key, fight.who)

    def near(self, key: Key) -> bool:
        """Whether the next correction is, or starts, a fight: then it is worth asking who the other one is."""
        fight = self._fights.get(key)
        return fight is not None and (bool(fight.pause) or len(fight.corrections) >= CORRECTIONS - 1)

    def corrected(self, key: Key, who: str = "") -> None:
        """It was put back; raises where that is part of a fight with `who`."""
        fight = self._fights.setdefault(key, _Fight())
        now = self._clock()
        fight.corrections.append(now)
        if fight.pause:
            fight.pause = min(2 * fight.pause, LONGEST_PAUSE_SECONDS)
        elif len(fight.corrections) == CORRECTIONS and now - fight.corrections[0] < WINDOW_SECONDS:
            fight.pause = FIRST_PAUSE_SECONDS
        if fight.pause:
            fight.who = who or fight.who
            error = contested(key, fight.who)
            error.corrected = ("/".join(key),)
            raise error

    def forget(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self._fights.pop(key, None)


def contested(key: Key, who: str) -> BackendError:
    kind, namespace, name = key
    what = f"{kind} {namespace + '/' if namespace else ''}{name}"
    by = f"{who} changes" if who else "Another program changes or deletes"
    return BackendError(
        Reason.CONTESTED,
        f"{by} {what} each time it is put back, so the operator now does that only every few minutes; tell that "
        "program to leave it alone, or change what the Tenant or its tier asks for",
    )


def other(obj: Json) -> str:
    """Who else wrote to an object last, by the name that it gave the API server; empty where nobody did."""
    found = [
        (str(m.get("time", "")), str(m["manager"]))
        for m in obj["metadata"].get("managedFields", ())
        if m.get("manager", names.MANAGER) != names.MANAGER and not m.get("subresource")
    ]
    return repr(max(found)[1][:128]) if found else ""
