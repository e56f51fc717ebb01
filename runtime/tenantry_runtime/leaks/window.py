"""Policies, applied to a whole text or to one that comes in pieces: the result is the same for every cutting."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from tenantry_runtime.leaks.detector import Detector, Finding
from tenantry_runtime.leaks.kinds import FOREIGN_TENANT

Action = Literal["Block", "Redact", "Warn"]

MARK = "[redacted]"
"""What stands where something was taken out."""
CONTEXT = 128
"""Characters that were let go and are kept: a name tells that what follows it is its password."""


@dataclass(frozen=True)
class Policies:
    """What is done about each of the two sorts of leaks."""

    foreign_tenant: Action = "Block"
    secrets: Action = "Redact"

    def action(self, kind: str) -> Action:
        return self.foreign_tenant if kind == FOREIGN_TENANT else self.secrets


REDACT = Policies("Redact", "Redact")


@dataclass
class Applied:
    """A text after the policies: with `blocked`, `text` is what came before what was found."""

    text: str
    found: Counter[str] = field(default_factory=Counter)
    blocked: str = ""


def apply(detector: Detector, text: str, policies: Policies) -> Applied:
    """The whole of a text."""
    findings, _ = detector.find(text)
    if not findings:
        return Applied(text)
    return _applied(text, findings, 0, len(text), policies)


def _applied(text: str, findings: list[Finding], start: int, end: int, policies: Policies) -> Applied:
    pieces, found, at = [], Counter[str](), start
    for finding in findings:
        found[finding.kind] += 1
        action = policies.action(finding.kind)
        if action == "Warn" or finding.end <= at:
            continue
        pieces.append(text[at : max(at, finding.start)])
        if action == "Block":
            return Applied("".join(pieces), found, finding.kind)
        pieces.append(MARK)
        at = finding.end
    pieces.append(text[at:end])
    return Applied("".join(pieces), found)


class Window:
    """One text on its way.  `feed` returns what may go on, `finish` the rest; after a block nothing does."""

    def __init__(self, detector: Detector, policies: Policies) -> None:
        self._detector = detector
        self._policies = policies
        self._text = ""
        self._out = 0  # how much of `_text` went on
        self.found: Counter[str] = Counter()
        self.blocked = ""

    @property
    def held(self) -> int:
        """Characters that wait."""
        return len(self._text) - self._out

    def feed(self, text: str) -> str:
        if self.blocked or not text:
            return ""
        self._text += text
        return self._let_go(final=False)

    def finish(self) -> str:
        return "" if self.blocked else self._let_go(final=True)

    def _let_go(self, final: bool) -> str:
        findings, until = self._detector.find(self._text, self._out, final)
        text = self._text[self._out : until]
        if findings:
            applied = _applied(self._text, findings, self._out, until, self._policies)
            text = applied.text
            self.found += applied.found
            if applied.blocked:
                self.blocked, self._text, self._out = applied.blocked, "", 0
                return text
        cut = max(0, until - CONTEXT)
        self._text, self._out = self._text[cut:], until - cut
        return text
