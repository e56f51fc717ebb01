"""Answers given a second time: the same request of the same tenant (or user) within the tenant's time to live.

A row's key is a hash of all that makes an answer what it is; beside it stands the state of the documents before they
were searched, which is compared with the present one at every look-up: an answer from a document that was changed or
deleted since is never given.
"""

import asyncio
import functools
import hashlib
import logging
import secrets
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

import orjson
import psycopg

from tenantry_runtime import claims, errors, prompt
from tenantry_runtime.chat_request import ChatRequest
from tenantry_runtime.claims import Claim, Claims
from tenantry_runtime.config import Configuration, Model
from tenantry_runtime.flight import Flight
from tenantry_runtime.retrieval import SETTLING_SECONDS, Hit, State
from tenantry_runtime.store import Row, StoreUnavailableError

if TYPE_CHECKING:
    from tenantry_runtime.call import Call
    from tenantry_runtime.service import Service

log = logging.getLogger(__name__)

HEADER = "x-tenantry-cache"
MAX_ANSWER = 256 * 1024
"""Bytes of an answer that is kept, as JSON."""
MAX_ROWS = 10_000
MAX_BYTES = 64 * 1024 * 1024
"""Bytes of all answers together; of what is over, the oldest go."""
SWEEP_ROWS, SWEEP_BYTES = MAX_ROWS // 10, MAX_BYTES // 8
"""After storing so much, a replica looks at once whether the table is too large."""
BATCH = 500
"""Rows that one statement removes."""
TOGETHER = 8
"""Answers that one statement stores at most."""
STORE_SECONDS = 0.025
"""Between two times of storing: a busy replica's answers go together, and cost a statement for many of them."""
MAX_WAITING = 1000
"""Requests of a process that wait for others' answers; further ones go on by themselves, and meet the limits."""

_SEEN = f"""
SELECT EXISTS (SELECT 1 FROM vector_store_files WHERE status = 'completed'),
       d.changed_at > clock_timestamp() - interval '{SETTLING_SECONDS} seconds', d.changed_at, c.answer"""  # noqa: S608 - a constant of ours
_WHERE = """
FROM documents_state d
LEFT JOIN response_cache c ON c.key = %s AND c.stored_at > clock_timestamp() - make_interval(secs => %s)
     AND (c.documents_at IS NULL OR c.documents_at = d.changed_at)
"""
_LOOK = _SEEN + _WHERE
_FOLLOW = f"{_SEEN}, o.until > clock_timestamp() {_WHERE} LEFT JOIN response_claims o ON o.key = %s"
"""As `_LOOK`, and whether another's claim is alive: false where it has run out, null where it was given back."""
_ROW = "(%s::bytea, %s::timestamptz, clock_timestamp(), %s::int, %s::text)"
_STORE = """
INSERT INTO response_cache (key, documents_at, stored_at, bytes, answer)
VALUES {}
ON CONFLICT (key) DO UPDATE SET documents_at = excluded.documents_at, stored_at = excluded.stored_at,
    bytes = excluded.bytes, answer = excluded.answer
"""
_SWEEP = """
WITH held AS (
    SELECT c.key, c.stored_at <= clock_timestamp() - make_interval(secs => %s) OR c.documents_at <> d.changed_at
        OR row_number() OVER newest > %s OR sum(c.bytes) OVER newest > %s AS goes
    FROM response_cache c, documents_state d
    WINDOW newest AS (ORDER BY c.stored_at DESC, c.key)
), gone AS (
    SELECT key FROM response_cache WHERE key IN (SELECT key FROM held WHERE goes LIMIT %s) FOR UPDATE SKIP LOCKED
)
DELETE FROM response_cache WHERE key IN (SELECT key FROM gone) RETURNING 1
"""


@dataclass
class Ticket:
    """A request whose answer may be given again.

    `fresh`: it asked for a new one; `flight`: which others of this process wait for; `claim`: those of other replicas.
    """

    key: bytes
    searches: bool
    fresh: bool
    state: State | None = None
    flight: Flight | None = None
    claim: Claim | None = None


class Reserve(Protocol):
    async def __call__(self, look: tuple[Any, ...], claim: tuple[Any, ...] = (), /) -> Row:
        """Run look_and_reserve (migration 0013), given its first three values; the first four columns of its row.

        With `claim`: claim_and_reserve (0014), given its first two values; one column more.
        """


_Unstored = tuple[Ticket, str, Flight | None, Claim | None]
"""An answer to be kept, as JSON; its flight and its claim end once it is."""


@dataclass
class Found:
    """An answer that is given again, and the passages that it was given the first time."""

    answer: dict[str, Any]
    hits: list[Hit]


def ticket(call: "Call", request: ChatRequest) -> Ticket | None:
    """None for what is neither looked up nor kept."""
    settings = call.configuration.cache
    control = call.request.headers.get("cache-control", "").lower()
    if settings.mode == "Off" or not request.cache or "no-store" in control or _uses_tools(request):
        return None
    if settings.mode == "Deterministic" and request.temperature != 0 and request.passed.get("seed") is None:
        return None
    user = call.caller.user if settings.scope == "User" else None
    return Ticket(key(call.configuration, user, request), request.retrieval is not None, "no-cache" in control)


def _uses_tools(request: ChatRequest) -> bool:
    return any(name in request.passed for name in ("tools", "functions")) or any(
        message["role"] in ("tool", "function") or message.get("tool_calls") or message.get("function_call")
        for message in request.messages
    )


def key(configuration: Configuration, user: str | None, request: ChatRequest) -> bytes:
    """SHA-256 over all that makes an answer what it is, but for the state of the documents."""
    sent = request.upstream(prompt.system_prompt(configuration), request.max_tokens, "")
    for name in ("stream", "stream_options"):
        sent.pop(name, None)
    wish = request.retrieval
    # How much of the documents is shown depends on how much there is room for.
    shown = wish and (wish, _told(configuration.embedding), _told(configuration.limits))
    parts = (configuration.tenant_uid, user, sent, shown, _told(configuration.leak_guard))
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).digest()


@functools.lru_cache(maxsize=16)
def _told(settings: Model) -> str:
    """The same for every request, until the configuration changes."""
    return settings.model_dump_json()


def kept(answer: dict[str, Any], hits: Sequence[Hit]) -> str | None:
    """An answer and the passages that it was given, as they are stored; None for one that must not be given again.

    So it is where a choice did not come to its own end, or all is too long.
    """
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices or not all(map(_ended, choices)):
        return None
    text = orjson.dumps({"answer": answer, "hits": hits})
    return text.decode() if len(text) <= MAX_ANSWER else None


def _ended(choice: Any) -> bool:
    message = choice.get("message") if isinstance(choice, dict) and choice.get("finish_reason") == "stop" else None
    return isinstance(message, dict) and isinstance(message.get("content"), str) and not message.get("tool_calls")


def again(text: str) -> Found:
    """What a row holds: the answer under an id of its own, with a usage that says that nothing was used for it."""
    row = orjson.loads(text)
    answer: dict[str, Any] = row["answer"]
    usage = answer.get("usage")
    given, made = (
        usage.get(name, 0) if isinstance(usage, dict) else 0 for name in ("prompt_tokens", "completion_tokens")
    )
    answer["id"] = f"chatcmpl-{secrets.token_hex(12)}"
    answer["usage"] = {
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "total_tokens": 0,
        "tenantry": {"cache": "hit", "saved": {"prompt_tokens": given, "completion_tokens": made}},
    }
    return Found(
        answer, [Hit(**hit | {"created_at": datetime.fromisoformat(hit["created_at"])}) for hit in row["hits"]]
    )


class ResponseCache:
    """The tenant's table, which all replicas share, and the calls under way in this process and, claimed, in others."""

    def __init__(self, service: "Service") -> None:
        self._service = service
        self.claims = Claims(service)
        self._flights: dict[bytes, Flight] = {}
        self._waiting = 0
        self._unstored: list[_Unstored] = []
        self._storing = False
        self._rows = self._bytes = 0  # stored since the last sweep
        self._full = asyncio.Event()
        self.documents = False
        """Whether the tenant had documents to be searched when that was last looked at."""

    async def find(self, call: "Call", ticket: Ticket, reserve: Reserve | None = None) -> Found | None:
        """The answer, where there is one, or where another request is about to have it; also learns the state.

        `reserve` looks in the place of `look`, and reserves the call at once where there is nothing to be found.

        Without an answer the ticket may lead a flight: then `keep` or `give_up` must follow.  Raises
        StoreUnavailableError, and what `reserve` raises.
        """
        # Before the look-up: an answer is in the table before its flight is taken off the board.
        flight = None if ticket.fresh else self._flights.get(ticket.key)
        if flight is None and not ticket.fresh:
            ticket.flight = self._flights[ticket.key] = Flight()
        elif flight is not None and self._waiting >= MAX_WAITING:
            flight = None
        if flight is None:
            if ticket.flight and call.configuration.replicas > 1:
                return await self._contend(call, ticket, reserve)
            if reserve is None:
                return await self._look(call, ticket)
            key = None if ticket.fresh else ticket.key
            return self._seen(ticket, await reserve((key, call.configuration.cache.ttl_seconds, SETTLING_SECONDS)))
        flight.join()
        self._waiting += 1
        try:
            found = await self._look(call, ticket)
            if found is None:
                text = await flight.answer(self._service.provider.timeout_seconds + 10)
                if text is not None and flight.version == self._version(ticket):
                    found = again(text)
            return found
        finally:
            self._waiting -= 1
            flight.leave()

    async def _contend(self, call: "Call", ticket: Ticket, reserve: Reserve | None) -> Found | None:
        """As `find`, among all replicas: claims the answer, or waits for who has claimed it.

        Who waits claims it in turn where a claim has run out, and goes on without one where it was given back (that
        answer could not be had, or not be kept) or where it has waited for long.
        """
        ends = asyncio.get_running_loop().time() + self._service.provider.timeout_seconds + 10
        while True:
            found, lost = await self._claim(call, ticket, reserve)
            if not lost or self._waiting >= MAX_WAITING:
                return found
            self._waiting += 1
            try:
                found, ran_out = await self._follow(call, ticket, ends)
            finally:
                self._waiting -= 1
            if not ran_out:
                return found

    async def _claim(self, call: "Call", ticket: Ticket, reserve: Reserve | None) -> tuple[Found | None, bool]:
        """What is found, or else whether another has claimed it."""
        claim = ticket.claim = await self.claims.make(ticket.key)
        lease = (claim.owner, claims.LEASE_SECONDS)
        look = (ticket.key, call.configuration.cache.ttl_seconds, SETTLING_SECONDS)
        if reserve:
            try:
                row = await reserve(look, lease)
            except errors.ApiError:  # a refusal leaves no claim
                ticket.claim = None
                raise
        else:
            budget = call.configuration.budget
            row = await call.claim(claims.LOOK_AND_CLAIM, (*lease, *look, budget.time_zone if budget else "UTC"))
        if row[4]:
            self.claims.hold(claim)
            if ticket.flight:
                ticket.flight.stalled = lambda: self._yield(ticket)
        else:
            ticket.claim = None
        return self._seen(ticket, row), row[4] is False

    async def _follow(self, call: "Call", ticket: Ticket, ends: float) -> tuple[Found | None, bool]:
        """The answer that another replica has stored, or else whether its claim has run out."""
        now, pause = asyncio.get_running_loop().time, claims.FIRST_PAUSE
        values = (ticket.key, call.configuration.cache.ttl_seconds, ticket.key)
        while now() < ends:
            await asyncio.sleep(pause)
            pause = min(pause * claims.SLOWER, claims.LAST_PAUSE)
            rows = await self._service.store.ask(_FOLLOW, values)  # the wait is ours: its queries are not billed
            if not rows:
                break
            found, alive = self._seen(ticket, rows[0]), rows[0][4]
            if found or alive is None or rows[0][3] is not None:
                return found, False
            if not alive:
                return None, True
        return None, False

    async def _look(self, call: "Call", ticket: Ticket) -> Found | None:
        rows = await call.ask(_LOOK, (ticket.key, call.configuration.cache.ttl_seconds))
        return self._seen(ticket, rows[0]) if rows else None

    def _seen(self, ticket: Ticket, row: Row) -> Found | None:
        ticket.state = State(*row[:3])
        self.documents = ticket.state.documents
        if ticket.flight:
            ticket.flight.version = self._version(ticket)
        if row[3] is None or ticket.fresh:
            return None
        try:
            found = again(row[3])
        except (KeyError, TypeError, ValueError):  # another version of this service wrote it
            return None
        self._end(ticket, row[3])
        return found

    @staticmethod
    def _version(ticket: Ticket) -> datetime | None:
        return ticket.state.changed_at if ticket.state and ticket.searches else None

    def watch(self, holder: object, ticket: Ticket) -> None:
        """Give the ticket up where `holder` is dropped before its answer is kept: nobody must wait for nothing."""
        if ticket.flight:
            weakref.finalize(holder, self.give_up, ticket).atexit = False

    def keep(self, ticket: Ticket, answer: dict[str, Any] | None, hits: Sequence[Hit]) -> None:
        """Give the answer to those who wait for it, and store it, if it may be stored."""
        text = kept(answer, hits) if answer else None
        if text is None:
            self.give_up(ticket)
            return
        flight, ticket.flight = ticket.flight, None
        claim, ticket.claim = ticket.claim, None
        if flight:
            flight.land(text)
        self._unstored.append((ticket, text, flight, claim))
        if not self._storing:
            self._storing = True
            self._service.finish(self._store())

    def give_up(self, ticket: Ticket) -> None:
        """There will be no answer to give: those who wait go on by themselves."""
        self._end(ticket, None)
        self._yield(ticket)

    def _yield(self, ticket: Ticket) -> None:
        """Let other replicas go on by themselves."""
        claim, ticket.claim = ticket.claim, None
        if claim:
            self.claims.give_back(claim)

    def _end(self, ticket: Ticket, text: str | None) -> None:
        flight, ticket.flight = ticket.flight, None
        if flight:
            flight.land(text)
            self._forget(ticket, flight)

    def _forget(self, ticket: Ticket, flight: Flight | None) -> None:
        if flight and self._flights.get(ticket.key) is flight:
            del self._flights[ticket.key]

    async def _store(self) -> None:
        """Write what is to be kept at once, and what comes meanwhile a little later, until nothing is left.

        An answer's flight stays on the board until then, for those who ask this replica.
        """
        try:
            while self._unstored:
                unstored, self._unstored = self._unstored, []
                parts = [unstored[at : at + TOGETHER] for at in range(0, len(unstored), TOGETHER)]
                await asyncio.gather(*map(self._store_some, parts))
                if self._rows >= SWEEP_ROWS or self._bytes >= SWEEP_BYTES:
                    self._full.set()
                await asyncio.sleep(STORE_SECONDS)
        finally:
            self._storing = False

    async def _store_some(self, taken: Sequence[_Unstored]) -> None:
        rows = {ticket.key: (self._version(ticket), len(text.encode()), text) for ticket, text, *_ in taken}
        held = [claim for *_, claim in taken if claim]
        try:
            await self._write(rows, held)
        except (StoreUnavailableError, psycopg.Error) as error:
            log.warning("answers could not be kept for the next time: %s", type(error).__name__)
        finally:
            for ticket, _, flight, claim in taken:
                self._forget(ticket, flight)
                if claim:
                    self.claims.forget(claim)
        self._rows += len(rows)
        self._bytes += sum(size for _, size, _ in rows.values())

    async def _write(self, rows: dict[bytes, tuple[datetime | None, int, str]], held: list[Claim]) -> None:
        # All replicas write them in one order, so that none waits for another that waits for it; the sweep waits for
        # nobody.  Nor does a commit of this table alone wait for a disk: so it may go with what is read.
        values = [value for key, row in sorted(rows.items()) for value in (key, *row)]
        statement = _STORE.format(", ".join([_ROW] * len(rows)))
        if held:
            statement, values = claims.WITH_STORING + statement, [*claims.arrays(held), *values]
        await self._service.store.ask(statement, values)

    async def run(self, every: float = 60) -> None:
        """Remove what nobody will be given, until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(every):
                    await self._full.wait()
            try:
                if configuration := self._service.live.current:
                    await self.sweep(configuration)
            except StoreUnavailableError:
                await asyncio.sleep(1)
            except Exception:
                log.exception("the cache's housekeeping failed; it goes on")
                await asyncio.sleep(1)

    async def sweep(self, configuration: Configuration) -> None:
        """Remove what has expired, rests on documents that changed, or is over the table's bounds."""
        self._full.clear()
        self._rows = self._bytes = 0
        settings = configuration.cache
        seconds = 0 if settings.mode == "Off" else settings.ttl_seconds
        removed = BATCH
        while removed == BATCH:
            removed = len(await self._service.store.fetch(_SWEEP, (seconds, MAX_ROWS, MAX_BYTES, BATCH)))
        if configuration.replicas > 1:
            await self.claims.sweep()
