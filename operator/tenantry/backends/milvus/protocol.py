"""Milvus' protocol messages, taken from pymilvus without importing pymilvus itself."""

from tenantry_runtime.milvus_protocol import common, milvus, schema, service

__all__ = ["common", "milvus", "schema", "service"]
