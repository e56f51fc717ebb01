"""Milvus' messages without pymilvus, and beside it."""

from __future__ import annotations

import subprocess
import sys

import pytest

ALONE = """
import sys
from tenantry.backends.milvus import protocol
assert not {"pymilvus", "pandas", "numpy"} & set(sys.modules), "the operator would need 100 MB more"
from pymilvus.grpc_gen import milvus_pb2
assert protocol.milvus.QueryRequest is milvus_pb2.QueryRequest
"""
AFTER = """
from pymilvus.grpc_gen import milvus_pb2
from tenantry.backends.milvus import protocol
assert protocol.milvus.QueryRequest is milvus_pb2.QueryRequest
"""


@pytest.mark.parametrize("program", [ALONE, AFTER])
def test_messages_are_pymilvus_own_without_its_weight(program: str) -> None:
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr
