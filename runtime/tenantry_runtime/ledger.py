"""The ledger's client: reserve before a call, settle after it, record what reached no model.

The arithmetic is in the database (migration 0002), so that all replicas share it and its clock.
"""

import asyncio
import contextlib
import logging
import math
import uuid
from dataclasses import dataclass, field
from typing import Any

from psycopg.errors import UniqueViolation

from tenantry_runtime import errors
from tenantry_runtime.config import Configuration, ModelPrice
from tenantry_runtime.keys import Caller
from tenantry_runtime.store import Row, Store, StoreUnavailableError

log = logging.getLogger(__name__)

_RESERVE = """
SELECT outcome, granted, wait, fits, requests_left, tokens_left FROM reserve(
    %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s
)
"""
_SETTLE = "SELECT settle(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
_RECORD = "SELECT record(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"

LEAST_OUTPUT = 32
"""Output tokens without which a call is not worth starting: it waits for them instead."""


@dataclass(frozen=True)
class Need:
    """The most that one call can use.  `again`: what the same call takes before this one when tried again."""

    kind: str
    model: str
    input_tokens: int
    input_bound: int
    output_tokens: int = 0
    choices: int = 1
    requests: int = 1
    counts: bool = True
    again: int = 0


@dataclass(frozen=True)
class Usage:
    """What a call did use."""

    input_tokens: int = 0
    output_tokens: int = 0
    estimated: bool = False


@dataclass
class Reservation:
    """A call that may be made.  `granted`: output tokens a choice."""

    id: uuid.UUID
    granted: int
    price: ModelPrice
    configuration: Configuration
    headers: dict[str, str] = field(default_factory=dict)


class Ledger:
    """Reserves and settles; settlements that fail are tried again until they succeed or the process ends."""

    def __init__(self, store: Store, lease_seconds: float) -> None:
        self._store = store
        self.lease_seconds = lease_seconds
        self._pending: list[tuple[str, tuple[Any, ...]]] = []
        self._wake = asyncio.Event()
        self.refused: dict[str, int] = {}

    async def reserve(self, configuration: Configuration, caller: Caller, need: Need) -> Reservation:
        """Take the most that a call can use.  Raises the refusal (413, 429) or StoreUnavailableError."""
        price = configuration.prices.get(need.model)
        if price is None:
            raise errors.forbidden(f"The model {need.model} has no price here, so it is not served.", "no_price")
        limits, budget, units = configuration.limits, configuration.budget, configuration.unit_prices
        # A search or retrieval is paid with its call: leave room for it.
        around = 4 * units.database_query_nano + units.vector_search_nano
        identity = uuid.uuid4()
        row = await self._reserve(
            identity,
            (
                identity,
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
                max(need.input_tokens, need.input_bound) * price.input_nano + around,
                price.output_nano,
                configuration.prices_version,
                self.lease_seconds,
                budget.time_zone if budget else "UTC",
                limits.requests_per_minute,
                limits.tokens_per_minute,
                limits.tokens_per_day,
                limits.concurrency,
                budget.monthly_nano if budget and budget.on_exceeded == "Block" else None,
            ),
        )
        outcome, granted, wait, fits, requests_left, tokens_left = row
        headers = limit_headers(configuration, requests_left, tokens_left)
        if outcome == "ok":
            return Reservation(identity, granted, price, configuration, headers)
        self.refused[outcome] = self.refused.get(outcome, 0) + 1
        raise _refusal(configuration, outcome, wait, fits, requests_left, tokens_left, headers)

    async def _reserve(self, identity: uuid.UUID, values: tuple[Any, ...]) -> Row:
        try:
            row = await self._store.one(_RESERVE, values)
        except (StoreUnavailableError, UniqueViolation) as error:
            # It may have been written although the answer was lost: then it is given back, not kept.
            self._later(_SETTLE, (identity, "released", 0, 0, 0, 0, 0, 0, 0, False))
            raise StoreUnavailableError(str(error)) from error
        assert row is not None
        return row

    async def settle(
        self, reservation: Reservation, usage: Usage, *, released: bool = False, queries: int = 0, searches: int = 0
    ) -> None:
        """Replace a reservation by what was used.  Never raises: what fails now is tried again."""
        units = reservation.configuration.unit_prices
        await self._do(
            _SETTLE,
            (
                reservation.id,
                "released" if released else "settled",
                usage.input_tokens,
                usage.output_tokens,
                cost_nano(reservation.price, usage),
                queries,
                searches,
                queries * units.database_query_nano,
                searches * units.vector_search_nano,
                usage.estimated,
            ),
        )

    async def record(
        self, configuration: Configuration, caller: Caller, kind: str, *, queries: int, searches: int = 0
    ) -> None:
        """Write down a request that reached the database or the vectors, but no model."""
        units, budget = configuration.unit_prices, configuration.budget
        await self._do(
            _RECORD,
            (
                uuid.uuid4(),
                caller.key_uid,
                caller.key_name,
                caller.user,
                kind,
                queries,
                searches,
                queries * units.database_query_nano,
                searches * units.vector_search_nano,
                configuration.prices_version,
                budget.time_zone if budget else "UTC",
            ),
        )

    async def _do(self, statement: str, values: tuple[Any, ...]) -> None:
        try:
            await self._store.fetch(statement, values)
        except StoreUnavailableError:
            log.warning("a settlement could not be written: it is tried again until it is")
            self._later(statement, values)

    def _later(self, statement: str, values: tuple[Any, ...]) -> None:
        self._pending.append((statement, values))
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
            statement, values = entry = self._pending[0]
            await self._store.fetch(statement, values)
            if entry in self._pending:
                self._pending.remove(entry)


def cost_nano(price: ModelPrice, usage: Usage) -> int:
    return usage.input_tokens * price.input_nano + usage.output_tokens * price.output_nano


def duration(seconds: float) -> str:
    """Seconds as OpenAI writes them in its headers: ``12ms``, ``6.5s``, ``1m0s``."""
    milliseconds = max(0, math.ceil(seconds * 1000))
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    return (f"{minutes}m" if minutes else "") + f"{rest / 1000:g}s"


def limit_headers(configuration: Configuration, requests: float | None, tokens: float | None) -> dict[str, str]:
    """``x-ratelimit-*`` for the limits that there are: the bucket's size, what is left, when it is full again."""
    headers = {}
    for name, size, left in (
        ("requests", configuration.limits.requests_per_minute, requests),
        ("tokens", configuration.limits.tokens_per_minute, tokens),
    ):
        if size and left is not None:
            headers[f"x-ratelimit-limit-{name}"] = str(size)
            headers[f"x-ratelimit-remaining-{name}"] = str(max(0, math.floor(left)))
            headers[f"x-ratelimit-reset-{name}"] = duration((size - left) * 60 / size)
    return headers


_SENTENCES = {
    "requests": "The limit of {requests_per_minute} requests a minute is reached.",
    "tokens": "The limit of {tokens_per_minute} tokens a minute is reached.",
    "day": "The allowance of {tokens_per_day} tokens a day is used up.",
    "concurrency": "{concurrency} calls run already, and no more may at a time.",
}


def _refusal(
    configuration: Configuration,
    outcome: str,
    wait: float,
    fits: int | None,
    requests_left: float | None,
    tokens_left: float | None,
    headers: dict[str, str],
) -> errors.ApiError:
    if outcome == "budget":
        return errors.insufficient_quota(wait, headers)
    if outcome == "too_large":
        if fits:
            sentence = f"This call needs more tokens than the limits ever hold: {fits} with its answer would fit."
        else:
            sentence = "The tenant's limits leave room for no call: have them raised."
        return errors.too_large(sentence)
    sentence = _SENTENCES[outcome].format(**configuration.limits.model_dump())
    remaining = requests_left if outcome == "requests" else tokens_left if outcome == "tokens" else 0
    kind = outcome if outcome in ("requests", "tokens") else "requests" if outcome == "concurrency" else "tokens"
    return errors.rate_limited(outcome, kind, sentence, wait, remaining or 0, headers)
