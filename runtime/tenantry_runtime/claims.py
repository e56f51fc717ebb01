"""Claims: of the identical requests that several replicas of a tenant have at once, one asks the provider.

A claim is a row that says who is about to have an answer (migration 0014, which says how locks are taken).  It is a
lease: this process renews all that it holds in one statement, so that those of a process that died run out soon.
"""

import asyncio
import logging
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psycopg

from tenantry_runtime.recording import function
from tenantry_runtime.store import StoreUnavailableError

if TYPE_CHECKING:
    from tenantry_runtime.service import Service

log = logging.getLogger(__name__)

LEASE_SECONDS = 5.0
"""After which the claim of a process that died is free for others."""
RENEW_SECONDS = 1.5
FIRST_PAUSE, LAST_PAUSE, SLOWER = 0.05, 0.3, 1.5
"""Seconds between two looks of who waits for another replica's answer: at first, at last, and how they grow."""

LOOK_AND_CLAIM = function("documents, settling, changed_at, answer, claimed", "look_and_claim", 6)
_MINE = """
mine AS (
    SELECT key FROM response_claims WHERE key = ANY(%s::bytea[]) AND owner = ANY(%s::uuid[]) FOR UPDATE SKIP LOCKED
)"""
_FREE = "DELETE FROM response_claims WHERE key IN (SELECT key FROM mine)"
_GIVE_BACK = f"WITH {_MINE} {_FREE}"
_RENEW = f"""
WITH {_MINE} UPDATE response_claims SET until = clock_timestamp() + make_interval(secs => %s)
WHERE key IN (SELECT key FROM mine)
"""  # noqa: S608 - constants of ours
WITH_STORING = f"WITH {_MINE}, gone AS ({_FREE})"
"""Before an INSERT: gives back the claims of what it stores, in the same statement."""
_SWEEP = """
DELETE FROM response_claims WHERE key IN (
    SELECT key FROM response_claims WHERE until < clock_timestamp() - interval '1 minute' FOR UPDATE SKIP LOCKED
)
"""


@dataclass(frozen=True)
class Claim:
    """Of an answer's key, by one request."""

    key: bytes
    owner: uuid.UUID = field(default_factory=uuid.uuid4)


def arrays(claims: Iterable[Claim]) -> tuple[str, str]:
    """The two values of `_MINE`, as PostgreSQL's text."""
    held = list(claims)
    keys = ",".join(f'"\\\\x{claim.key.hex()}"' for claim in held)
    return "{" + keys + "}", "{" + ",".join(str(claim.owner) for claim in held) + "}"


class Claims:
    """What this process has claimed."""

    def __init__(self, service: "Service") -> None:
        self._service = service
        self._held: set[Claim] = set()
        self._some = asyncio.Event()
        self._left: dict[bytes, Claim] = {}  # to be given back
        self._leaving: asyncio.Task[None] | None = None

    async def make(self, key: bytes) -> Claim:
        """A claim that may be asked for: not while a former one of this process is still being given back."""
        while key in self._left and self._leaving:
            await asyncio.shield(self._leaving)
        return Claim(key)

    def hold(self, claim: Claim) -> None:
        """It was had: renew it from now on."""
        self._held.add(claim)
        self._some.set()

    def forget(self, claim: Claim) -> None:
        """It was given back with the answer, or runs out."""
        self._held.discard(claim)

    def give_back(self, claim: Claim) -> None:
        """There is no answer to come: who waits on another replica goes on."""
        self._held.discard(claim)
        self._left[claim.key] = claim
        if self._leaving is None:
            work = self._give_back()
            try:
                self._leaving = self._service.finish(work)
            except RuntimeError:  # a finalizer that runs outside of the loop: the claim runs out
                work.close()
                self._left.clear()

    async def _give_back(self) -> None:
        try:
            while self._left:
                left = list(self._left.values())
                try:
                    await self._service.store.ask(_GIVE_BACK, arrays(left))
                except (StoreUnavailableError, psycopg.Error) as error:
                    log.info("claims of answers could not be given back, and run out: %s", type(error).__name__)
                finally:
                    for claim in left:
                        self._left.pop(claim.key, None)
        finally:
            self._leaving = None

    async def run(self) -> None:
        """Renew what is held, until cancelled."""
        while True:
            await self._some.wait()
            await asyncio.sleep(RENEW_SECONDS)
            if not self._held:
                self._some.clear()
                continue
            try:
                await self._service.store.ask(_RENEW, (*arrays(self._held), LEASE_SECONDS))
            except StoreUnavailableError:
                pass  # some may run out: then another replica asks the provider too
            except Exception:
                log.exception("claims of answers could not be renewed; they are tried again")

    async def sweep(self) -> None:
        """Remove what processes that died have left."""
        await self._service.store.fetch(_SWEEP)
