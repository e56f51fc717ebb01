"""The tables of a tenant's runtime schema: numbered SQL files, and what the runtime's roles may do with them.

The files use unqualified names: whoever applies them sets the search_path to the schema and is, or has set,
its owner.  They make no schema, role or grant.
"""

import re
from dataclasses import dataclass
from importlib import resources
from typing import Any

import psycopg

GRANTS: dict[str, tuple[str, ...]] = {
    "configuration": ("SELECT",),
    "access_keys": ("SELECT",),
    "schema_migrations": ("SELECT",),
    "ledger": ("SELECT", "INSERT", "UPDATE"),
    "totals": ("SELECT", "INSERT", "UPDATE"),
    "meter": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "files": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "file_parts": ("SELECT", "INSERT", "DELETE"),
    "vector_stores": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "vector_store_files": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "documents_state": ("SELECT", "UPDATE"),
    "audit": ("SELECT", "INSERT"),
    "response_cache": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "response_claims": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "conversations": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "conversation_items": ("SELECT", "INSERT", "UPDATE", "DELETE"),
}
"""By table: the privileges of the runtime's group role.  What is not here, it may not do."""

FUNCTIONS: tuple[str, ...] = (
    "open_meter",
    "reserve",
    "add_to_totals",
    "settle",
    "record",
    "expire_reservations",
    "open_subject",
    "reserve_call",
    "settle_call",
    "record_request",
    "look_and_reserve",
    "claim_response",
    "look_and_claim",
    "claim_and_reserve",
)
"""Functions that the runtime's group role may EXECUTE; none is overloaded, so the name is enough."""

SCHEMA_MIGRATIONS = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    number      integer PRIMARY KEY,
    name        text NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT now()
)
"""
"""The table that says what was applied; written by whoever applies."""

_FILE = re.compile(r"(\d{4})_(\w+)\.sql")


@dataclass(frozen=True)
class Migration:
    """One file: applied as a whole or not at all."""

    number: int
    name: str
    sql: str


def load() -> list[Migration]:
    """All migrations by number, which are 1, 2, 3, ... without a gap (ValueError otherwise)."""
    found = []
    for entry in resources.files(__name__).iterdir():
        if matched := _FILE.fullmatch(entry.name):
            found.append(Migration(int(matched[1]), matched[2], entry.read_text(encoding="utf-8")))
    found.sort(key=lambda migration: migration.number)
    if [migration.number for migration in found] != list(range(1, len(found) + 1)):
        raise ValueError("the migrations' numbers must be 1, 2, 3, ... without a gap")
    return found


def apply(connection: psycopg.Connection[Any]) -> list[int]:
    """Apply what is missing in one transaction, in the connection's current schema; the numbers applied.

    Two at once are put in order by the table's lock.  Raises psycopg.Error with nothing changed.
    """
    applied: list[int] = []
    with connection.transaction():
        connection.execute(SCHEMA_MIGRATIONS)
        connection.execute("LOCK TABLE schema_migrations IN SHARE ROW EXCLUSIVE MODE")
        known = {row[0] for row in connection.execute("SELECT number FROM schema_migrations").fetchall()}
        for migration in load():
            if migration.number not in known:
                connection.execute(migration.sql.encode())
                connection.execute(
                    "INSERT INTO schema_migrations (number, name) VALUES (%s, %s)",
                    (migration.number, migration.name),
                )
                applied.append(migration.number)
    return applied
