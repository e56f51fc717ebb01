"""PostgreSQL: makes a tenant's part of it what its plan says, and takes it away again."""

from tenantry.backends.postgres.backend import Ahead, DatabaseSeen, KeysAhead, PostgresBackend
from tenantry.backends.postgres.connections import Admin

__all__ = ["Admin", "Ahead", "DatabaseSeen", "KeysAhead", "PostgresBackend"]
