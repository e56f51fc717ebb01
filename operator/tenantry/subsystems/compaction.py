"""The space of deleted vectors: Milvus is asked for it with the region's login, for a tenant's own may not ask.

The runtime writes down when it deleted vectors, and the look at the tenant's PostgreSQL tells.  That note stays until
Milvus was asked after it: a crash, a failure or a pause in between only puts the question off to the next look.
"""

import asyncio
import logging

from tenantry.backends.errors import BackendError
from tenantry.regions import Backends
from tenantry.work import Work

logger = logging.getLogger(__name__)


class Compaction:
    def __init__(self) -> None:
        self._under_way: dict[str, asyncio.Task[None]] = {}

    def begin(self, work: Work, backends: Backends) -> None:
        """Ask where something was deleted, in the background: whatever comes of it, nothing waits for it."""
        uid = work.resolved.uid
        if work.removal is None or work.vectors is None or uid in self._under_way:
            return
        task = self._under_way[uid] = asyncio.create_task(self._ask(work, backends))
        task.add_done_callback(lambda _: self._under_way.pop(uid, None))

    async def _ask(self, work: Work, backends: Backends) -> None:
        assert work.removal is not None
        assert work.vectors is not None
        plan, removal = work.removal
        try:
            if await backends.milvus.compact(work.vectors.place, removal.seconds_ago):
                await backends.postgres.compacted(plan, removal)
        except BackendError as error:
            logger.info("Milvus was to be asked for the space of deleted vectors, later again: %s", error.message)
        except Exception:
            logger.exception("Asking Milvus for the space of deleted vectors failed in a way that nobody foresaw")
