"""Milvus' generated protocol messages, taken from pymilvus without importing pymilvus itself.

Importing pymilvus brings pandas: 130 MB instead of 35, and these messages are all that is needed.  They are the same
classes, so both may live in one process.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

_ALIAS = "_tenantry_milvus_protocol"


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
