"""One request on its way through the service: who asks, under which configuration, and what it has used."""

import asyncio
import logging
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson
from starlette.requests import Request

from tenantry_runtime import errors, keys
from tenantry_runtime.audit import Event
from tenantry_runtime.bodies import Bodies
from tenantry_runtime.config import Configuration
from tenantry_runtime.fields import deeper
from tenantry_runtime.keys import Asked, Caller
from tenantry_runtime.provider import NotSentError
from tenantry_runtime.recording import Record
from tenantry_runtime.reservation import Need, Reservation, Uncounted, Usage
from tenantry_runtime.store import Row, StoreUnavailableError

if TYPE_CHECKING:
    from tenantry_runtime.service import Service

log = logging.getLogger(__name__)

MAX_BODY = 1024 * 1024
"""Bytes of a JSON body at most: well above what the largest models read at once."""

MAX_DEPTH = 100
"""Lists and objects inside each other in a JSON body."""


NOBODY = Caller("", "", "", frozenset())
"""The caller of a request until its key has been looked up."""

GONE = 499
"""The status, in the audit only, of a request whose client did not wait for the answer (nginx' number for it)."""


@dataclass
class Call:
    """`queries` and `searches` count what the request ran for itself, until a ledger row has taken them.

    `event` is the request's in the audit: the route fills it.  `arrived` is on the database's clock, once that was
    asked for the key.
    """

    service: "Service"
    request: Request
    configuration: Configuration
    event: Event
    caller: Caller = NOBODY
    arrived: datetime | None = None
    id: str = field(default_factory=lambda: "req_" + secrets.token_hex(12))
    started: float = field(default_factory=time.monotonic)
    model: str = ""
    queries: int = 0
    searches: int = 0
    searched: int = 0
    body: dict[str, Any] = field(default_factory=dict)
    """What `json` has read, for an audit that keeps bodies."""

    async def identify(self, headers: Mapping[str, str]) -> Asked:
        """Say whose key these headers present, and when on the database's clock.  Raises the refusal."""
        asked = await self.service.keys.look_up(headers)
        self.arrived = asked.at
        self.caller = asked.caller or self.caller  # of a key that has expired, too: the audit names it
        self.caller = keys.acting(headers, asked)
        return asked

    async def ask(self, statement: str, values: Sequence[Any] = ()) -> list[Row]:
        """As `fetch`, for a short statement that waits for nothing: see `Store.ask`."""
        self.queries += 1
        return await self.service.store.ask(statement, values)

    async def claim(self, statement: str, values: Sequence[Any]) -> Row:
        """The row of a statement that takes the meter's lock, and that no disk is waited for: see `Store.begin`."""
        self.queries += 1
        (row,), _ = await self.service.store.begin(statement, values, hurry=False)
        return row

    async def fetch(self, statement: str, values: Sequence[Any] = ()) -> list[Row]:
        """Run a statement for this request, which pays for it."""
        self.queries += 1
        return await self.service.store.fetch(statement, values)

    async def one(self, statement: str, values: Sequence[Any] = ()) -> Row | None:
        rows = await self.fetch(statement, values)
        return rows[0] if rows else None

    async def reserve(self, need: Need, event: Event | None = None) -> Reservation:
        """Reserve the most that a model call can use, with its intent row; `event`: of a part of this request.

        Raises the refusal (413, 429) or StoreUnavailableError: then the call must not be made.
        """
        event = self._about(need, event or self.event)
        return await self.service.ledger.reserve(self.configuration, self.caller, need, event)

    async def look_and_reserve(
        self, look: tuple[Any, ...], need: Need, claim: tuple[Any, ...] = ()
    ) -> tuple[Row, Reservation | None]:
        """As `reserve`, unless a look into the cache finds the answer: see `Ledger.look_and_reserve`."""
        self.queries += 1
        event = self._about(need, self.event)
        return await self.service.ledger.look_and_reserve(look, self.configuration, self.caller, need, event, claim)

    def _about(self, need: Need, event: Event) -> Event:
        if event.resource_type == "model":
            event.resource_id = need.model
        event.basic |= {"model": need.model, "prices": self.configuration.prices_version}
        return event

    async def settle(self, reservation: Reservation, usage: Usage | Uncounted, *, released: bool = False) -> None:
        """Settle a reservation of this request's, to the end even where the request is cancelled meanwhile.

        The outcome row tells the error that is on its way to the client while this is called (in a `finally`), or
        the one that the route wrote in the event; none: 200.
        """
        status, code = _outcome(sys.exception())
        if reservation.event.error and status == GONE:
            status = 200  # a stream that was cut off here, not by its client
        work = self.service.ledger.settle(
            reservation,
            usage,
            released=released,
            status=status,
            error=reservation.event.error or code,
            **self.taken(),
        )
        await asyncio.shield(self.service.finish(work))

    async def record(self, kind: str, status: int) -> None:
        """Write the request's event, with what it used; raises StoreUnavailableError, and it is written later."""
        assert self.arrived is not None
        ledger = self.service.ledger
        event = self.event.rest() if self.event.outcome == status else self.event
        record = Record(self.configuration, self.caller, kind, event, status, self.arrived, self.queries, self.searches)
        self.taken()
        if self.event.error == "store_unavailable":
            ledger.record_later(record)
        else:
            await asyncio.shield(self.service.finish(ledger.record(record)))

    def taken(self) -> dict[str, int]:
        """What was counted since the last time, for the ledger row that pays for it."""
        counted = {"queries": self.queries, "searches": self.searches}
        self.queries = self.searches = 0
        return counted

    async def json(self) -> dict[str, Any]:
        """The body as a JSON object; an empty body is an empty object.  Raises 400 or 413."""
        body = parse_object(await read_body(self.request, MAX_BODY, self.service.bodies))
        if self.configuration.compliance.logging_level == "Full":
            self.body = body
        if isinstance(model := body.get("model"), str):
            self.model = model  # for the metrics of a request that is refused, too
        return body


def _outcome(error: BaseException | None) -> tuple[int, str]:
    """The status and code of a request in which this is being raised."""
    if isinstance(error, NotSentError):
        error = error.error
    if error is None:
        return 200, ""
    if isinstance(error, errors.ApiError):
        return error.status, error.code or ""
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return GONE, "client_gone"
    if isinstance(error, StoreUnavailableError):
        return 503, "store_unavailable"
    return 500, "internal_error"


async def read_body(request: Request, limit: int, bodies: Bodies) -> bytes:
    """The body; raises 413 as soon as it is known to be longer than `limit` bytes, 503 where memory has no room."""
    sentence = f"The body is larger than {limit} bytes: send less."
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise errors.too_large(sentence)
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise errors.too_large(sentence)
        bodies.grow(request.scope, size)
        parts.append(part)
    return b"".join(parts)


def parse_object(raw: bytes) -> dict[str, Any]:
    if not raw.strip():
        return {}
    try:
        body = orjson.loads(raw)
    except (ValueError, RecursionError) as error:
        raise errors.bad_json(f"The body is no JSON: {str(error)[:200]}.") from None
    if not isinstance(body, dict):
        raise errors.bad_json("The body must be a JSON object.")
    # What is read deeper than this could not be written again.
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH and deeper(body, MAX_DEPTH):
        raise errors.bad_json(f"The body is nested more than {MAX_DEPTH} levels deep: make it flatter.")
    return body
