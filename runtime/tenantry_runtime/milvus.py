"""A thin asyncio client of Milvus: insert, delete, search, and no more.

pymilvus' own client describes a collection before it writes, a right that the runtime's login on a shared
collection must not have (it would list the other tenants' partitions), and brings pandas: 100 MB more.  These
are pymilvus' generated messages alone.
"""

import sys
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio
import orjson

from tenantry_runtime.milvus_protocol import channel, common, metadata, milvus, schema, service

_KEEPALIVE = ("grpc.keepalive_time_ms", 60_000)
_STRONG, _BOUNDED, _EVENTUALLY = 0, 2, 3  # Milvus' consistency levels


class MilvusError(Exception):
    """Milvus can't be reached, or refuses; the text is a gRPC code or Milvus' own code, never a row's content."""


class Client:
    """One channel to one database of one server, as one user."""

    def __init__(self, uri: str, user: str, password: str, database: str, timeout: float) -> None:
        self._channel = channel(uri, _KEEPALIVE)
        self._stub = service.MilvusServiceStub(self._channel)
        self._timeout = timeout
        self._metadata = metadata(database, user, password)

    async def close(self) -> None:
        await self._channel.close()

    async def _call(self, method: str, request: Any) -> Any:
        try:
            answer = await getattr(self._stub, method)(request, metadata=self._metadata, timeout=self._timeout)
        except grpc.aio.AioRpcError as error:
            raise MilvusError(f"{method}: {error.code().name}") from None
        code = answer.status.code or answer.status.error_code
        if code:
            raise MilvusError(f"{method}: code {code}")
        return answer

    async def insert(self, collection: str, partition: str, columns: dict[str, list[Any]]) -> None:
        """Columns of equal length: texts, whole numbers, or vectors (lists of numbers)."""
        await self._call(
            "Insert",
            milvus.InsertRequest(
                collection_name=collection,
                partition_name=partition,
                fields_data=[_column(name, values) for name, values in columns.items()],
                num_rows=len(next(iter(columns.values()))),
            ),
        )

    async def delete(self, collection: str, partition: str, expression: str) -> None:
        await self._call(
            "Delete",
            milvus.DeleteRequest(collection_name=collection, partition_name=partition, expr=expression),
        )

    async def search(
        self,
        collection: str,
        partitions: Sequence[str],
        expression: str,
        vector: Sequence[float],
        limit: int,
        metric: str,
        fields: Sequence[str],
        strong: bool,
    ) -> list[dict[str, Any]]:
        """The nearest rows, each with `id`, `score` (as Milvus counts it), and these fields."""
        place = common.PlaceholderValue(tag="$0", type=common.PlaceholderType.FloatVector)
        place.values.append(_packed(vector))
        parameters = {
            "anns_field": "vector",
            "topk": str(limit),
            "metric_type": metric,
            "params": "{}",
            "round_decimal": "-1",
            "ignore_growing": "false",
        }
        answer = await self._call(
            "Search",
            milvus.SearchRequest(
                collection_name=collection,
                partition_names=partitions,
                dsl=expression,
                dsl_type=common.DslType.BoolExprV1,
                placeholder_group=common.PlaceholderGroup(placeholders=[place]).SerializeToString(),
                output_fields=fields,
                search_params=[common.KeyValuePair(key=key, value=value) for key, value in parameters.items()],
                nq=1,
                use_default_consistency=False,
                consistency_level=_STRONG if strong else _BOUNDED,
            ),
        )
        results = answer.results
        columns = {column.field_name: _values(column) for column in results.fields_data}
        return [
            {"id": identity, "score": results.scores[row]} | {name: column[row] for name, column in columns.items()}
            for row, identity in enumerate(results.ids.str_id.data)
        ]

    async def ping(self, collection: str, partitions: Sequence[str]) -> None:
        """Ask for a row that is not there: raises MilvusError where a search would fail too."""
        await self._call(
            "Query",
            milvus.QueryRequest(
                collection_name=collection,
                partition_names=partitions,
                expr='id in ["-"]',
                output_fields=["id"],
                use_default_consistency=False,
                consistency_level=_EVENTUALLY,
            ),
        )


def one_of(field: str, values: Sequence[str]) -> str:
    """The expression ``field in [...]``, its texts quoted."""
    return f"{field} in {orjson.dumps(list(values)).decode()}"


def _packed(vector: Sequence[float]) -> bytes:
    from array import array

    packed = array("f", vector)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def _column(name: str, values: list[Any]) -> Any:
    column = schema.FieldData(field_name=name)
    first = values[0]
    if isinstance(first, str):
        column.type = schema.DataType.VarChar
        column.scalars.string_data.data.extend(values)
    elif isinstance(first, int):
        column.type = schema.DataType.Int64
        column.scalars.long_data.data.extend(values)
    else:
        column.type = schema.DataType.FloatVector
        column.vectors.dim = len(first)
        for vector in values:
            column.vectors.float_vector.data.extend(vector)
    return column


def _values(column: Any) -> Any:
    scalars = column.scalars
    return scalars.long_data.data if scalars.HasField("long_data") else scalars.string_data.data
