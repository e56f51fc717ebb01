"""Our own writes come back through the watches, often before the answer: that is no news."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tenantry.backends.kinds import Kind
from tenantry.backends.observed import Key, key

Event = dict[str, Any]
MOST = 16
"""Events of one object that are put off; more than a write can see in its time, unless somebody fights over it."""


class Echoes:
    """What watches say of an object while a write of it is under way is told again once its answer is known.

    Only what differs from the answer is news then: `replay` is to ignore what is no newer.
    """

    def __init__(self) -> None:
        self.replay: Callable[[Kind, Event], None] = lambda kind, event: None
        self._writes: dict[Key, int] = {}
        self._events: dict[Key, list[tuple[Kind, Event]]] = {}

    @contextmanager
    def writing(self, k: Key) -> Iterator[None]:
        """The answer must be known by the end of the block."""
        self._writes[k] = self._writes.get(k, 0) + 1
        try:
            yield
        finally:
            self._writes[k] -= 1
            if not self._writes[k]:
                del self._writes[k]
                for kind, event in self._events.pop(k, ()):
                    self.replay(kind, event)

    def defers(self, kind: Kind, event: Event) -> bool:
        """Whether an event (with its object's apiVersion and kind) is put off."""
        k = key(event["object"])
        if k not in self._writes:
            return False
        events = self._events.setdefault(k, [])
        events.append((kind, event))
        if len(events) > MOST:
            del events[0]
        return True
