"""A pattern as a row of steps that is followed without ever going back.

Each step takes as much as it can and the next goes on from there, so following a pattern takes time linear in the
text.  It can also say what a regular expression cannot: that the text ends where more of it could still decide.  That
is what lets a stream hold back only what may become a match.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Run:
    """As many of these characters as there are, `high` at most; fewer than `low` are no match."""

    pattern: re.Pattern[str]
    low: int
    high: int


@dataclass(frozen=True)
class Edge:
    """What must not follow; `width` characters are enough to tell."""

    pattern: re.Pattern[str]
    width: int = 1


@dataclass(frozen=True)
class Maybe:
    """Steps that may be there."""

    steps: "tuple[Step, ...]"


@dataclass(frozen=True)
class Cut:
    """What is taken out begins (the first time) or ends (the second) here; without one, it is the whole match."""


CUT = Cut()
Step = str | Run | Edge | Maybe | Cut


class Followed(NamedTuple):
    """`start` and `end` of what is to be taken out.

    `open`: the text ends where more could decide; `start` is then from where on it must be held back, None where
    nothing must be yet.
    """

    open: bool
    start: int | None
    end: int


def run(characters: str, low: int, high: int | None = None) -> Run:
    """From `low` to `high` (default: exactly `low`) characters of this class, as in a regular expression."""
    high = low if high is None else high
    return Run(re.compile(f"[{characters}]{{0,{high}}}+"), low, high)


def edge(characters: str) -> Edge:
    """None of these characters follows."""
    return Edge(re.compile(f"[{characters}]"))


def follow(steps: tuple[Step, ...], text: str, begin: int, at: int, final: bool) -> Followed | None:
    """Follow `steps` from `at`; None where they do not match.  `begin`: where a match without `Cut` starts.

    `final`: the text ends here for good.
    """
    length = len(text)
    cut = CUT in steps
    start: int | None = None if cut else begin
    end: int | None = None
    for step in steps:
        if isinstance(step, Run):
            matched = step.pattern.match(text, at)
            stop = matched.end() if matched else at
            if stop == length and not final and stop - at < step.high:
                return Followed(True, start, length)
            if stop - at < step.low:
                return None
            at = stop
        elif isinstance(step, str):
            if text.startswith(step, at):
                at += len(step)
            elif not final and length - at < len(step) and step.startswith(text[at:]):
                return Followed(True, start, length)
            else:
                return None
        elif isinstance(step, Edge):
            if step.pattern.match(text, at):
                return None
            if not final and length - at < step.width:
                return Followed(True, start, length)
        elif isinstance(step, Maybe):
            inner = follow(step.steps, text, at, at, final)
            if inner is not None:
                if inner.open:
                    return Followed(True, start, length)
                at = inner.end
        elif start is None:
            start = at
        else:
            end = at
    return Followed(False, start, at if end is None else end)
