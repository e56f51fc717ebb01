"""The end of what is kept for a time only: archived audit rows, region by region."""

import asyncio
import logging

from tenantry import pauses
from tenantry.backends.connection import ApiError
from tenantry.backends.errors import BackendError
from tenantry.metrics import Metrics
from tenantry.regions import Regions
from tenantry.view import View

logger = logging.getLogger(__name__)


async def purge(view: View, regions: Regions, metrics: Metrics) -> None:
    """Once in every region; one that does not answer is purged the next time.  Those that are gone are let go."""
    regions.keep(view.regions)
    for region in list(view.regions.values()):
        try:
            backends = await regions.get(region)
            removed = await backends.postgres.purge_archive()
        except (BackendError, ApiError) as error:
            logger.warning("DataRegion %s: the archive of audits can't be purged: %s", region.name, error.message)
            continue
        if removed:
            metrics.purged.labels(region.name).inc(removed)
            logger.info(
                "DataRegion %s: %d archived audit rows reached the end of their retention", region.name, removed
            )


async def keep_purging(view: View, regions: Regions, metrics: Metrics, seconds: float) -> None:
    """For ever, about every `seconds`; not at once, when everything else begins too."""
    await asyncio.sleep(pauses.about(seconds))
    await pauses.for_ever(
        lambda: purge(view, regions, metrics), lambda _: seconds, "The archives of audits could not be purged"
    )
