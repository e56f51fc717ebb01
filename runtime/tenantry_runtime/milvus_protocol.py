"""Milvus' protocol: its generated messages, taken from pymilvus without importing pymilvus itself, and its channel.

Importing pymilvus brings pandas: 130 MB instead of 35, and these messages are all that is needed.  They are the same
classes, so both may live in one process.
"""

import base64
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import grpc
import grpc.aio

_ALIAS = "_tenantry_milvus_protocol"
_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),  # gRPC's own two minutes would outlast a restart by far
    ("grpc.max_receive_message_length", 64 << 20),
)


def _load(name: str) -> Any:
    if _ALIAS not in sys.modules:
        spec = importlib.util.find_spec("pymilvus")
        if spec is None or spec.origin is None:
            raise ImportError("pymilvus is not installed; install tenantry[operator] or tenantry[runtime]")
        package = ModuleType(_ALIAS)
        package.__path__ = [str(Path(spec.origin).parent / "grpc_gen")]
        sys.modules[_ALIAS] = package
    return importlib.import_module(f"{_ALIAS}.{name}")


common: Any = _load("common_pb2")
schema: Any = _load("schema_pb2")
milvus: Any = _load("milvus_pb2")
service: Any = _load("milvus_pb2_grpc")


def channel(uri: str, *options: tuple[str, int]) -> grpc.aio.Channel:
    """To the server at ``http://HOST:PORT``, or over TLS at ``https://HOST:PORT``; it connects when it is used."""
    parts = urlsplit(uri)
    target = f"{parts.hostname}:{parts.port or 19530}"
    if parts.scheme == "https":
        return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(), options=(*_OPTIONS, *options))
    return grpc.aio.insecure_channel(target, options=(*_OPTIONS, *options))


def metadata(database: str, user: str = "", password: str = "") -> list[tuple[str, str]]:
    """What goes with every call: the database that it is for, and who asks."""
    if not user:
        return [("dbname", database)]
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    return [("dbname", database), ("authorization", token)]
