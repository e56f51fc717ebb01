"""What a request leaves in the tenant's audit: one event, which its route fills and the ledger writes.

A call that reserves is two rows of one id, the ledger's: `intent`, which commits with the reservation, and
`outcome`, which commits with the settlement.  All else is one row, `event`.  Rows are only ever added.
"""

import functools
import hashlib
import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from tenantry_runtime.config import Configuration

log = logging.getLogger(__name__)

Level = Literal["Basic", "Detailed", "Full"]
EventType = Literal["api_call", "data_access", "configuration_change", "deletion", "access_denied"]

DENIED = frozenset({401, 403, 404, 429})
"""Statuses of refusals: whatever was asked for, their event is `access_denied`."""

MAX_DETAILS = 1024 * 1024
"""Bytes of one row's details; of what is longer, the bodies are left out."""
_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")
_UNTELLABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(eq=False)
class Event:
    """One request's, or one background job's.  Routes write `resource_id` and the three levels of details.

    `basic` is always kept, `detailed` from Detailed on, `full` at Full only.  A route that answers with a stream
    names in `error` what cut it off.
    """

    event_type: EventType
    action: str
    resource_type: str = ""
    resource_id: str = ""
    basic: dict[str, Any] = field(default_factory=dict)
    detailed: dict[str, Any] = field(default_factory=dict)
    full: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    address: str = ""
    user_agent: str = ""
    intended: bool = False
    """Whether its intent row is written: then its outcome row comes with the settlement."""
    outcome: int | None = None
    """The status in its outcome row, once that was handed to the ledger."""

    def inner(self, event_type: EventType, action: str, resource_type: str = "", resource_id: str = "") -> "Event":
        """The event of a part that is metered by itself, such as the search before an answer."""
        return Event(
            event_type,
            action,
            resource_type,
            resource_id,
            basic={name: self.basic[name] for name in ("request",) if name in self.basic},
            address=self.address,
            user_agent=self.user_agent,
        )

    def rest(self) -> "Event":
        """What a request did after its outcome was written: tied to it by the request's id, and not told twice."""
        rest = self.inner(self.event_type, self.action, self.resource_type, self.resource_id)
        rest.error = self.error
        return rest

    def details(self, level: Level) -> dict[str, Any]:
        """What this level keeps."""
        if level == "Basic":
            return dict(self.basic)
        return {**self.basic, **self.detailed, **(self.full if level == "Full" else {})}

    def columns(self) -> tuple[str, str, str, str, str, str]:
        """Type, action, resource type and id, address, user agent, as the database takes them."""
        return (
            self.event_type,
            self.action,
            self.resource_type,
            tellable(self.resource_id, 256),
            tellable(self.address, 64),
            tellable(self.user_agent, 256),
        )


def tellable(text: str, most: int) -> str:
    """A client's text without what PostgreSQL or a terminal can't take, cut to `most` characters."""
    return _UNTELLABLE.sub("\ufffd", text[:most])


def encoded(details: Mapping[str, Any]) -> str:
    """Details as JSON that PostgreSQL's jsonb takes: without NULs, within `MAX_DETAILS`.  Never raises."""
    try:
        text = orjson.dumps(details, default=str, option=orjson.OPT_NON_STR_KEYS)
    except (TypeError, ValueError, RecursionError):  # lone surrogates, or nested without end
        return _without_bodies(details, "it can't be written as JSON")
    if len(text) > MAX_DETAILS:
        return _without_bodies(details, f"it has {len(text)} bytes")
    if b"\\u0000" in text:
        text = _NUL.sub(rb"\1\\ufffd", text)
    return text.decode()


def _without_bodies(details: Mapping[str, Any], why: str) -> str:
    plain = {
        name: value
        for name, value in details.items()
        if value is None or isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= 1000)
    }
    kept = {name: tellable(value, 1000) if isinstance(value, str) else value for name, value in plain.items()}
    return orjson.dumps({**kept, "left_out": why}).decode()


def snapshot(details: Mapping[str, Any]) -> dict[str, Any]:
    """What an intent says, for `news`; it stays the same where a list or an object is added to later."""
    return {name: _frozen(value) for name, value in details.items()}


def news(details: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """Of an outcome's details, those that its intent does not say already."""
    return {name: value for name, value in details.items() if name not in told or told[name] != _frozen(value)}


def _frozen(value: Any) -> Any:
    if not isinstance(value, dict | list):
        return value
    try:
        return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)
    except (TypeError, ValueError, RecursionError):
        return object()  # equal to nothing: told again


def prompt_digest(configuration: Configuration) -> str:
    """SHA-256 (hex) of what the tenant's own part of the system prompt is made of."""
    prompt = configuration.prompt
    return _digest(prompt.template, prompt.custom_instructions, configuration.display_name, configuration.tier)


@functools.lru_cache(maxsize=8)
def _digest(*parts: str) -> str:
    return hashlib.sha256(orjson.dumps(parts)).hexdigest()


class Allowance:
    """How many refusals of unknown keys are written down: a burst, then some a second; the rest are counted.

    Without it, anybody who reaches the port could fill the tenant's tables.
    """

    def __init__(self, burst: float = 20, per_second: float = 1) -> None:
        self._burst, self._per_second = burst, per_second
        self._level, self._at = burst, time.monotonic()
        self._suppressed = 0

    def take(self) -> int | None:
        """How many were left out since the last that was written; None: leave this one out too."""
        now = time.monotonic()
        self._level = min(self._burst, self._level + (now - self._at) * self._per_second)
        self._at = now
        if self._level < 1:
            self._suppressed += 1
            return None
        self._level -= 1
        suppressed, self._suppressed = self._suppressed, 0
        return suppressed
