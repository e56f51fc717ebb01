"""A chat call that goes on from a conversation: what was said before it, and what it adds.

The conversation's newest items come before the call's own messages, as many as fit a token budget.  Once the answer
is there, the call's items and the answer are added in one statement; also where the client did not wait for its end.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tenantry_runtime import conversations, errors, limits
from tenantry_runtime.call import Call, log
from tenantry_runtime.config import Configuration
from tenantry_runtime.conversation_items import Item, item_bytes
from tenantry_runtime.conversation_messages import answer_items, cited, to_messages
from tenantry_runtime.documents import new_id
from tenantry_runtime.fields import is_id
from tenantry_runtime.store import StoreUnavailableError

MAX_HISTORY = 16_000
"""Tokens of a conversation that go before a call's own messages at most."""
PATIENCE = 3.0
"""Seconds for which an answer waits for its conversation's store; then it is given, and said to be not stored yet."""
_AGAIN = (0.5, 1, 2, 4, 8, 15, 30)
"""Seconds between attempts to store what was answered."""

_HISTORY = """
SELECT c.items, c.bytes, kept.item
FROM conversations c LEFT JOIN LATERAL (
    SELECT position, item FROM (
        SELECT position, item, sum(tokens) OVER (ORDER BY position DESC) AS so_far
        FROM conversation_items WHERE conversation_id = c.id
    ) AS newest WHERE so_far <= %s
) AS kept ON true
WHERE c.id = %s AND c.user_name = %s
ORDER BY kept.position
"""

Shape = Callable[[Item, str, str], list[Item]]
"""Items of an answer's chat message, its status, and the id of its message."""


@dataclass
class Thread:
    """`items` are the call's own; `left_out`: how many of the conversation's did not fit the budget."""

    id: str
    user: str
    items: list[Item]
    history: list[Item]
    left_out: int
    answer_id: str = field(default_factory=lambda: new_id("msg_"))
    shape: Shape = answer_items
    stored: bool | None = None

    def cite(self, files: Mapping[str, str]) -> None:
        """Keep the answer with a citation of each of these files (id -> name)."""

        def shape(message: Item, status: str, identity: str) -> list[Item]:
            return cited(answer_items(message, status, identity), files)

        self.shape = shape

    def headers(self) -> dict[str, str]:
        """What streams say too."""
        return {"x-tenantry-answer-item": self.answer_id, "x-tenantry-left-out": str(self.left_out)}

    def told(self) -> Item:
        """What an answer says of it under `tenantry`; a stream's beginning can't say yet whether it is stored."""
        told = {"id": self.id, "answer": self.answer_id, "leftOut": self.left_out}
        return told if self.stored is None else {**told, "stored": self.stored}

    async def add(self, call: Call, said: "Said") -> None:
        """Add the call's items and its answer, where there is any; to the end even where the request is cancelled.

        Never raises: what fails now is tried again for a minute.  `stored` says whether it is done.
        """
        items = [*self.items, *self.shape(said.message, said.status, self.answer_id)]
        self.stored = False
        if items and (said.status == "completed" or len(items) > len(self.items)):
            task = call.service.finish(self._store(call, items))
            await asyncio.wait({task}, timeout=PATIENCE)

    async def _store(self, call: Call, items: list[Item]) -> None:
        for wait in (*_AGAIN, None):
            try:
                self.stored = await conversations.append(call.service.store, self.id, self.user, items, whole=True)
                if not self.stored:
                    log.info("a conversation was deleted before its answer came")
                return
            except StoreUnavailableError:
                if wait is None:
                    log.error("an answer could not be added to its conversation: the store stayed away")
                    return
                await asyncio.sleep(wait)


def room(configuration: Configuration) -> int:
    """Tokens of history: a small minute must also hold the documents, the question and its answer."""
    most = limits.most_tokens(configuration.limits)
    return min(MAX_HISTORY, most * 3 // 10) if most else MAX_HISTORY


async def resume(call: Call, identity: str, items: Sequence[Item]) -> Thread:
    """What was said before, as chat messages, for a call that adds these items.

    Raises 404, 403 for a key without the scope and for a conversation that is full, and StoreUnavailableError.
    """
    call.caller.require("conversations")
    user = call.caller.user
    rows = await call.fetch(_HISTORY, (room(call.configuration), identity, user)) if is_id(identity) else []
    if not rows:
        raise errors.not_found("conversation")
    number, size, _ = rows[0]
    if (
        number + len(items) + 1 > conversations.MAX_ITEMS
        or size + sum(map(item_bytes, items)) > conversations.MAX_BYTES
    ):
        raise conversations.full()
    kept = [item for *_, item in rows if item is not None]
    answered = frozenset(item["call_id"] for item in items if item["type"] == "function_call_output")
    return Thread(identity, user, list(items), to_messages(kept, answered), number - len(kept))


class Said:
    """An answer as far as it has come: a whole one's message, or a stream's pieces put together."""

    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {"content": [], "refusal": []}
        self.calls: dict[int, Item] = {}
        """By their number in the answer."""
        self._finish = ""
        self.broken = False

    @classmethod
    def of(cls, answer: dict[str, Any]) -> "Said":
        """A whole answer's first choice."""
        said = cls()
        choices = answer.get("choices")
        if isinstance(choices, list) and choices and isinstance(choices[0], dict):
            choice = choices[0]
            message = choice.get("message")
            if isinstance(message, dict):
                calls = message.get("tool_calls")
                numbered = [{**call, "index": n} for n, call in enumerate(calls or ()) if isinstance(call, dict)]
                said._take(message | {"tool_calls": numbered})
            said._finish = str(choice.get("finish_reason") or "stop")
        return said

    def feed(self, chunk: dict[str, Any]) -> None:
        """Add one chunk of a stream with one choice."""
        if chunk.get("error"):
            self.broken = True
        for choice in chunk.get("choices") or ():
            if isinstance(choice, dict):
                if isinstance(delta := choice.get("delta"), dict):
                    self._take(delta)
                self._finish = str(choice.get("finish_reason") or self._finish)

    def _take(self, delta: dict[str, Any]) -> None:
        for name, texts in self._texts.items():
            if isinstance(text := delta.get(name), str):
                texts.append(text)
        for piece in delta.get("tool_calls") or ():
            if not isinstance(piece, dict) or not isinstance(number := piece.get("index", 0), int):
                continue
            call = self.calls.setdefault(number, {"index": number, "id": "", "function": {"name": "", "arguments": ""}})
            if isinstance(piece.get("id"), str):
                call["id"] = piece["id"]
            function = piece.get("function")
            for name in ("name", "arguments"):
                if isinstance(function, dict) and isinstance(function.get(name), str):
                    call["function"][name] += function[name]

    @property
    def status(self) -> str:
        """OpenAI's word for an item: `incomplete` where it was cut off, by a limit too."""
        return "completed" if self.finish_reason in ("stop", "tool_calls", "function_call") else "incomplete"

    @property
    def finish_reason(self) -> str:
        """The provider's word; empty where the answer broke off."""
        return "" if self.broken else self._finish

    @property
    def message(self) -> Item:
        """As a chat answer's message."""
        message: Item = {name: "".join(texts) for name, texts in self._texts.items() if texts}
        if self.calls:
            message["tool_calls"] = [self.calls[number] for number in sorted(self.calls)]
        return message
