"""What the tests of one real Milvus share: logins to try, polls, spies."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from tenantry.backends.errors import BackendError
from tenantry.backends.milvus import MilvusBackend, Server
from tenantry.backends.milvus.client import Client, Denied, Failure, Login
from tenantry.backends.milvus.protocol import common, milvus, schema
from tenantry.desired import vectors
from tenantry.desired.vectors import VectorPlan
from tenantry.resolve import Resolved
from tests.unit.milvus.make import DIMENSION, MASTER, REGION_UID

PATIENCE = 60.0
UNSETTLED = "an attempt that Milvus did not apply in time"
READS = {
    "DescribeCollection", "DescribeIndex", "GetLoadState", "HasPartition", "ListCredUsers", "ListDatabases",
    "SelectGrant", "SelectUser", "ShowCollections",
}  # fmt: skip


def planned(resolved: Resolved, place: vectors.Place) -> VectorPlan:
    return vectors.plan(resolved, place, MASTER, REGION_UID)


def some_model() -> str:
    """A model of its own gives a test shared collections of its own."""
    return f"embed-{uuid.uuid4().hex[:12]}"


class Died(Exception):
    """The operator's process ended here."""


class Spy:
    """Counts what a backend asks as the region's login, and can let it die after so many writes."""

    def __init__(self, backend: MilvusBackend, die_after: int | None = None) -> None:
        self.reads: list[str] = []
        self.writes: list[str] = []
        self._die_after = die_after
        self._admin = backend._server.user
        self._ask = backend._client.ask
        backend._client.ask = self.ask  # type: ignore[method-assign]

    async def ask(
        self, method: str, request: Any, login: Login | None, database: str = "default", accept: Collection[int] = ()
    ) -> Any:
        if login is None or login.user != self._admin:
            return await self._ask(method, request, login, database, accept)
        (self.reads if method in READS else self.writes).append(method)
        answer = await self._ask(method, request, login, database, accept)
        if self._die_after is not None and len(self.writes) >= self._die_after:
            raise Died
        return answer

    def clear(self) -> None:
        self.reads.clear()
        self.writes.clear()


class User:
    """One login, trying things as a program that holds it would."""

    def __init__(self, client: Client, user: str, password: str, database: str = "default") -> None:
        self.name = user
        self._client = client
        self._login = Login(user, password)
        self._database = database

    async def ask(self, method: str, request: Any, database: str = "") -> Any:
        return await self._client.ask(method, request, self._login, database or self._database)

    async def verdict(self, method: str, request: Any, database: str = "") -> str:
        """``allowed`` (whatever came of it), ``right missing`` or ``login refused``."""
        try:
            await self.ask(method, request, database)
        except Denied as denied:
            return str(denied)
        except Failure:
            return "allowed"
        return "allowed"

    async def add(self, collection: str, partition: str | None, tag: str, text: str) -> None:
        values = {"id": uuid.uuid4().hex, "tenant": tag, "file_id": "f", "store_id": "s", "text": text}
        fields = [
            schema.FieldData(
                field_name=name,
                type=schema.DataType.VarChar,
                scalars=schema.ScalarField(string_data=schema.StringArray(data=[value])),
            )
            for name, value in values.items()
        ]
        fields.append(
            schema.FieldData(
                field_name="chunk",
                type=schema.DataType.Int64,
                scalars=schema.ScalarField(long_data=schema.LongArray(data=[0])),
            )
        )
        vector = [random.random() for _ in range(DIMENSION)]
        fields.append(
            schema.FieldData(
                field_name="vector",
                type=schema.DataType.FloatVector,
                vectors=schema.VectorField(dim=DIMENSION, float_vector=schema.FloatArray(data=vector)),
            )
        )
        request = milvus.InsertRequest(
            collection_name=collection, partition_name=partition or "", fields_data=fields, num_rows=1
        )
        answer = await self.ask("Insert", request)
        assert answer.insert_cnt == 1

    async def texts(self, collection: str, partition: str | None = None) -> list[str]:
        """All texts, seen strongly consistent."""
        request = milvus.QueryRequest(
            collection_name=collection,
            partition_names=[partition] if partition else [],
            expr='file_id == "f"',
            output_fields=["text"],
            use_default_consistency=False,
            consistency_level=common.ConsistencyLevel.Strong,
            guarantee_timestamp=0,
        )
        answer = await self.ask("Query", request)
        for data in answer.fields_data:
            if data.field_name == "text":
                return sorted(set(data.scalars.string_data.data))
        return []


async def eventually(wanted: Callable[[], Awaitable[object]], expected: object, what: str = "") -> None:
    """Poll until the answer is `expected`: Milvus applies rights late, and may be starting."""
    deadline = time.monotonic() + PATIENCE
    while True:
        seen: object
        try:
            seen = await wanted()
        except (BackendError, Denied, Failure) as error:
            seen = error
        if seen == expected:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: still {seen!r} after {PATIENCE:.0f} s, not {expected!r}")
        await asyncio.sleep(0.2)


async def settle(backend: MilvusBackend, plan: VectorPlan) -> list[str]:
    """Ensure until it holds, as the operator's queue does; what the server was told, in all attempts."""
    written: list[str] = []
    deadline = time.monotonic() + PATIENCE * 2
    while True:
        try:
            written += (await backend.ensure(plan)).corrected
        except BackendError as error:
            if error.final or time.monotonic() > deadline:
                raise
            written.append(UNSETTLED)  # what this attempt wrote is not told
            await asyncio.sleep(0.5)
        else:
            return written


def admin_server(uri: str, password: str, **options: Any) -> Server:
    return Server(uri, "root", password, **options)
