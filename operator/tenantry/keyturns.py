"""Rotation of one AccessKey: which of its generations are accepted, until when, and when the next one comes.  Pure.

1. under way: generation n+1 is stored in the status; then n and n+1 are rows of the runtime's table; then the Secret
   holds n+1.  Until then n has no end: nobody could have read the new key.
2. overlap: n's row carries its end, so that the runtime refuses it then, also while no operator is there.
3. n's row is removed.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from tenantry import rotation
from tenantry.api import AccessKey
from tenantry.api.base import seconds


@dataclass(frozen=True)
class Turn:
    """What an AccessKey's status keeps of its rotation."""

    generation: int = 0
    requested: str = ""
    """The annotation that was last heard."""
    rotated_at: datetime | None = None
    """When the Secret was seen to hold this generation; None while it is under way, and for the first one."""
    previous_until: datetime | None = None
    """The generation before is accepted until then; None: it is not."""

    @property
    def under_way(self) -> bool:
        return self.generation > 0 and self.rotated_at is None

    @property
    def order(self) -> tuple[int, bool, bool]:
        """Of two that are told of one key, the greater one is the newer."""
        return self.generation, self.rotated_at is not None, self.previous_until is None


def of(key: AccessKey) -> Turn:
    s = key.status
    return Turn(s.generation, s.rotation, s.rotated_at, s.previous_until) if s else Turn()


def asked(turn: Turn, key: AccessKey) -> bool:
    return rotation.request(key) not in ("", turn.requested)


def next_at(turn: Turn, key: AccessKey, now: datetime) -> datetime | None:
    """When the next generation shall begin; None: not before something changes."""
    if turn.under_way:
        return None
    if asked(turn, key):
        return now
    since = turn.rotated_at or key.metadata.creation_timestamp
    if not key.spec.rotate_after or since is None:
        return None
    return since.astimezone(UTC) + timedelta(seconds=seconds(key.spec.rotate_after))


def begun(turn: Turn, key: AccessKey) -> Turn:
    """The next generation; the one before the present one ends at once."""
    return Turn(turn.generation + 1, rotation.request(key) or turn.requested)


def in_force(turn: Turn, key: AccessKey, now: datetime) -> Turn:
    """The Secret holds it: the overlap begins."""
    overlap = timedelta(seconds=seconds(key.spec.overlap))
    return replace(turn, rotated_at=now, previous_until=now + overlap if overlap else None)


def settled(turn: Turn, now: datetime) -> Turn:
    """Without an overlap that is over."""
    over = turn.previous_until is not None and turn.previous_until <= now
    return replace(turn, previous_until=None) if over else turn


def accepted(turn: Turn, key: AccessKey, now: datetime) -> list[tuple[int, datetime | None]]:
    """Generations and until when each is accepted (None: without end), the newest first."""
    end = key.spec.expires_at
    found = [(turn.generation, end)]
    if turn.under_way:
        found.append((turn.generation - 1, end))
    elif turn.previous_until and turn.previous_until > now:
        found.append((turn.generation - 1, min(end, turn.previous_until) if end else turn.previous_until))
    return found


def due(turn: Turn, key: AccessKey, now: datetime) -> datetime | None:
    """When something is to be done for this key."""
    if turn.under_way:
        return now
    end = key.spec.expires_at if key.spec.expires_at and key.spec.expires_at > now else None
    times = [t for t in (end, turn.previous_until, next_at(turn, key, now)) if t is not None]
    return min(times, default=None)


def found(generation: int, until: datetime | None, key: AccessKey, now: datetime) -> Turn:
    """What the runtime's table has, where the status has forgotten it; a request that is there counts as heard."""
    return Turn(generation, rotation.request(key), now, until)
