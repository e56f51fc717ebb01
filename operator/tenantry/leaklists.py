"""Keeps the leak lists: in each region's application database, and a copy in each tenant's own database.

Not a step of a tenant's reconcile: a new tenant waits for no list, and many tenants at once are one statement.
"""

import asyncio
import logging
import time

from tenantry import identifiers, pauses
from tenantry.api import DataRegion, Reason
from tenantry.backends.connection import ApiError
from tenantry.backends.errors import BackendError
from tenantry.backends.kinds import TENANT
from tenantry.credentials import Credentials
from tenantry.desired.postgres.things import Things
from tenantry.metrics import Metrics
from tenantry.regions import Regions
from tenantry.view import View

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 5.0
SHARE = 20
"""Of the time, one in so many is spent on it: with many databases the pauses grow."""
RETRY_SECONDS = 30.0

Place = tuple[str, int, str]
"""Host, port and application database: regions that share them share the list."""


class LeakLists:
    def __init__(
        self, view: View, regions: Regions, derived: Credentials, metrics: Metrics, believed_seconds: float
    ) -> None:
        self._view = view
        self._regions = regions
        self._derived = derived
        self._metrics = metrics
        self._believed = believed_seconds
        self._seen: dict[Place, tuple[int, float]] = {}
        """The version of the marks that was written, and until when (monotonic) that is believed."""
        self._written: dict[Place, dict[str, int]] = {}
        """By tenant with a database of its own ('' for the application database): a digest of what it has."""

    async def keep(self) -> None:
        """For ever."""
        await pauses.for_ever(
            self.write, lambda took: max(PAUSE_SECONDS, SHARE * took), "The leak lists could not be kept"
        )

    async def write(self) -> None:
        """What has changed, and what was not looked at for long."""
        places: dict[Place, list[DataRegion]] = {}
        for region in sorted(self._view.regions.values(), key=lambda region: region.uid):
            server = region.spec.postgres
            places.setdefault((server.host, server.port, server.database), []).append(region)
        for gone in self._seen.keys() - places.keys():
            del self._seen[gone]
            self._written.pop(gone, None)
        await asyncio.gather(*(self._look(place, regions) for place, regions in places.items()))

    async def _look(self, place: Place, regions: list[DataRegion]) -> None:
        """At one place, beside the others: one that does not answer holds up its own list alone."""
        version, now = self._view.marks_version, time.monotonic()
        seen, until = self._seen.get(place, (-1, 0.0))
        if seen != version or now >= until:
            well = await self._write(place, regions)
            self._seen[place] = (version, now + (self._believed if well else RETRY_SECONDS))

    async def _write(self, place: Place, regions: list[DataRegion]) -> bool:
        """Whether each database has its list."""
        try:
            backends = await self._regions.get(regions[0])
        except (BackendError, ApiError) as error:
            logger.warning("DataRegion %s: the leak list can't be written: %s", regions[0].name, error.message)
            return False
        served = {region.name for region in regions}
        tenants = [marks for marks in self._view.marks.values() if marks.region in served]
        unreadable = [stored.uid for (kind, *_), stored in self._view.unreadable.items() if kind == TENANT.kind]
        key = self._derived.leak_key(regions[0].uid)
        # With 2,000 tenants this takes 0.1 s, for which nothing else need stand still.
        wanted = await asyncio.to_thread(identifiers.leaks, tenants, key, unreadable)
        homes: dict[str, Things | None] = {"": None}
        homes |= {marks.uid: Things(marks.name, marks.uid) for marks in tenants if marks.database}
        before, self._written[place] = self._written.get(place, {}), {}
        for uid, things in homes.items():
            try:
                changed, mended = await backends.postgres.sync_leaks(wanted, things)
            except BackendError as error:
                level = logging.DEBUG if error.reason is Reason.WAITING else logging.WARNING
                database = things.database if things else place[2]
                logger.log(level, "Database %s: the leak list can't be written: %s", database, error.message)
                continue
            if mended or (changed and before.get(uid) == wanted.digest):
                self._metrics.drift.labels("leaks").inc()
            self._written[place][uid] = wanted.digest
        return len(self._written[place]) == len(homes)
