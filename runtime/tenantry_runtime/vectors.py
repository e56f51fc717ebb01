"""The tenant's vectors in Milvus: every call names the tenant's partition where it has one, and its tag always.

pymilvus is imported and connected on first use, in threads of its own: importing it takes most of a second,
and the service answers before.
"""

import asyncio
import functools
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from tenantry_runtime.config import Milvus

log = logging.getLogger(__name__)

TIMEOUT = 10.0
"""Seconds for one call to Milvus."""
FIELDS = ("tenant", "file_id", "store_id", "chunk", "text")

Result = TypeVar("Result")


class VectorsUnavailableError(Exception):
    """Milvus can't be reached, or refuses."""


@dataclass(frozen=True)
class Chunk:
    """A row to write."""

    id: str
    file_id: str
    store_id: str
    number: int
    text: str
    vector: list[float]


@dataclass(frozen=True)
class Found:
    """A row that a search found.  `score` is higher for what is nearer, whatever the metric."""

    id: str
    tenant: str
    file_id: str
    store_id: str
    number: int
    text: str
    score: float


class Vectors:
    """`available` says whether the last call succeeded; None before the first."""

    def __init__(self, milvus: Milvus) -> None:
        self._milvus = milvus
        self._client: Any = None
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="milvus")
        self.available: bool | None = None

    @property
    def tag(self) -> str:
        return self._milvus.tag

    async def replace(self, milvus: Milvus) -> None:
        """Use other credentials from now on."""
        if milvus == self._milvus:
            return
        self._milvus = milvus

        def drop() -> None:
            with self._lock:
                self._client = None  # calls that run hold the old one until they end

        await asyncio.get_running_loop().run_in_executor(self._threads, drop)

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def insert(self, chunks: Sequence[Chunk]) -> None:
        rows = [
            {
                "id": chunk.id,
                "tenant": self.tag,
                "file_id": chunk.file_id,
                "store_id": chunk.store_id,
                "chunk": chunk.number,
                "text": chunk.text,
                "vector": chunk.vector,
            }
            for chunk in chunks
        ]
        await self._run(
            lambda client, milvus: client.insert(
                milvus.collection, rows, partition_name=milvus.partition or "", timeout=TIMEOUT
            )
        )

    async def delete(self, ids: Sequence[str]) -> None:
        """Delete rows by id; those that are not there are no error."""
        if ids:
            await self._run(
                lambda client, milvus: client.delete(
                    milvus.collection, ids=list(ids), partition_name=milvus.partition or "", timeout=TIMEOUT
                )
            )

    async def search(
        self, vector: list[float], limit: int, metric: str, store_ids: Sequence[str] | None, newest: bool
    ) -> list[Found]:
        """The nearest rows of this tenant, best first.  `newest`: wait for what was written just now.

        `store_ids` must have been checked: they become part of the filter.
        """
        expression = f'tenant == "{self.tag}"'
        if store_ids is not None:
            expression += " and store_id in [" + ", ".join(f'"{store_id}"' for store_id in store_ids) + "]"

        def ask(client: Any, milvus: Milvus) -> Any:
            return client.search(
                milvus.collection,
                data=[vector],
                filter=expression,
                limit=limit,
                output_fields=list(FIELDS),
                search_params={"metric_type": metric},
                partition_names=[milvus.partition] if milvus.partition else None,
                anns_field="vector",
                consistency_level="Strong" if newest else "Bounded",
                timeout=TIMEOUT,
            )

        hits = (await self._run(ask))[0]
        return [_found(hit, metric) for hit in hits]

    async def check(self) -> bool:
        """Connect if need be, and see whether the tenant's collection is there."""
        try:
            return bool(
                await self._run(lambda client, milvus: client.has_collection(milvus.collection, timeout=TIMEOUT))
            )
        except VectorsUnavailableError:
            return False

    async def _run(self, ask: Callable[[Any, Milvus], Result]) -> Result:
        loop = asyncio.get_running_loop()
        try:
            result = await loop.run_in_executor(self._threads, functools.partial(self._ask, ask))
        except Exception as error:
            # pymilvus raises its own, gRPC's and ValueErrors; its texts may quote rows, so only the type is told.
            self.available = False
            log.warning("Milvus failed: %s", type(error).__name__)
            raise VectorsUnavailableError(type(error).__name__) from None
        self.available = True
        return result

    def _ask(self, ask: Callable[[Any, Milvus], Result]) -> Result:
        with self._lock:
            milvus = self._milvus
            if self._client is None:
                self._client = _connect(milvus)
            client = self._client
        return ask(client, milvus)


def _connect(milvus: Milvus) -> Any:
    from pymilvus import MilvusClient

    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs a traceback for each failed call
    options: dict[str, Any] = {"uri": milvus.uri, "timeout": TIMEOUT}
    if milvus.user:
        options |= {"user": milvus.user, "password": milvus.password.get_secret_value()}
    if milvus.database != "default":
        options["db_name"] = milvus.database
    return MilvusClient(**options)


def _found(hit: Any, metric: str) -> Found:
    entity, distance = hit["entity"], float(hit["distance"])
    return Found(
        id=str(hit["id"]),
        tenant=str(entity["tenant"]),
        file_id=str(entity["file_id"]),
        store_id=str(entity["store_id"]),
        number=int(entity["chunk"]),
        text=str(entity["text"]),
        score=1 / (1 + distance) if metric == "L2" else distance,
    )
