"""The leak guard on a request's way: its messages, what is retrieved for it, and its answer.

What is found is blocked, redacted or let through as the tenant's policy says, counted in the metrics where it was held
back, and told in the request's audit event: how many of which kind, never what.
"""

import asyncio
import contextlib
import logging
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from tenantry_runtime import errors, leaks
from tenantry_runtime.config import Configuration
from tenantry_runtime.leaks import Detector, Identifiers, Policies
from tenantry_runtime.store import Store, StoreUnavailableError

if TYPE_CHECKING:
    from tenantry_runtime.call import Call
    from tenantry_runtime.chat_request import ChatRequest
    from tenantry_runtime.retrieval import Hit

log = logging.getLogger(__name__)

REFRESH = 10.0
"""Seconds between two looks at the version of the list of identifiers, where no notice of a change comes."""
SPREAD = 0.5, 1.5
"""Seconds, at random, from a notice to the look: all runtimes of a region hear it at once, and anybody may give it."""
PATIENCE = 3.0
"""Seconds that the first requests wait for the list to be read; nothing passes before it was."""
NOT_TEXT = frozenset({"role", "type", "id", "tool_call_id", "call_id", "finish_reason", "object"})
"""Fields that say what a thing is, and which other thing belongs to it."""

BETWEEN = "\n\n"
"""Between texts that are looked at together: no match reaches over it, or is hidden by it."""
DEEPEST = 200
"""Levels of lists and objects that are looked into; what is deeper is taken out."""

_THERE = """
SELECT EXISTS (
    SELECT FROM pg_namespace n JOIN pg_class c ON c.relnamespace = n.oid
    WHERE n.nspname = 'tenantry_shared' AND c.relname = 'leak_settings' AND has_schema_privilege(n.oid, 'USAGE')
      AND has_table_privilege(c.oid, 'SELECT'))
"""
_VERSION = "SELECT version FROM tenantry_shared.leak_settings"
_LIST = """
SELECT version, key, lengths,
       (SELECT string_agg(hash, ''::bytea) FROM tenantry_shared.leak_identifiers
        WHERE owner <> %s AND length(hash) = 16)
FROM tenantry_shared.leak_settings
"""

Text = TypeVar("Text")


class Guard:
    """What is sought, as of the last look at the region's list.  `tag`: this tenant's UID without dashes."""

    def __init__(self, store: Store, tag: str) -> None:
        self._store, self._tag = store, tag
        self._version: int | None = None
        self._told = ""
        self.detector = Detector()
        self.loaded = asyncio.Event()
        self.changed = asyncio.Event()

    async def run(self) -> None:
        """Read the list, and again after each change, until cancelled; where it can't be read, the last one holds."""
        while True:
            try:
                await self._refresh()
                self.loaded.set()
            except StoreUnavailableError:
                self._tell("the list of other tenants' identifiers can't be read: the last one that could is in use")
            except Exception:  # a list that is not as it should be must not end the looking for a better one
                log.exception(
                    "the list of other tenants' identifiers is not understood: the last one that was is in use"
                )
            await self._pause()

    async def _pause(self) -> None:
        """Until shortly after a notice of a change (`changed`), or for `REFRESH`."""
        if not self.loaded.is_set():
            await asyncio.sleep(1)
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.changed.wait(), REFRESH)
            await asyncio.sleep(random.uniform(*SPREAD))  # noqa: S311 - nothing secret
        self.changed.clear()

    async def _refresh(self) -> None:
        there = await self._store.one(_THERE)
        if not there or not there[0]:
            self._tell(
                "there is no list of other tenants' identifiers that this service may read: only secrets are found"
            )
            return
        version = await self._store.one(_VERSION)
        if version is None:
            self._tell("the list of other tenants' identifiers has no key: the last one that had is in use")
            return
        if version[0] == self._version:
            return
        row = await self._store.one(_LIST, (self._tag,))
        if row is None:
            return
        number, key, lengths, hashes = row
        identifiers = Identifiers(bytes(key), lengths, bytes(hashes or b""))
        self.detector = Detector(identifiers)
        self._version, self._told = number, ""
        log.info("version %d of the list of other tenants' identifiers is in use: %d", number, len(identifiers))

    def _tell(self, sentence: str) -> None:
        if sentence != self._told:
            log.warning(sentence)
        self._told = sentence

    async def ready(self) -> None:
        """Wait until the list was looked for; raises 503 where that takes too long."""
        if not self.loaded.is_set():
            try:
                await asyncio.wait_for(self.loaded.wait(), PATIENCE)
            except TimeoutError:
                raise errors.store_unavailable() from None

    def redact(self, value: Text) -> Text:
        """A text, or each text within lists and objects, without any secret or identifier: for the audit's bodies."""
        redacted: Text = _each(value, lambda text: leaks.apply(self.detector, text, leaks.REDACT).text)
        return redacted

    async def request(self, call: "Call", request: "ChatRequest") -> "ChatRequest":
        """A chat request as it may be sent.  Raises 422 that names the message where something is blocked."""
        await self.ready()
        look = _Look(call, self.detector, "messages")
        if not look.clean([list(request.history), request.messages, request.passed]):
            history = look.within(list(request.history))
            look.refuse("conversation")
            messages = []
            for index, message in enumerate(request.messages):
                messages.append(look.within(message))
                look.refuse(f"messages.{index}")
            passed = {}
            for name, value in request.passed.items():
                passed[name] = look.within(value)
                look.refuse(name)
            look.tell()
            # What a conversation keeps are the same texts again: they are not counted twice.
            items = _Look(call, self.detector, "conversation").within(list(request.items))
            request = replace(request, history=tuple(history), messages=messages, passed=passed, items=tuple(items))
        if keeps_bodies(call):
            call.event.full["messages"] = self.redact(request.messages)
        return request

    async def inputs(self, call: "Call", given: Any) -> Any:
        """What is to be embedded: a text, or a list with texts.  Raises 422 where something is blocked."""
        await self.ready()
        look = _Look(call, self.detector, "input")
        if not look.clean(given):
            given = look.within(given)
            look.refuse("input")
            look.tell()
        if keeps_bodies(call):
            call.event.full["input"] = self.redact(given)
        return given

    async def passages(self, call: "Call", hits: Sequence["Hit"]) -> list["Hit"]:
        """What was retrieved, as it may be shown; a passage in which something is blocked is left out."""
        await self.ready()
        look = _Look(call, self.detector, "documents")
        if look.clean([[hit.text, hit.filename] for hit in hits]):
            return list(hits)
        shown = []
        for hit in hits:
            text, filename = look.within(hit.text), look.within(hit.filename)
            if not look.take_blocked():
                shown.append(replace(hit, text=text, filename=filename))
        look.tell()
        return shown

    def answer(self, call: "Call", answer: dict[str, Any]) -> dict[str, Any]:
        """A whole answer as it may be given.  Raises 403 where something in it is blocked."""
        look = _Look(call, self.detector, "answer")
        choices = answer.get("choices")
        choices = choices if isinstance(choices, list) else []
        if not look.clean(_messages(choices)):
            choices = [look.choice(choice) for choice in choices]
            look.tell()
            if blocked := look.take_blocked():
                raise withheld(blocked)
            answer = {**answer, "choices": choices}
        if keeps_bodies(call):
            call.event.full["answer"] = self.redact(_messages(choices))
        return answer


def _messages(choices: list[Any]) -> list[Any]:
    return [choice["message"] for choice in choices if isinstance(choice, dict) and "message" in choice]


def policies(configuration: Configuration) -> Policies:
    guard = configuration.leak_guard
    return Policies(guard.foreign_tenant, guard.secrets)


def keeps_bodies(call: "Call") -> bool:
    """Whether the audit keeps what was said, always without secrets and identifiers."""
    return call.configuration.compliance.logging_level == "Full"


def withheld(kind: str) -> errors.ApiError:
    """No 5xx: the SDK would ask, and pay, again."""
    return errors.ApiError(
        403,
        f"The model's answer was withheld, as this tenant's policy demands: it held {said(kind)}.",
        code="answer_withheld",
        kind="permission_error",
    )


def said(kind: str) -> str:
    """What a client is told of a kind."""
    if kind == leaks.FOREIGN_TENANT:
        return "an identifier of another tenant's"
    return f"a secret ({kind.replace('_', ' ')})"


def tell(call: "Call", where: str, found: Counter[str]) -> None:
    """Count what was held back, and write all that was found into the request's event."""
    if not found:
        return
    chosen = policies(call.configuration)
    told = call.event.basic.setdefault("leaks", {}).setdefault(where, {})
    for kind, count in found.items():
        action = chosen.action(kind)
        counts = told.setdefault({"Block": "blocked", "Redact": "redacted", "Warn": "warned"}[action], {})
        counts[kind] = counts.get(kind, 0) + count
        if action != "Warn":
            call.service.metrics.leak(call.configuration, kind, count)


class _Look:
    """One look at several texts of a request: what was found in them, and whether one of them is blocked."""

    def __init__(self, call: "Call", detector: Detector, where: str) -> None:
        self._call, self._detector, self._where = call, detector, where
        self._policies = policies(call.configuration)
        self._found: Counter[str] = Counter()
        self._blocked = ""

    def clean(self, value: Any) -> bool:
        """Whether nothing is found in any text of `value`: one look at all of them is faster than one at each."""
        texts: list[str] = []

        def gather(text: str) -> str:
            texts.append(text)
            return text

        _each(value, gather)
        return not self._detector.find(BETWEEN.join(texts))[0]

    def within(self, value: Text) -> Text:
        allowed: Text = _each(value, self._text)
        return allowed

    def choice(self, choice: Any) -> Any:
        """A whole answer's choice; its log probabilities hold its text again, and go where that was changed."""
        if not isinstance(choice, dict) or "message" not in choice:
            return choice
        message = self.within(choice["message"])
        changed = message != choice["message"] and choice.get("logprobs")
        return {**choice, "message": message, **({"logprobs": None} if changed else {})}

    def _text(self, text: str) -> str:
        applied = leaks.apply(self._detector, text, self._policies)
        if applied.found:
            self._found += applied.found
            self._blocked = self._blocked or applied.blocked
        return applied.text

    def take_blocked(self) -> str:
        """The kind that was blocked since the last time; empty: none."""
        blocked, self._blocked = self._blocked, ""
        return blocked

    def refuse(self, param: str) -> None:
        if blocked := self.take_blocked():
            self.tell()
            raise errors.invalid(
                f"{param} holds {said(blocked)}, which this tenant's policy blocks: take it out.",
                param,
                "content_blocked",
            )

    def tell(self) -> None:
        tell(self._call, self._where, self._found)
        self._found = Counter()


def _each(value: Any, change: Callable[[str], str], depth: int = DEEPEST) -> Any:
    """`value` with each of its texts changed; what has no text of its own stays as it is."""
    if isinstance(value, str):
        return change(value)
    if not depth:
        return leaks.MARK
    if isinstance(value, list):
        return [_each(item, change, depth - 1) for item in value]
    if isinstance(value, dict):
        return {
            # A schema's property may be called so, too: then it is an object with texts of its own.
            name: item if name in NOT_TEXT and isinstance(item, str) else _each(item, change, depth - 1)
            for name, item in value.items()
        }
    return value
