"""What all tenants of a region share in Milvus, made before its first tenant comes.

A collection takes Milvus some five seconds to make, index and load, for which the first tenants would wait.  Nothing
depends on this: a tenant that finds it missing makes it.
"""

import asyncio
import logging
import time

from tenantry import pauses
from tenantry.api import DataRegion
from tenantry.backends.connection import ApiError
from tenantry.backends.errors import BackendError
from tenantry.credentials import Credentials
from tenantry.desired import vectors
from tenantry.desired.vectors import SharedUsers
from tenantry.regions import Regions
from tenantry.resolve import VectorChoice
from tenantry.view import View

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Between two looks at which regions there are, which ask nobody."""
RETRY_SECONDS = 30.0


class Preparation:
    def __init__(self, view: View, regions: Regions, derived: Credentials) -> None:
        self._view = view
        self._regions = regions
        self._derived = derived
        self._done: dict[str, DataRegion] = {}
        """By name, as it was when it was prepared: a change brings another object."""
        self._due: dict[str, float] = {}
        """Region that did not answer -> when it is asked again (monotonic)."""

    async def keep(self) -> None:
        """For ever."""
        await pauses.for_ever(self.prepare, lambda _: LOOK_SECONDS, "The regions could not be prepared")

    async def prepare(self) -> None:
        """Each region that is new or changed, where some tier's tenants share a collection."""
        if not any(tier.spec.vector_isolation == "Partition" for tier in self._view.tiers.values()):
            return
        waiting = [
            self._prepare(region)
            for region in self._view.regions.values()
            if self._done.get(region.name) is not region and self._due.get(region.name, 0) < time.monotonic()
        ]
        await asyncio.gather(*waiting)

    async def _prepare(self, region: DataRegion) -> None:
        usual = region.spec.embedding
        choice = VectorChoice("Partition", usual.model, usual.dimension, usual.metric)
        place = vectors.first_shared(region.name, choice)
        try:
            backends = await self._regions.get(region)
            if not await backends.milvus.started(region.name, choice):
                there = await backends.milvus.shared_users(place.collection)
                users = SharedUsers(max(there, default=0))
                await backends.milvus.ensure(
                    vectors.shared_plan(choice, region.spec, place, self._derived, backends.uid, users)
                )
                logger.info("DataRegion %s: collection %s is there for its tenants", region.name, place.collection)
        except (BackendError, ApiError) as error:
            logger.info("DataRegion %s can't be prepared now: %s", region.name, error.message)
            self._due[region.name] = time.monotonic() + pauses.about(RETRY_SECONDS)
            return
        self._done[region.name] = region
