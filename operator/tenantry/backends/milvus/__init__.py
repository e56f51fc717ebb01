"""Milvus: databases, collections, partitions, users and grants of tenants."""

from tenantry.backends.milvus.backend import MilvusBackend, VectorsSeen
from tenantry.backends.milvus.client import Server

__all__ = ["MilvusBackend", "Server", "VectorsSeen"]
