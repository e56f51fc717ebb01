"""Everything that must not pass in one text: see `rules`, `cards`, `assignments` and `identifiers`.

The text is looked at as its runs of letters, digits, ``_`` and ``-`` first, as bytes and all at once: most texts hold
no run that could be a key, and then little else is done.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tenantry_runtime.leaks import assignments, cards, rules
from tenantry_runtime.leaks.identifiers import LONGEST, MOST_AROUND, NO_IDENTIFIERS, Identifiers
from tenantry_runtime.leaks.kinds import FOREIGN_TENANT
from tenantry_runtime.leaks.matching import CUT, Followed, follow

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
_RUNS = bytes(ord(chr(code).lower()) if chr(code) in _LETTERS else 32 for code in range(256))
"""Lower-cases, and leaves nothing but runs and blanks."""
_LONG = 16
LONGEST_RUN = 96
"""A run of more characters is neither an identifier nor a whole key, so it is held back no longer."""
LONGEST_TOGETHER = 4096
"""Characters from which on a secret takes in no other that overlaps it."""
assert max(LONGEST + MOST_AROUND, *rules.WHOLE_LENGTHS) <= LONGEST_RUN

_IN_RUN = [(begin.lower().encode(), begin, rule) for rule in rules.RULES if rule.in_run for begin in rule.begins]
_ACROSS = [(begin, rule) for rule in rules.RULES if not rule.in_run for begin in rule.begins]
_HELD = [begin for begin, rule in _ACROSS if rule.steps[0] is not CUT]
_ALL = [begin for rule in rules.RULES for begin in rule.begins]
_PREFIXES = frozenset(begin[:size] for begin in _ALL for size in range(1, len(begin)))
_LONGEST_BEGIN = max(map(len, _ALL))
_OPENINGS = tuple({begin[: len(begin) - len(begin.lstrip(_LETTERS))] for begin in _HELD})
_BODY, _VARIETY = 24, 7
"""Of so many of a key's last characters, so many are different at least; what has fewer stands for a key: ``xxxx``."""
_GENERAL = ("generic_token", "password")


@dataclass(frozen=True)
class Finding:
    """`start` and `end` in the text that was looked at."""

    kind: str
    start: int
    end: int


class Detector:
    """Finds secrets always, and other tenants' identifiers as far as it was told of them."""

    def __init__(self, identifiers: Identifiers = NO_IDENTIFIERS) -> None:
        self.identifiers = identifiers

    def find(self, text: str, since: int = 0, final: bool = True) -> tuple[list[Finding], int]:
        """What begins at `since` or later, in order, and up to where this is certain.

        Secrets that overlap are one finding.  Unless `final`, more text may follow: what is before the returned
        place stays as found, whatever follows.
        """
        lowered = text.encode("ascii", "replace").translate(_RUNS)
        runs = set(lowered.split())
        hold = len(text) if final else _unfinished(text, since)
        spans: list[Finding] = [
            Finding(FOREIGN_TENANT, start, end)
            for start, end in self.identifiers.spans(text, runs)
            if start >= since and end - start <= LONGEST_RUN
        ]
        for kind, followed in _secrets(text, lowered, runs, since, final):
            if followed.start is None or followed.start < since:
                continue
            if followed.open:
                hold = min(hold, followed.start)
            elif followed.end > followed.start:
                spans.append(Finding(kind, followed.start, followed.end))
        return _certain(_merged(spans), hold) if spans else ([], hold)


@dataclass(frozen=True)
class _Closed(Finding):
    """One that is so long that it takes no more in."""


def _merged(spans: list[Finding]) -> list[Finding]:
    """Secrets that overlap as one, of the most telling kind, up to a length; identifiers stay what they are."""
    spans.sort(key=lambda span: (span.start, span.kind in _GENERAL, span.kind))
    merged: list[Finding] = []
    secret: Finding | None = None
    for span in spans:
        if span.kind == FOREIGN_TENANT:
            merged.append(span)
        elif secret is None or span.start >= secret.end:
            if secret:
                merged.append(secret)
            secret = span
        elif not isinstance(secret, _Closed):
            kind = span.kind if secret.kind in _GENERAL else secret.kind
            secret = Finding(kind, secret.start, max(secret.end, span.end))
        if secret and not isinstance(secret, _Closed) and secret.end - secret.start >= LONGEST_TOGETHER:
            secret = _Closed(secret.kind, secret.start, secret.end)
    if secret:
        merged.append(secret)
    return sorted(merged, key=lambda span: (span.start, span.end))


def _certain(found: list[Finding], hold: int) -> tuple[list[Finding], int]:
    """Those that nothing which may begin at `hold` can become one with, and up to where that is so."""
    for finding in found:
        if isinstance(finding, _Closed) and finding.start < hold < finding.end:
            hold = finding.end  # certain as it is: what may begin in it belongs to it
    moved = True
    while moved:
        moved = False
        for finding in found:
            if finding.start < hold < finding.end:
                hold, moved = finding.start, True
    return [finding for finding in found if finding.end <= hold], hold


def _secrets(text: str, lowered: bytes, runs: set[bytes], since: int, final: bool) -> Iterator[tuple[str, Followed]]:
    long = [run for run in runs if len(run) >= _LONG]
    if long:
        joined = b" ".join(long)
        for sought, begin, rule in _IN_RUN:
            if sought in joined:
                yield from _by_rule(text, begin, rule, final)
        yield from _by_run(text, long, final)
    for begin, rule in _ACROSS:
        if begin in text if not final or (not rule.hint and long) else rule.hint and rule.hint in text:
            yield from _by_rule(text, begin, rule, final)
    for led in rules.LED:
        if led.mark in text:
            yield from _led(text, led, final)
    for card in cards.candidates(text, since, final):
        yield "card_number", card
    if "://" in text:
        for password in assignments.in_addresses(text, final):
            yield "connection_string", password
    yield from assignments.assigned(text, lowered, final)


def _by_rule(text: str, begin: str, rule: rules.Rule, final: bool) -> Iterator[tuple[str, Followed]]:
    at = text.find(begin)
    while at >= 0:
        if _may_begin(text, at, rule.apart):
            followed = follow(rule.steps, text, at, at + len(begin), final)
            if followed and (followed.open or _holds(rule, text, followed)):
                yield rule.kind, followed
        at = text.find(begin, at + 1)


def _holds(rule: rules.Rule, text: str, followed: Followed) -> bool:
    key = text[followed.start : followed.end]
    return _various(key) and (rule.holds is None or rule.holds(key))


def _various(key: str) -> bool:
    return len(set(key[-_BODY:])) >= _VARIETY


def _by_run(text: str, long: list[bytes], final: bool) -> Iterator[tuple[str, Followed]]:
    if any(len(run) in rules.DISCORD_LENGTHS for run in long):
        for first in rules.DISCORD.finditer(text):
            if rules.discord_owner(first[0][:-1]):
                followed = follow(rules.DISCORD_STEPS, text, first.start(), first.end(), final)
                if followed:
                    yield "discord_token", followed
    if any(len(run) in rules.WHOLE_LENGTHS for run in long):
        for kind, pattern in rules.WHOLE_RUNS:
            for whole in pattern.finditer(text):
                yield kind, Followed(False, *whole.span())


def _led(text: str, led: rules.Led, final: bool) -> Iterator[tuple[str, Followed]]:
    at = text.find(led.mark)
    while at >= 0:
        lead = led.lead.search(text, max(0, at - 12), at)
        if lead:
            followed = follow(led.steps, text, lead.start(), at + len(led.mark), final)
            if followed and (followed.open or _various(text[followed.start : followed.end])):
                yield led.kind, followed
        at = text.find(led.mark, at + 1)


def _may_begin(text: str, at: int, apart: bool) -> bool:
    """Whether a key may begin here: not within a word, but for an escape's last letter."""
    if at == 0:
        return True
    previous = text[at - 1]
    if previous in "nrtbf" and at > 1 and text[at - 2] == "\\":
        return True
    if apart and previous in "_-":
        return False
    return not (previous.isascii() and previous.isalnum())


def _unfinished(text: str, since: int) -> int:
    """From where on a run, or what keys begin with, is not complete."""
    length = len(text)
    begun = len(text.rstrip(_LETTERS))
    if length - begun <= LONGEST_RUN:
        hold = max(begun, since)
        tail = text[max(since, length - _LONGEST_BEGIN) :]
        search = any(opening in tail for opening in _OPENINGS)
    else:
        hold = max(since, length - 4)  # digits that may begin a card number
        search = True
    if search:
        for size in range(min(_LONGEST_BEGIN - 1, length - since), length - hold, -1):
            if text[-size:] in _PREFIXES:
                hold = length - size
                break
    for led in rules.LED:
        tail_found = led.tail.search(text, max(since, length - 12))
        if tail_found:
            hold = min(hold, tail_found.start())
    return hold
