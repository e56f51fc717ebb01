"""What a call may use at most, what it did use, and the reservation in between: see `ledger.py`."""

import asyncio
import uuid
from dataclasses import dataclass, field
from typing import Any, Protocol

from tenantry_runtime.audit import Event
from tenantry_runtime.config import Configuration, ModelPrice
from tenantry_runtime.store import StoreUnavailableError


@dataclass(frozen=True)
class Need:
    """The most that one call can use.  `again`: what the same call takes before this one when tried again.

    `streamed`: some of the answer is given before it is settled, and so its intent must be on the disk soon.
    """

    kind: str
    model: str
    input_tokens: int
    input_bound: int
    output_tokens: int = 0
    choices: int = 1
    requests: int = 1
    counts: bool = True
    again: int = 0
    streamed: bool = False


@dataclass(frozen=True)
class Usage:
    """What a call did use.  `cached_tokens` are those of the input that the provider had cached.

    `counted_by` names the tokenizer where the provider did not say it.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    counted_by: str = ""

    @property
    def estimated(self) -> bool:
        return self.counted_by != ""


class Uncounted(Protocol):
    """What a call used, still to be counted."""

    async def usage(self) -> Usage:
        """Never raises."""
        ...


@dataclass
class Reservation:
    """A call that may be made.  `granted`: output tokens a choice; `told`: the details in its intent row.

    `again` writes it once more, should the database have lost it; `kept`: whether it is on the disk, where that is
    not known yet.
    """

    id: uuid.UUID
    granted: int
    price: ModelPrice
    configuration: Configuration
    event: Event
    headers: dict[str, str] = field(default_factory=dict)
    told: dict[str, Any] = field(default_factory=dict)
    again: tuple[Any, ...] = ()
    kept: "asyncio.Future[bool] | None" = None

    def made_by(self, values: tuple[Any, ...]) -> None:
        """These values of reserve_call (migration 0006) have made it."""
        if self.kept is not None:
            self.again = _once_more(values)
            self.kept.add_done_callback(self._told)

    def _told(self, kept: "asyncio.Future[bool]") -> None:
        if not kept.cancelled() and kept.result():
            self.again = ()

    async def ensure(self) -> None:
        """Return once its intent is on the disk: before that nothing of the answer may be given.

        Raises StoreUnavailableError where nobody knows.
        """
        if self.kept is not None and not await asyncio.shield(self.kept):
            raise StoreUnavailableError("nobody knows whether the intent was kept")
        self.kept = None


def _once_more(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values of reserve_call for the same row, which take nothing from any limit and are refused by none."""
    whose, prices, about = values[:6], values[15:21], values[23:]
    requests, counts, tokens_in, tokens_out, least, choices, again, nano_in, nano_out = 0, False, 0, 0, 0, 1, 0, 0, 0
    taken = (requests, counts, tokens_in, tokens_out, least, choices, again, nano_in, nano_out)
    concurrency = budget = None
    return (*whose, *taken, *prices, concurrency, budget, *about)
