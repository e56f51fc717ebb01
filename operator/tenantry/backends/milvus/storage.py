"""Databases, collections and partitions: made, loaded, looked at, removed."""

import asyncio
import time
from enum import IntEnum
from typing import Any

from tenantry.api.conditions import Reason
from tenantry.backends.errors import BackendError, foreign
from tenantry.backends.milvus.client import (
    COLLECTION_NOT_FOUND,
    DATABASE_NOT_FOUND,
    INDEX_NOT_FOUND,
    PARTITION_NOT_FOUND,
    Client,
    code_of,
)
from tenantry.backends.milvus.protocol import common, milvus, schema
from tenantry.desired.vectors import DEFAULT_DATABASE, ID_LENGTH, TAG_LENGTH, TEXT_LENGTH, VectorPlan

LOAD_SECONDS = 30.0
LOAD_POLL_SECONDS = 0.1
VECTOR_FIELD = "vector"
_TRIES = 5
_REFRESHED = "tenantry.refreshed"


class Load(IntEnum):
    """Milvus' load states: only what is in memory is searched."""

    ABSENT = 0
    NOT = 1
    UNDER_WAY = 2
    DONE = 3


class Storage:
    """What holds the vectors of one server."""

    def __init__(self, client: Client) -> None:
        self._client = client

    # Look

    async def collections(self, database: str = DEFAULT_DATABASE) -> list[str]:
        """Names of the collections in a database; none where it does not exist."""
        request = milvus.ShowCollectionsRequest()
        answer = await self._client.call("ShowCollections", request, database, accept=(DATABASE_NOT_FOUND,))
        return list(answer.collection_names)

    async def describe(self, collection: str, database: str = DEFAULT_DATABASE) -> Any | None:
        """Milvus' own description; None where there is no such collection."""
        request = milvus.DescribeCollectionRequest(collection_name=collection)
        answer = await self._client.call(
            "DescribeCollection", request, database, accept=(COLLECTION_NOT_FOUND, DATABASE_NOT_FOUND)
        )
        return None if code_of(answer) else answer

    async def has_partition(self, collection: str, partition: str) -> bool:
        request = milvus.HasPartitionRequest(collection_name=collection, partition_name=partition)
        answer = await self._client.call("HasPartition", request, accept=(COLLECTION_NOT_FOUND,))
        return bool(answer.value) and not code_of(answer)

    async def load(self, collection: str, database: str, partition: str | None = None) -> Load:
        """Whether searches are served from a collection or partition."""
        request = milvus.GetLoadStateRequest(
            collection_name=collection, partition_names=[partition] if partition else []
        )
        missing = (COLLECTION_NOT_FOUND, PARTITION_NOT_FOUND, DATABASE_NOT_FOUND)
        for _ in range(_TRIES):
            # While another partition of the collection is made, proxies now and then do not find the collection.
            answer = await self._client.call("GetLoadState", request, database, missing, "can't find collection")
            if answer is not None:
                return Load.ABSENT if code_of(answer) else Load(answer.state)
            await asyncio.sleep(LOAD_POLL_SECONDS)
        return Load.ABSENT

    async def look(self, plan: VectorPlan) -> None:
        """Refuses a collection by the plan's name that is not ours."""
        place = plan.place
        found = await self.describe(place.collection, place.database)
        if found is not None and not _as_planned(found, plan):
            raise foreign(f"Milvus collection {place.collection} in database {place.database}")

    # Make

    async def ensure_collection(self, plan: VectorPlan) -> list[str]:
        """Database, collection, index, loaded; says what was written, and refuses what is not ours."""
        place, written = plan.place, []
        found = await self.describe(place.collection, place.database)
        if found is None:
            if place.database != DEFAULT_DATABASE:
                written += await self._ensure_database(place.database)
            await self._create_collection(plan)
            written.append(f"collection {place.collection}")
        elif not _as_planned(found, plan):
            raise foreign(f"Milvus collection {place.collection} in database {place.database}")
        if found is None or not await self._indexed(plan):
            await self._create_index(plan)
            written.append(f"index of collection {place.collection}")
        state = await self.load(place.collection, place.database)
        if state is not Load.DONE:
            if state is not Load.UNDER_WAY:
                request = milvus.LoadCollectionRequest(collection_name=place.collection, replica_number=1)
                await self._client.call("LoadCollection", request, place.database)
            await self._wait_loaded(plan, None)
            written.append(f"loading of collection {place.collection}")
        return written

    async def ensure_partition(self, plan: VectorPlan) -> list[str]:
        """The tenant's partition, loaded with its collection; says what was written."""
        place, written = plan.place, []
        state = await self.load(place.collection, place.database, place.partition)
        if state is Load.ABSENT:
            request = milvus.CreatePartitionRequest(collection_name=place.collection, partition_name=place.partition)
            await self._client.call("CreatePartition", request, place.database)
            written.append(f"partition {place.partition}")
            state = await self.load(place.collection, place.database, place.partition)
            if state is Load.ABSENT:
                await self._refresh(place.collection)
                state = await self.load(place.collection, place.database, place.partition)
        if state is not Load.DONE:
            if state is not Load.UNDER_WAY:
                load = milvus.LoadPartitionsRequest(
                    collection_name=place.collection, partition_names=[place.partition], replica_number=1
                )
                await self._client.call("LoadPartitions", load, place.database)
            await self._wait_loaded(plan, place.partition)
            written.append(f"loading of partition {place.partition}")
        return written

    async def compact(self, collection: str, database: str = DEFAULT_DATABASE) -> None:
        """Ask for the space of deleted rows; returns once Milvus has taken note.  Fine where it is gone."""
        found = await self.describe(collection, database)
        if found is not None:
            request = milvus.ManualCompactionRequest(collectionID=found.collectionID)
            await self._client.call("ManualCompaction", request, database)

    # Remove

    async def drop_partition(self, collection: str, partition: str) -> None:
        """With all its rows; fine where it is gone."""
        if not await self.has_partition(collection, partition):
            return
        gone = (COLLECTION_NOT_FOUND, PARTITION_NOT_FOUND)
        release = milvus.ReleasePartitionsRequest(collection_name=collection, partition_names=[partition])
        answer = await self._client.call("ReleasePartitions", release, accept=gone)
        if code_of(answer) == PARTITION_NOT_FOUND:
            await self._refresh(collection)
            await self._client.call("ReleasePartitions", release, accept=gone)
        drop = milvus.DropPartitionRequest(collection_name=collection, partition_name=partition)
        await self._client.call("DropPartition", drop, accept=gone)

    async def drop_collection(self, collection: str, database: str = DEFAULT_DATABASE) -> None:
        request = milvus.DropCollectionRequest(collection_name=collection)
        await self._client.call("DropCollection", request, database, accept=(COLLECTION_NOT_FOUND, DATABASE_NOT_FOUND))

    async def drop_database(self, database: str) -> None:
        """With all its collections: Milvus drops only an empty one."""
        for collection in await self.collections(database):
            await self.drop_collection(collection, database)
        request = milvus.DropDatabaseRequest(db_name=database)
        await self._client.call("DropDatabase", request, accept=(DATABASE_NOT_FOUND,))

    async def release(self, collection: str, database: str = DEFAULT_DATABASE) -> None:
        """Take a collection out of memory; its data stays."""
        if await self.load(collection, database) is Load.ABSENT:
            return
        request = milvus.ReleaseCollectionRequest(collection_name=collection)
        await self._client.call("ReleaseCollection", request, database, accept=(COLLECTION_NOT_FOUND,))

    # Steps

    async def _ensure_database(self, database: str) -> list[str]:
        answer = await self._client.call("ListDatabases", milvus.ListDatabasesRequest())
        if database in answer.db_names:
            return []
        await self._client.call("CreateDatabase", milvus.CreateDatabaseRequest(db_name=database))
        return [f"database {database}"]

    async def _create_collection(self, plan: VectorPlan) -> None:
        request = milvus.CreateCollectionRequest(
            collection_name=plan.place.collection,
            schema=_schema(plan).SerializeToString(),
            shards_num=1,
            consistency_level=common.ConsistencyLevel.Bounded,
        )
        await self._client.call("CreateCollection", request, plan.place.database)

    async def _indexed(self, plan: VectorPlan) -> bool:
        """Whether the vectors have their index; one of another metric is not ours to replace."""
        request = milvus.DescribeIndexRequest(collection_name=plan.place.collection)
        answer = await self._client.call("DescribeIndex", request, plan.place.database, accept=(INDEX_NOT_FOUND,))
        if code_of(answer):
            return False
        for index in answer.index_descriptions:
            if index.field_name == VECTOR_FIELD:
                if {pair.key: pair.value for pair in index.params}.get("metric_type") != plan.metric:
                    raise foreign(f"An index of another metric on Milvus collection {plan.place.collection}")
                return True
        return False

    async def _create_index(self, plan: VectorPlan) -> None:
        request = milvus.CreateIndexRequest(
            collection_name=plan.place.collection,
            field_name=VECTOR_FIELD,
            index_name=VECTOR_FIELD,
            extra_params=[
                common.KeyValuePair(key="index_type", value="AUTOINDEX"),
                common.KeyValuePair(key="metric_type", value=plan.metric),
            ],
        )
        await self._client.call("CreateIndex", request, plan.place.database)

    async def _refresh(self, collection: str) -> None:
        """Make Milvus' proxies look at a collection anew.

        Milvus 2.3 empties their caches before it adds a partition: a call in between fills them without it, and
        then they say for good that it does not exist.  Any change of the collection's properties empties them.
        """
        changed = common.KeyValuePair(key=_REFRESHED, value=str(time.time_ns()))
        request = milvus.AlterCollectionRequest(collection_name=collection, properties=[changed])
        await self._client.call("AlterCollection", request)

    async def _wait_loaded(self, plan: VectorPlan, partition: str | None) -> None:
        deadline = time.monotonic() + LOAD_SECONDS
        while await self.load(plan.place.collection, plan.place.database, partition) is not Load.DONE:
            if time.monotonic() > deadline:
                raise BackendError(
                    Reason.VECTORS_UNAVAILABLE,
                    f"Milvus is still loading collection {plan.place.collection}; look at the memory and logs of "
                    "its query nodes",
                )
            await asyncio.sleep(LOAD_POLL_SECONDS)


def _schema(plan: VectorPlan) -> Any:
    text = [("id", ID_LENGTH), ("tenant", TAG_LENGTH), ("file_id", ID_LENGTH), ("store_id", ID_LENGTH)]
    fields = [_text(name, length) for name, length in text]
    fields[0].is_primary_key = True
    fields += [
        schema.FieldSchema(name="chunk", data_type=schema.DataType.Int64),
        _text("text", TEXT_LENGTH),
        schema.FieldSchema(
            name=VECTOR_FIELD,
            data_type=schema.DataType.FloatVector,
            type_params=[common.KeyValuePair(key="dim", value=str(plan.dimension))],
        ),
    ]
    return schema.CollectionSchema(name=plan.place.collection, description=plan.mark, fields=fields)


def _text(name: str, length: int) -> Any:
    limit = common.KeyValuePair(key="max_length", value=str(length))
    return schema.FieldSchema(name=name, data_type=schema.DataType.VarChar, type_params=[limit])


def _shape(fields: Any) -> set[tuple[Any, ...]]:
    return {
        (
            field.name,
            field.data_type,
            field.is_primary_key,
            frozenset((pair.key, pair.value) for pair in field.type_params),
        )
        for field in fields
    }


def _as_planned(found: Any, plan: VectorPlan) -> bool:
    """Ours, and of the shape that the runtime writes."""
    return bool(found.schema.description == plan.mark and _shape(found.schema.fields) == _shape(_schema(plan).fields))
