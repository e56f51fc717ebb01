"""The ledger's client: reserve before a call, settle after it, record what reached no model.

The arithmetic is in the database (migrations 0002, 0006 and 0012 to 0014), so that all replicas share it and its clock.
Each statement writes the audit's row in the same transaction.
"""

import asyncio
import contextlib
import logging
import uuid
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.errors import UniqueViolation

from tenantry_runtime import audit, errors, limits
from tenantry_runtime.audit import Event
from tenantry_runtime.config import Configuration, ModelPrice
from tenantry_runtime.keys import Caller
from tenantry_runtime.recording import Record, function
from tenantry_runtime.reservation import Need, Reservation, Uncounted, Usage
from tenantry_runtime.store import Row, Store, StoreUnavailableError

log = logging.getLogger(__name__)


_OUTCOME = "outcome, granted, wait, fits, requests_left, requests_size, tokens_left, tokens_size"
_RESERVE = function(_OUTCOME, "reserve_call", 30)
_LOOK_AND_RESERVE = function(f"documents, settling, changed_at, answer, {_OUTCOME}", "look_and_reserve", 34)
_CLAIM_AND_RESERVE = function(f"documents, settling, changed_at, answer, claimed, {_OUTCOME}", "claim_and_reserve", 36)
_OUTCOMES = _OUTCOME.count(",") + 1
_SETTLE = function("settle_call", "settle_call", 20)

_NONE: list[Row] = [(False,)]
"""What `_SETTLE` answers where there is no such reservation."""

LEAST_OUTPUT = 32
"""Output tokens without which a call is not worth starting: it waits for them instead."""
MOST_EVENTS = 10_000
"""Events of refused requests that wait for a database that is away; settlements wait without a bound."""


@dataclass(frozen=True)
class _Pending:
    """A statement that is still to be written.  `again`: the values of `_RESERVE` where it settles a reservation
    that was made, and that the database may have lost."""

    statement: str
    values: tuple[Any, ...]
    again: tuple[Any, ...] = ()


class Ledger:
    """Reserves and settles; settlements that fail are tried again until they succeed or the process ends."""

    def __init__(self, store: Store, lease_seconds: float) -> None:
        self._store = store
        self.lease_seconds = lease_seconds
        self._pending: list[_Pending] = []
        self._wake = asyncio.Event()
        self.refused: dict[str, int] = {}
        self.events: dict[str, int] = {}
        self.unknown_keys = audit.Allowance()

    async def reserve(self, configuration: Configuration, caller: Caller, need: Need, event: Event) -> Reservation:
        """Take the most that a call can use, and write its intent.

        Raises the refusal (413, 429) or StoreUnavailableError.
        """
        reservation, values = self._request(configuration, caller, need, event)
        row = await self._begin(reservation, _RESERVE, values, need.streamed)
        return self._granted(reservation, values, row)

    async def look_and_reserve(
        self,
        look: tuple[Any, ...],
        configuration: Configuration,
        caller: Caller,
        need: Need,
        event: Event,
        claim: tuple[Any, ...] = (),
    ) -> tuple[Row, Reservation | None]:
        """As `reserve`, where a look into the cache finds nothing: its row, and the reservation, if there is one.

        `look`, its row, and where nothing is reserved: see look_and_reserve in migration 0013; with `claim`, its owner
        and seconds: claim_and_reserve in 0014, and the row says too whether the answer was claimed.
        """
        reservation, values = self._request(configuration, caller, need, event)
        statement = _CLAIM_AND_RESERVE if claim else _LOOK_AND_RESERVE
        row = await self._begin(reservation, statement, (*claim, *look, *values), need.streamed)
        seen, outcome = row[:-_OUTCOMES], row[-_OUTCOMES:]
        return seen, self._granted(reservation, values, outcome) if outcome[0] else None

    def _request(
        self, configuration: Configuration, caller: Caller, need: Need, event: Event
    ) -> tuple[Reservation, tuple[Any, ...]]:
        """A reservation that is still to be made, and the values of `_RESERVE` that make it."""
        price = configuration.prices.get(need.model)
        if price is None:
            raise errors.forbidden(f"The model {need.model} has no price here, so it is not served.", "no_price")
        event.basic["price"] = price.told
        budget, units = configuration.budget, configuration.unit_prices
        # A search or retrieval is paid with its call: leave room for it.
        around = 4 * units.database_query_nano + units.vector_search_nano
        input_nano = max(price.input_nano, price.cached_nano)
        reservation = Reservation(uuid.uuid4(), 0, price, configuration, event)
        details = event.details(configuration.compliance.logging_level)
        reservation.told = audit.snapshot(details)
        values = (
            reservation.id,
            caller.key_uid,
            caller.key_name,
            caller.user,
            need.kind,
            need.model,
            need.requests,
            need.counts,
            need.input_tokens,
            need.output_tokens,
            min(LEAST_OUTPUT, need.output_tokens),
            need.choices,
            need.again,
            max(need.input_tokens, need.input_bound) * input_nano + around,
            price.output_nano,
            configuration.prices_version,
            self.lease_seconds,
            budget.time_zone if budget else "UTC",
            *limits.arrays(configuration.limits),
            budget.monthly_nano if budget and budget.on_exceeded == "Block" else None,
            *event.columns(),
            audit.encoded(details),
        )
        return reservation, values

    def _granted(self, reservation: Reservation, values: tuple[Any, ...], row: Row) -> Reservation:
        configuration, event = reservation.configuration, reservation.event
        outcome, reservation.granted, wait, fits, *levels = row
        left = limits.Left(*levels)
        reservation.headers = limits.limit_headers(left)
        if outcome == "ok":
            event.intended = True
            reservation.made_by(values)
            return reservation
        self.refused[outcome] = self.refused.get(outcome, 0) + 1
        raise limits.refusal(configuration.limits, outcome, wait, fits, left, reservation.headers)

    async def _begin(self, reservation: Reservation, statement: str, values: tuple[Any, ...], hurry: bool) -> Row:
        try:
            (row,), reservation.kept = await self._store.begin(statement, values, hurry)
        except (StoreUnavailableError, UniqueViolation) as error:
            # It may have been written although the answer was lost: then it is given back, not kept.
            reservation.event.intended = True
            self._later(_SETTLE, _settlement(reservation, Usage(), "released", 503, "store_unavailable", 0, 0))
            raise StoreUnavailableError(str(error)) from error
        return row

    async def settle(
        self,
        reservation: Reservation,
        usage: Usage | Uncounted,
        *,
        released: bool = False,
        queries: int = 0,
        searches: int = 0,
        status: int = 200,
        error: str = "",
    ) -> None:
        """Replace a reservation by what was used, and write its outcome: the HTTP status and the error's code.

        Never raises: what fails now is tried again.
        """
        reservation.event.outcome = status
        self._count(reservation.event)
        state = "released" if released else "settled"
        if not isinstance(usage, Usage):
            usage = await usage.usage()
        values = _settlement(reservation, usage, state, status, error, queries, searches)
        try:
            if await self._store.write(_SETTLE, values) == _NONE and reservation.again:
                await self._restore(reservation.again, values)
            reservation.kept = None  # what is on the disk now was written after it
        except StoreUnavailableError:
            log.warning("a settlement could not be written: it is tried again until it is")
            self._later(_SETTLE, values, reservation.again)

    async def _restore(self, again: tuple[Any, ...], values: tuple[Any, ...]) -> None:
        """Settle a call whose reservation is lost: the database crashed before it was on the disk.

        Its row and its intent are written once more, reserving nothing, and settled in the same transaction.
        Raises StoreUnavailableError.
        """
        try:
            async with self._store.transaction() as connection:
                await connection.execute(_RESERVE.encode(), again)
                await connection.execute(_SETTLE.encode(), values)
        except UniqueViolation:  # it was still being written
            await self._store.surely(_SETTLE, values)

    async def record(self, record: Record) -> None:
        """Write down a request that reached no model.

        Raises StoreUnavailableError; then it is written later, as answered with 503.
        """
        self._count(record.event)
        try:
            await self._store.write(*record.statement())
        except StoreUnavailableError:
            self.record_later(record)
            raise

    def _count(self, event: Event) -> None:
        self.events[event.event_type] = self.events.get(event.event_type, 0) + 1

    def record_later(self, record: Record) -> None:
        """The same for a request that is refused since the database is away: not now, but when it is back."""
        if record.queries or record.searches or len(self._pending) < MOST_EVENTS:
            self._later(*record.refused().statement())

    def _later(self, statement: str, values: tuple[Any, ...], again: tuple[Any, ...] = ()) -> None:
        self._pending.append(_Pending(statement, values, again))
        self._wake.set()

    async def run(self, every: float = 30) -> None:
        """Write what is pending, and mark what has expired, until cancelled."""
        while True:
            self._wake.clear()
            try:
                await self.flush()
                await self._store.fetch("SELECT expire_reservations()")
            except StoreUnavailableError:
                pass
            except Exception:
                log.exception("the ledger's housekeeping failed; it goes on")
            # What could not be written is tried again soon, but not in a tight loop.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(every):
                    await (asyncio.sleep(1) if self._pending else self._wake.wait())

    async def flush(self) -> None:
        """Write what is pending.  Raises StoreUnavailableError with what is left still pending."""
        while self._pending:
            entry = self._pending[0]
            try:
                if await self._store.surely(entry.statement, entry.values) == _NONE and entry.again:
                    await self._restore(entry.again, entry.values)
            except psycopg.Error:  # not the database's absence: this one can never be written
                log.exception("a row of the ledger is refused by the database and given up; its reservation expires")
            if entry in self._pending:
                self._pending.remove(entry)


def _settlement(
    reservation: Reservation, usage: Usage, state: str, status: int, error: str, queries: int, searches: int
) -> tuple[Any, ...]:
    """The values of `_SETTLE`."""
    configuration, event = reservation.configuration, reservation.event
    units, level = configuration.unit_prices, configuration.compliance.logging_level
    event.detailed["tokens"] = {
        "input": usage.input_tokens,
        "cached": usage.cached_tokens,
        "output": usage.output_tokens,
        "estimated": usage.estimated,
    }
    if usage.estimated:
        event.basic["counted_by"] = usage.counted_by
    return (
        reservation.id,
        state,
        usage.input_tokens,
        usage.cached_tokens,
        usage.output_tokens,
        cost_nano(reservation.price, usage),
        queries,
        searches,
        queries * units.database_query_nano,
        searches * units.vector_search_nano,
        usage.estimated,
        *event.columns(),
        str(status),
        audit.tellable(error, 128),
        audit.encoded(audit.news(event.details(level), reservation.told)),
    )


def cost_nano(price: ModelPrice, usage: Usage) -> int:
    """Nano-dollars of a call; cached input tokens at their own price, where there is one."""
    return (
        (usage.input_tokens - usage.cached_tokens) * price.input_nano
        + usage.cached_tokens * price.cached_nano
        + usage.output_tokens * price.output_nano
    )
