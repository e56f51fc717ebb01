"""The parts of one running service, and their life: made from the credentials, replaced when those change."""

import asyncio
import importlib
import logging
import time
from collections.abc import Coroutine
from typing import Any

from tenantry_runtime import retention
from tenantry_runtime.bodies import Bodies
from tenantry_runtime.cache import ResponseCache
from tenantry_runtime.config import Credentials
from tenantry_runtime.guard import Guard
from tenantry_runtime.ingestion import Ingestion
from tenantry_runtime.keys import Keys
from tenantry_runtime.ledger import Ledger
from tenantry_runtime.live import LiveConfiguration
from tenantry_runtime.metrics import Metrics
from tenantry_runtime.provider import ProviderClient
from tenantry_runtime.settings import BODY_BYTES, CredentialsFile, Settings
from tenantry_runtime.store import Store
from tenantry_runtime.uploads import Uploads
from tenantry_runtime.vectors import Vectors

log = logging.getLogger(__name__)

VECTORS_PATIENCE = 20.0
"""Seconds for which a new replica waits for Milvus before it serves without."""
UPLOADS = 4
"""At once: for so many of the largest a Pod has scratch space (the operator's `scratch_bytes`)."""
LEASE_MARGIN = 60
"""Seconds that a reservation outlives its request's own timeout."""


class Service:
    """What the routes use.  `draining`: told to stop, so that `/readyz` says no."""

    def __init__(self, credentials: Credentials, pool_size: int = 6, body_bytes: int = BODY_BYTES) -> None:
        self.credentials = credentials
        self.store = Store(credentials.postgres, pool_size)
        self.vectors = Vectors(credentials.milvus)
        self.provider = ProviderClient(credentials.provider)
        self.ledger = Ledger(self.store, credentials.provider.timeout_seconds + LEASE_MARGIN)
        self.guard = Guard(self.store, credentials.milvus.tag)
        self.keys = Keys(self.store)
        self.live = LiveConfiguration(
            credentials.postgres, credentials.milvus.tag, self.guard.changed.set, self.keys.forget
        )
        self.metrics = Metrics()
        self.ingestion = Ingestion(self)
        self.bodies = Bodies(body_bytes)
        self.uploads = Uploads(UPLOADS)
        self.cache = ResponseCache(self)
        self.draining = False
        self._made = time.monotonic()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._settling: set[asyncio.Task[Any]] = set()

    async def start(self, file: CredentialsFile | None = None) -> None:
        """Begin all background work; waits for none of the stores."""
        await self.store.open()
        parts = (self.live, self.guard, self.ledger, self.ingestion, self.cache, self.cache.claims)
        for work in (*(part.run() for part in parts), self._connect_vectors(), retention.keep_house(self)):
            self._background(work)
        if file:
            self._background(file.watch(self.replace))

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect_vectors(self) -> None:
        """Import and connect ahead of the first search; then look now and then, for `/readyz` to tell."""
        await self.live.loaded.wait()
        await asyncio.to_thread(importlib.import_module, "tenantry_runtime.milvus")
        while True:
            await self.vectors.check()
            await asyncio.sleep(30 if self.warm else 1)

    @property
    def warm(self) -> bool:
        """Whether Milvus has answered, or was waited for long enough: a new replica replaces none that can search."""
        return self.vectors.answered or time.monotonic() - self._made > VECTORS_PATIENCE

    async def replace(self, credentials: Credentials) -> None:
        """Take other credentials over; requests that run keep the old ones until they end."""
        if credentials.milvus.tag != self.credentials.milvus.tag:
            log.error("the new credentials are another tenant's: keeping the old ones")
            return
        self.credentials = credentials
        await self.store.replace(credentials.postgres)
        self.live.replace(credentials.postgres)
        self.provider.replace(credentials.provider)
        self.ledger.lease_seconds = credentials.provider.timeout_seconds + LEASE_MARGIN
        await self.vectors.replace(credentials.milvus)

    def finish(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run to its end even where the request that asked for it is cancelled; `close` waits for it."""
        task = asyncio.create_task(work)
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)
        return task

    async def close(self, timeout: float = 5) -> None:
        """Settle what is open, then end the background work and the connections."""
        try:
            async with asyncio.timeout(timeout):
                if self._settling:
                    await asyncio.wait(self._settling)
                await self.ledger.flush()
        except Exception as error:
            log.warning("not all settlements could be written: %s", type(error).__name__)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.provider.close()
        await self.vectors.close()
        await self.store.close()


def load(settings: Settings) -> tuple[Service, CredentialsFile]:
    """The service of this process's environment.  Raises OSError or ValueError for unusable credentials."""
    file = CredentialsFile(settings.credentials)
    return Service(file.load(), settings.pool_size, settings.body_bytes), file
