"""The operator's own schema for the audit of tenants that are no more: its tables, and what goes in and out."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

from psycopg import sql

from tenantry.desired.postgres import audit
from tenantry.desired.postgres.catalog import acl_of
from tenantry.desired.postgres.statements import Correction, Statement, comment, grants, statement
from tenantry.desired.postgres.things import MARK, Things

SCHEMA = "tenantry_archive"
COMMENT = "tenantry.dev/archive"
TABLE = sql.Identifier(SCHEMA, audit.TABLE)
BATCH = 5000
"""Rows moved or removed in one transaction."""

Key = tuple[datetime, UUID, str]
"""A row's at, id and phase, by which rows are in order."""

COLUMNS = (
    "id", "phase", "at", "event_type", "action", "resource_type", "resource_id", "user_id", "key_uid", "key_name",
    "status", "error", "address", "user_agent", "details",
)  # fmt: skip


@dataclass(frozen=True)
class Ending:
    """What the end of a Tenant means for its audit."""

    begun: datetime
    """The Tenant's deletionTimestamp."""
    keep_days: int | None
    """How long after its time a row stays in the archive; None where the audit goes with the tenant's data."""


LOOK = sql.SQL(f"""
SELECT obj_description(n.oid, 'pg_namespace'), pg_has_role(n.nspowner, 'USAGE'), pg_get_userbyid(n.nspowner),
  {acl_of("n.nspacl", "n.nspowner")}, {acl_of("c.relacl", "c.relowner")}, c.oid IS NOT NULL
FROM pg_namespace n LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = {{table}}
WHERE n.nspname = {{schema}}
""").format(schema=sql.Literal(SCHEMA), table=sql.Literal(audit.TABLE))  # noqa: S608 - only constants
"""One row where the schema is there: comment, whether the admin has its owner's rights, owner, the grants on schema
and table as (role, privilege, grantable), whether the table is there."""


def ours(row: tuple[Any, ...]) -> bool:
    return bool(row[0] == COMMENT and row[1])


def corrections(row: tuple[Any, ...] | None) -> list[Correction]:
    """From what LOOK saw, which is ours, to a schema that is there and that nobody else reaches."""
    if row is None:
        made = (statement("CREATE SCHEMA {}", SCHEMA), comment("SCHEMA", SCHEMA, COMMENT), *_tables())
        return [Correction(f"schema {SCHEMA}", made, drift=False)]
    _, _, _, schema, table, there = row
    stray: list[Statement] = [
        part
        for target, rows in ((statement("SCHEMA {}", SCHEMA), schema), (sql.SQL("TABLE {}").format(TABLE), table))
        for part in grants(target, (), frozenset((a, b, c) for a, b, c in rows))
    ]
    if not there:
        stray += _tables()
    return [Correction(f"schema {SCHEMA}", tuple(stray))] if stray else []


def _tables() -> Iterator[Statement]:
    yield sql.SQL("""CREATE TABLE {} (
        tenant         text NOT NULL,
        tenant_uid     text NOT NULL,
        keep_until     timestamptz NOT NULL,
        id             uuid NOT NULL,
        phase          text COLLATE "C" NOT NULL,
        at             timestamptz NOT NULL,
        event_type     text NOT NULL,
        action         text NOT NULL,
        resource_type  text NOT NULL,
        resource_id    text NOT NULL,
        user_id        text NOT NULL,
        key_uid        text NOT NULL,
        key_name       text NOT NULL,
        status         text NOT NULL,
        error          text NOT NULL,
        address        text NOT NULL,
        user_agent     text NOT NULL,
        details        jsonb NOT NULL,
        PRIMARY KEY (tenant_uid, at, id, phase)
    )""").format(TABLE)
    yield sql.SQL("CREATE INDEX audit_tenant ON {} (tenant, at)").format(TABLE)
    yield sql.SQL("CREATE INDEX audit_keep_until ON {} (keep_until)").format(TABLE)


SOURCES = sql.SQL(
    "SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE c.relname = %(table)s AND c.relkind = 'p' AND n.nspname = ANY(%(schemas)s)"
    " AND split_part(obj_description(n.oid, 'pg_namespace'), ' ', 1) = %(comment)s"
)
"""The tenant's schemas, in use or retained, that hold an audit."""


def sources(things: Things) -> Mapping[str, Any]:
    """The values of SOURCES."""
    schemas = [things.runtime_schema, things.retained[1]]
    return {"table": audit.TABLE, "schemas": schemas, "comment": MARK + things.uid}


STAGE = sql.SQL("CREATE TEMPORARY TABLE moving (LIKE {}) ON COMMIT DROP").format(TABLE)
INTO = sql.SQL("COPY pg_temp.moving FROM STDIN (FORMAT binary)")
KEEP = sql.SQL(
    "WITH added AS (INSERT INTO {} SELECT * FROM pg_temp.moving ON CONFLICT DO NOTHING)"
    " SELECT at, id, phase, (SELECT count(*) FROM pg_temp.moving) FROM pg_temp.moving"
    " ORDER BY at DESC, id DESC, phase DESC LIMIT 1"
).format(TABLE)
"""Keeps what was staged, as often as one likes; the last key and how many there were."""


def batch(things: Things, schema: str, since: datetime, keep_days: int, after: Key | None) -> Statement:
    """COPY of the next rows later than `since`, with what the archive adds to them."""
    following = sql.SQL("AND (at, id, phase) > ({}, {}, {})").format(*map(sql.Literal, after)) if after else sql.SQL("")
    return sql.SQL(
        "COPY (SELECT {tenant}::text, {uid}::text, at + make_interval(days => {days}), {columns} FROM {table}"
        " WHERE at > {since} {following} ORDER BY at, id, phase LIMIT {batch}) TO STDOUT (FORMAT binary)"
    ).format(
        tenant=sql.Literal(things.tenant),
        uid=sql.Literal(things.uid),
        days=sql.Literal(keep_days),
        columns=sql.SQL(", ").join(map(sql.Identifier, COLUMNS)),
        table=sql.Identifier(schema, audit.TABLE),
        since=sql.Literal(since),
        following=following,
        batch=sql.Literal(BATCH),
    )


def count_source(schema: str, since: datetime) -> Statement:
    return _count(sql.Identifier(schema, audit.TABLE), since, "")


def count_archived(things: Things, since: datetime) -> Statement:
    return _count(TABLE, since, "AND tenant_uid = {}", things.uid)


def _count(table: sql.Identifier, since: datetime, more: LiteralString, *values: str) -> Statement:
    which = sql.SQL(more).format(*map(sql.Literal, values))
    return sql.SQL("SELECT count(*) FROM {} WHERE at > {} {}").format(table, sql.Literal(since), which)


def empty(schema: str) -> Correction:
    """What was moved is no longer here; what was too old to be moved goes with it."""
    statements = (sql.SQL("TRUNCATE {}").format(sql.Identifier(schema, audit.TABLE)),)
    return Correction("the audit that was moved to the archive", statements)


PURGE = sql.SQL(
    "WITH gone AS (DELETE FROM {table} WHERE ctid = ANY(ARRAY("
    "SELECT ctid FROM {table} WHERE keep_until <= now() ORDER BY keep_until LIMIT {batch} FOR UPDATE SKIP LOCKED"
    ")) RETURNING 1) SELECT count(*) FROM gone"
).format(table=TABLE, batch=sql.Literal(BATCH))
"""Removes some rows whose time is over; how many."""

INVENTORY = sql.SQL(
    "SELECT tenant, tenant_uid, count(*), to_char(max(keep_until) AT TIME ZONE 'UTC', 'YYYY-MM-DD')"
    " FROM {} GROUP BY tenant, tenant_uid ORDER BY tenant, tenant_uid"
).format(TABLE)
