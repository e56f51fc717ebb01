"""What was seen to hold lately, so that an event on one thing costs no look at all the others."""

import hashlib
import struct
import sys
import time
from collections.abc import Callable


def digest(*parts: object) -> str:
    """Of what `repr` shows of them; for comparison within one process."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


_TIME = struct.Struct("d")


def _short(digest: str) -> bytes:
    return hashlib.blake2b(digest.encode(), digest_size=16).digest()


class Memo:
    """Digests of what was asked for, by whose it is (a UID) and what it is; believed for `seconds`.

    All that is remembered of one UID is forgotten in one step: whoever keeps something for a UID that ends must
    say so, or it stays for as long as the process lives.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._seen: dict[str, dict[str, bytes]] = {}
        """When (monotonic) and a short digest, in one: there are ten a tenant."""

    def holds(self, uid: str, what: str, digest: str) -> bool:
        """It was seen to be as `digest` says, and not too long ago."""
        seen = self._seen.get(uid, {}).get(what)
        if seen is None or seen[_TIME.size :] != _short(digest):
            return False
        since: float = _TIME.unpack_from(seen)[0]
        return self._clock() - since < self._seconds

    def held(self, uid: str, what: str, digest: str) -> bool:
        """The same, however long ago: if it differs now, somebody else has changed it."""
        seen = self._seen.get(uid, {}).get(what)
        return seen is not None and seen[_TIME.size :] == _short(digest)

    def knows(self, uid: str, what: str) -> bool:
        """Anything was noted of it."""
        return what in self._seen.get(uid, {})

    def note(self, uid: str, what: str, digest: str) -> None:
        self._seen.setdefault(uid, {})[sys.intern(what)] = _TIME.pack(self._clock()) + _short(digest)

    def forget(self, uid: str) -> None:
        self._seen.pop(uid, None)
