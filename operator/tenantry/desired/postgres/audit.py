"""The audit of one tenant: its monthly partitions, and the rows that the operator itself writes.

No statement here scans or fills a table under a lock that the runtime's inserts would wait for long: the default
partition is kept empty, and who can't have a lock within a second leaves it for the next look.

A new tenant has the default partition only, which takes its first rows: each month is four files and some
milliseconds, which nobody need wait for before the tenant is Ready.
"""

import re
import uuid
from collections.abc import Iterator
from datetime import date, datetime, timedelta

from psycopg import sql
from psycopg.types.json import Jsonb

from tenantry.desired.database import DatabasePlan
from tenantry.desired.postgres.seen import Inside
from tenantry.desired.postgres.statements import Correction, Statement, statement
from tenantry.desired.postgres.things import Policy, Things

TABLE = "audit"
DEFAULT = "audit_default"
OPERATOR = "tenantry"
"""Who did it, in the operator's own rows."""
LOCK_MILLISECONDS = 1000
"""The longest that the runtime's inserts wait behind the operator, which waits for a lock."""
BATCH = 5000
"""Rows removed in one statement."""

_NAME = re.compile(r"audit_(\d{4})_(\d{2})")
_ROW_OF_OURS = uuid.UUID("6f0d4a4e-6b1f-4f0e-8d53-0f3f6a1c8d11")


def partition(month: date) -> str:
    return f"audit_{month:%Y_%m}"


def next_month(month: date) -> date:
    return (month.replace(day=1) + timedelta(days=31)).replace(day=1)


def ahead(today: date) -> tuple[date, date]:
    """The months that must be there.  When the operator is away for longer, the default partition takes the rows."""
    return today.replace(day=1), next_month(today)


def audited(plan: DatabasePlan) -> bool:
    """Whether the plan's tables hold an audit."""
    return TABLE in plan.grants


def upkeep(plan: DatabasePlan, seen: Inside) -> list[Correction]:
    """Months to be made, attached or dropped; each may fail for a lock and be done at the next look."""
    if not audited(plan) or TABLE not in seen.relations:
        return []
    things = plan.things
    kept_from = seen.today - timedelta(days=plan.audit_retention_days)
    there = {
        name: date(int(matched[1]), int(matched[2]), 1)
        for name in seen.relations
        if (matched := _NAME.fullmatch(name)) and 1 <= int(matched[2]) <= 12
    }
    wanted = set(ahead(seen.today)) | {month for name, month in there.items() if next_month(month) > kept_from}
    if seen.strays_since and seen.strays_since >= kept_from:
        month = seen.strays_since.replace(day=1)
        if month < next_month(seen.today):  # what claims to be of the future waits for its month
            wanted.add(month)
    found = []
    if DEFAULT not in seen.relations:
        make = sql.SQL("CREATE TABLE {} PARTITION OF {} DEFAULT").format(_in(things, DEFAULT), _in(things, TABLE))
        found.append(_alone(things, "the default partition of the audit", make))
    elif seen.strays_since and seen.strays_since < kept_from:
        old = sql.SQL(
            "WITH gone AS (DELETE FROM {table} WHERE (at, id, phase) IN"
            " (SELECT at, id, phase FROM {table} WHERE at < {until} ORDER BY at LIMIT {batch}) RETURNING 1) "
            "{told} FROM gone HAVING count(*) > 0"
        ).format(
            table=_in(things, DEFAULT),
            until=_midnight(kept_from),
            batch=sql.Literal(BATCH),
            told=_expired(plan, DEFAULT, sql.SQL("jsonb_build_object('rows', count(*))")),
        )
        found.append(_alone(things, "the end of stray audit rows", old))
    missing = [m for m in sorted(wanted) if not _attached(seen, partition(m))]
    # A new tenant's together: each transaction opens the owners and closes them, and is a round trip.
    first = [m for m in missing if m in ahead(seen.today)]
    for together in (first, *([m] for m in missing if m not in first)):
        if together:
            what = f"audit partition {' and '.join(map(partition, together))}"
            found.append(_alone(things, what, *(part for month in together for part in _attach(things, month))))
    for name, month in sorted(there.items()):
        if month not in wanted:
            found.append(_alone(things, f"the end of audit partition {name}", *_drop(plan, name)))
    return found


def _attached(seen: Inside, name: str) -> bool:
    return name in seen.relations and seen.relations[name].partition


def _attach(things: Things, month: date) -> Iterator[Statement]:
    """Beside the table first.  Inserts wait at the parent meanwhile: one that waited at the default partition
    would fail, since its row has become another partition's.
    """
    names = {
        "audit": _in(things, TABLE),
        "default": _in(things, DEFAULT),
        "month": _in(things, partition(month)),
    }
    begin, end = _bounds(month)
    for text in (
        "LOCK TABLE {audit} IN SHARE ROW EXCLUSIVE MODE",
        "CREATE TABLE IF NOT EXISTS {month} (LIKE {audit} INCLUDING ALL)",
        "WITH moved AS (DELETE FROM {default} WHERE at >= {begin} AND at < {end} RETURNING *)"
        " INSERT INTO {month} SELECT * FROM moved",
        "ALTER TABLE {audit} ATTACH PARTITION {month} FOR VALUES FROM ({begin}) TO ({end})",
    ):
        yield sql.SQL(text).format(**names, begin=begin, end=end)


def _drop(plan: DatabasePlan, name: str) -> Iterator[Statement]:
    """The month, and the row that says so, unless another operator was faster."""
    there = sql.Literal(f'"{plan.things.runtime_schema}"."{name}"')
    yield sql.SQL("{} WHERE to_regclass({}) IS NOT NULL").format(_expired(plan, name, sql.SQL("'{}'::jsonb")), there)
    yield sql.SQL("DROP TABLE IF EXISTS {}").format(_in(plan.things, name))


def _expired(plan: DatabasePlan, name: str, more: sql.Composable) -> sql.Composed:
    """The beginning of a statement that tells what of the audit its own retention has ended."""
    rule = Jsonb({"rule": "auditRetentionDays", "days": plan.audit_retention_days})
    return sql.SQL(
        "INSERT INTO {} (id, phase, event_type, action, resource_type, resource_id, user_id, status, details)"
        " SELECT gen_random_uuid(), 'event', 'deletion', 'expire', 'audit', {}, {}, 'success', {} || {}"
    ).format(_in(plan.things, TABLE), *map(sql.Literal, (name, OPERATOR, rule)), more)


def _alone(things: Things, what: str, *statements: Statement) -> Correction:
    """In a transaction of its own, as the owner of the tables."""
    return Correction(
        what,
        (
            sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(LOCK_MILLISECONDS)),
            statement("SET LOCAL ROLE {}", things.runtime_owner),
            *statements,
        ),
        drift=False,
    )


def configuration(plan: DatabasePlan) -> Iterator[Statement]:
    """Writes the row of table configuration, and an audit row where that changes it.

    The lock keeps other writers out, not readers: two operators at once write one audit row.  It names each field
    that changed, by its path, with values only where the tenant logs them, and never those of its prompt.
    """
    names = {"configuration": _in(plan.things, "configuration"), "audit": _in(plan.things, TABLE)}
    row = {
        "document": sql.Literal(plan.configuration),
        "digest": sql.Literal(plan.configuration_digest),
        "tenant": sql.Literal(plan.things.tenant),
        "operator": sql.Literal(OPERATOR),
        "manager": sql.Literal(plan.changed_by or None),
        "generation": sql.Literal(plan.tenant_generation or None),
        "values": sql.Literal(plan.values),
    }
    yield sql.SQL("LOCK TABLE {configuration} IN SHARE ROW EXCLUSIVE MODE").format(**names)
    yield sql.SQL(_CONFIGURATION).format(
        audited=sql.SQL(_AUDITED if audited(plan) else "").format(**names, **row),
        **names,
        **row,
    )


_CONFIGURATION = """WITH RECURSIVE new AS (SELECT {document} AS document, {digest} AS digest),
old AS MATERIALIZED (
    SELECT document, digest, encode(sha256(convert_to(document, 'UTF8')), 'hex') AS actual
    FROM {configuration} WHERE id = 1
) {audited}
INSERT INTO {configuration} (id, document, digest, updated_at) SELECT 1, document, digest, now() FROM new
ON CONFLICT (id) DO UPDATE SET document = excluded.document, digest = excluded.digest, updated_at = excluded.updated_at
"""

# PostgreSQL takes apart no JSON that speaks of the character 0.  Leaves of both documents by their paths; only where
# the old one is as the operator wrote it.  Null means what absence means.
_AUDITED = """, documents AS (
    SELECT false AS fresh, replace(old.document, '\\u0000', '\\u0001')::json AS value
    FROM old WHERE old.digest = old.actual
    UNION ALL
    SELECT true, replace(new.document, '\\u0000', '\\u0001')::json FROM new, old WHERE old.digest = old.actual
), leaves AS (
    SELECT fresh, NULL::text AS path, value FROM documents
    UNION ALL
    SELECT l.fresh, concat_ws('.', l.path, e.key), e.value
    FROM leaves l, json_each(CASE json_typeof(l.value) WHEN 'object' THEN l.value ELSE '{{}}' END) e
), changed AS (
    SELECT path, was.value AS was, now.value AS now
    FROM (SELECT * FROM leaves WHERE NOT fresh AND json_typeof(value) NOT IN ('object', 'null')) was
    FULL JOIN (SELECT * FROM leaves WHERE fresh AND json_typeof(value) NOT IN ('object', 'null')) now USING (path)
    WHERE was.value::text IS DISTINCT FROM now.value::text
), audited AS (
    INSERT INTO {audit} (id, phase, event_type, action, resource_type, resource_id, user_id, status, details)
    SELECT gen_random_uuid(), 'event', 'configuration_change',
        CASE WHEN old.digest IS NULL THEN 'create' WHEN old.digest = old.actual THEN 'update' ELSE 'restore' END,
        'Tenant', {tenant}, {operator}, 'success',
        jsonb_strip_nulls(jsonb_build_object('oldDigest', old.actual, 'newDigest', new.digest,
            'manager', {manager}::text, 'generation', {generation}::bigint,
            'fields', CASE WHEN old.digest = old.actual THEN
                (SELECT coalesce(jsonb_agg(path ORDER BY path), '[]') FROM changed) END,
            'values', CASE WHEN {values} THEN (
                SELECT jsonb_object_agg(path, jsonb_build_object('old', was, 'new', now))
                FROM changed WHERE NOT starts_with(path, 'prompt.') AND length(concat(was, now)) < 4096) END))
    FROM new LEFT JOIN old ON true
    WHERE old.digest IS DISTINCT FROM new.digest OR old.actual IS DISTINCT FROM new.digest
)"""


def deletion(things: Things, schema: str, begun: datetime, policy: Policy, archived: bool) -> Statement:
    """The row that says that the Tenant's deletion began; the same each time, so that it is there once."""
    return sql.SQL(
        "INSERT INTO {} (id, phase, at, event_type, action, resource_type, resource_id, user_id, status, details)"
        " VALUES ({}, 'event', {}, 'deletion', 'delete', 'Tenant', {}, {}, 'success', {}) ON CONFLICT DO NOTHING"
    ).format(
        sql.Identifier(schema, TABLE),
        *map(sql.Literal, (uuid.uuid5(_ROW_OF_OURS, things.uid), begun, things.tenant, OPERATOR)),
        sql.Literal(Jsonb({"policy": policy, "archived": archived})),
    )


def _bounds(month: date) -> tuple[sql.Literal, sql.Literal]:
    return _midnight(month), _midnight(next_month(month))


def _midnight(day: date) -> sql.Literal:
    return sql.Literal(f"{day:%Y-%m-%d} 00:00:00+00")


def _in(things: Things, name: str) -> sql.Identifier:
    return sql.Identifier(things.runtime_schema, name)
