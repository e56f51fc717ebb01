"""Milvus' protocol, as the runtime has it too."""

from tenantry_runtime.milvus_protocol import channel, common, metadata, milvus, schema, service

__all__ = ["channel", "common", "metadata", "milvus", "schema", "service"]
