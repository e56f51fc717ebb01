"""The tenant's vectors in Milvus: every call names the tenant's partition where it has one, and its tag always."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from tenantry_runtime.config import Milvus

if TYPE_CHECKING:  # importing it takes a moment: the service answers before
    from tenantry_runtime.milvus import Client

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
    """`available` says whether the last call succeeded (None before the first), `answered` whether one ever did."""

    def __init__(self, milvus: Milvus) -> None:
        self._milvus = milvus
        self._client: Client | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self.available: bool | None = None
        self.answered = False

    @property
    def tag(self) -> str:
        return self._milvus.tag

    @property
    def _partition(self) -> str:
        return self._milvus.partition or ""

    @property
    def _partitions(self) -> list[str]:
        return [self._milvus.partition] if self._milvus.partition else []

    async def replace(self, milvus: Milvus) -> None:
        """Use other credentials from now on; calls that run keep the old ones until they end."""
        if milvus == self._milvus:
            return
        old, self._client, self._milvus = self._client, None, milvus
        if old is None:
            return

        async def close_later(client: "Client") -> None:
            await asyncio.sleep(2 * TIMEOUT)
            await client.close()

        task = asyncio.create_task(close_later(old))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        for task in self._closing:
            task.cancel()
        if self._client is not None:
            await self._client.close()

    async def insert(self, chunks: Sequence[Chunk]) -> None:
        if not chunks:
            return
        columns: dict[str, list[Any]] = {
            "id": [chunk.id for chunk in chunks],
            "tenant": [self.tag] * len(chunks),
            "file_id": [chunk.file_id for chunk in chunks],
            "store_id": [chunk.store_id for chunk in chunks],
            "chunk": [chunk.number for chunk in chunks],
            "text": [chunk.text for chunk in chunks],
            "vector": [chunk.vector for chunk in chunks],
        }
        await self._run(lambda client: client.insert(self._milvus.collection, self._partition, columns))

    async def delete(self, ids: Sequence[str]) -> None:
        """Delete rows by id; those that are not there are no error."""
        from tenantry_runtime.milvus import one_of

        if ids:
            await self._run(lambda client: client.delete(self._milvus.collection, self._partition, one_of("id", ids)))

    async def search(
        self, vector: list[float], limit: int, metric: str, places: Mapping[str, Sequence[str]] | None, newest: bool
    ) -> list[Found]:
        """The nearest rows of this tenant, best first.  `newest`: wait for what was written just now.

        `places`: the stores to search, each with the files of it that count (none: all); None: everywhere.  All of
        these are ids that this service made.
        """
        expression = scope_expression(self.tag, places)
        rows = await self._run(
            lambda client: client.search(
                self._milvus.collection, self._partitions, expression, vector, limit, metric, FIELDS, newest
            )
        )
        return [_found(row, metric) for row in rows]

    async def check(self) -> bool:
        """Connect if need be, and see whether the tenant's collection answers."""
        try:
            await self._run(lambda client: client.ping(self._milvus.collection, self._partitions))
        except VectorsUnavailableError:
            return False
        return True

    async def _run(self, ask: Callable[["Client"], Awaitable[Result]]) -> Result:
        from tenantry_runtime.milvus import Client, MilvusError

        if self._client is None:
            milvus = self._milvus
            self._client = Client(milvus.uri, milvus.user, milvus.password.get_secret_value(), milvus.database, TIMEOUT)
        try:
            result = await ask(self._client)
        except MilvusError as error:
            if self.available is not False:
                log.warning("the vectors can't be used: %s", error)
            self.available = False
            raise VectorsUnavailableError(str(error)) from None
        self.available = self.answered = True
        return result


def scope_expression(tag: str, places: Mapping[str, Sequence[str]] | None) -> str:
    """Milvus' condition on the rows that a search may find: of this tenant, in these places."""
    from tenantry_runtime.milvus import one_of

    expression = one_of("tenant", [tag])
    if places is None:
        return expression
    whole = [store for store, files in places.items() if not files]
    parts = [one_of("store_id", whole)] if whole else []
    parts += [
        f"({one_of('store_id', [store])} and {one_of('file_id', files)})" for store, files in places.items() if files
    ]
    return f"{expression} and ({' or '.join(parts)})"


def _found(row: dict[str, Any], metric: str) -> Found:
    return Found(
        id=row["id"],
        tenant=row["tenant"],
        file_id=row["file_id"],
        store_id=row["store_id"],
        number=row["chunk"],
        text=row["text"],
        score=1 / (1 + row["score"]) if metric == "L2" else row["score"],
    )
