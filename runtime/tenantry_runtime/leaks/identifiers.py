"""Other tenants' identifiers, known only by keyed hashes: see docs/runtime.md for what that hides and what not."""

import hmac
import re
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator

SHORTEST, LONGEST = 4, 64
"""Characters of an identifier: letters, digits, ``_`` and ``-``."""
HASH_BYTES = 16
"""Bytes of a hash in the table, `config.leak_hash`; the first 8 of them are what is kept here."""
_KEPT = 8
_AROUND = 3
"""As many ``_`` and ``-`` around an identifier are taken for emphasis."""
MOST_AROUND = 2 * _AROUND + 5
"""Characters that a run which holds an identifier is longer at most; 5 are of an escape such as ``\\u000a``."""
_REMEMBERED = 20_000
"""Words that are known to be none: most words come again and again."""
_RUN = re.compile(r"[A-Za-z0-9_-]+")


class Identifiers:
    """`hashes`: the table's, one after the other, in any order; `lengths`: those that occur among them."""

    def __init__(self, key: bytes, lengths: Iterable[int], hashes: bytes) -> None:
        self._key = key
        self._lengths = frozenset(lengths)
        kept = b"".join(hashes[at : at + _KEPT] for at in range(0, len(hashes), HASH_BYTES))
        self._hashes = array("Q", sorted(array("Q", kept)))
        self._clean: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._hashes)

    def spans(self, text: str, runs: set[bytes]) -> Iterator[tuple[int, int]]:
        """Where identifiers are in `text`, whose lower-cased runs are `runs`."""
        if not self._hashes:
            return
        found = self._found(runs)
        if not found:
            return
        for matched in _RUN.finditer(text):
            at = matched.start()
            for form, skipped in _forms(matched[0].lower().encode()):
                if skipped and not text.startswith("\\", at - 1):
                    continue
                bare, left = _bare(form)
                if form in found:
                    bare, left = form, 0
                if bare in found:
                    start = at + skipped + left
                    yield start, start + len(bare)
                    break

    def _found(self, runs: set[bytes]) -> set[bytes]:
        found: set[bytes] = set()
        new = runs - self._clean
        for word in new:
            for form, _ in _forms(word):
                for candidate in {form, _bare(form)[0]}:
                    if len(candidate) in self._lengths and self._holds(candidate):
                        found.add(candidate)
        if len(self._clean) + len(new) > _REMEMBERED:
            self._clean = set()
        if not found and len(new) <= _REMEMBERED:
            self._clean.update(word for word in new if len(word) <= LONGEST)
        return found

    def _holds(self, word: bytes) -> bool:
        number = array("Q", hmac.digest(self._key, word, "sha256")[:_KEPT])[0]
        at = bisect_left(self._hashes, number)
        return at < len(self._hashes) and self._hashes[at] == number


def _forms(run: bytes) -> Iterator[tuple[bytes, int]]:
    """A run, and what it is where a backslash stands before it: in JSON ``\\n`` is no part of the word behind it."""
    yield run, 0
    if run[:1] in (b"n", b"r", b"t", b"b", b"f"):
        yield run[1:], 1
    elif run[:1] == b"u" and len(run) > 5:
        yield run[5:], 5


def _bare(word: bytes) -> tuple[bytes, int]:
    """Without the ``_`` and ``-`` around it, and how many were on the left."""
    left = min(len(word) - len(word.lstrip(b"_-")), _AROUND)
    right = min(len(word) - len(word.rstrip(b"_-")), _AROUND)
    return word[left : len(word) - right if left + right < len(word) else left], left


NO_IDENTIFIERS = Identifiers(b"", (), b"")
