"""The leak list: what no other tenant's answers may show, as keyed hashes in schema `tenantry_shared`.

Two tables, in each application database and in each tenant's own database:

- ``leak_identifiers(hash bytea, owner text)``: `leak_hash` of an identifier, and the UID (without dashes) of the
  Tenant whose it is;
- ``leak_settings(key bytea, lengths int[], version bigint)``: one row with the key of the hashes, the lengths of all
  identifiers, and a number that differs after each change.

The runtimes' logins read both.  A tenant's own login, which connects through the same role, sees hashes only: the row
that holds the key is for the runtimes, so that nobody tries a list of words on them.
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from psycopg import sql

from tenantry.desired.postgres.catalog import acl_of
from tenantry.desired.postgres.statements import Correction, Statement, comment, grants, statement
from tenantry_runtime.config import LEAK_HASH_BYTES, LEAKS_CHANNEL

SCHEMA = "tenantry_shared"
COMMENT = "tenantry.dev/shared"
IDENTIFIERS = "leak_identifiers"
SETTINGS = "leak_settings"
POLICY = "runtimes"


@dataclass(frozen=True)
class Leaks:
    """What the list should be."""

    rows: Mapping[bytes, str]
    """By hash: the UID of the Tenant whose it is, without dashes."""
    lengths: tuple[int, ...]
    key: bytes = field(repr=False)
    kept: Collection[str] = ()
    """Owners (UIDs without dashes) whose identifiers are not known now: what is there of them stays."""

    @cached_property
    def listed(self) -> bytes:
        """Digest of the rows, as LISTED makes it."""
        digest = hashlib.sha256()
        for one, owner in sorted(self.rows.items()):
            digest.update(one + owner.encode())
        return digest.digest()

    @property
    def digest(self) -> int:
        """Of all of it, for comparison within one process."""
        return hash((self.listed, self.lengths, self.key, frozenset(self.kept)))


_LIST = sql.Identifier(SCHEMA, IDENTIFIERS)
_SETTINGS = sql.Identifier(SCHEMA, SETTINGS)
_RUNTIMES = "(CURRENT_USER ~ '__runtime_[ab]$'::text)"
"""Who may see the settings, as PostgreSQL shows it.  Names of tenants hold no underscore, and so no two of them."""

_MAKE: Mapping[str, tuple[Statement, ...]] = {
    IDENTIFIERS: (sql.SQL("CREATE TABLE {} (hash bytea PRIMARY KEY, owner text NOT NULL)").format(_LIST),),
    SETTINGS: (
        sql.SQL(
            "CREATE TABLE {} (id integer PRIMARY KEY DEFAULT 1 CHECK (id = 1), key bytea NOT NULL,"
            " lengths integer[] NOT NULL, version bigint NOT NULL)"
        ).format(_SETTINGS),
        sql.SQL("ALTER TABLE {} ENABLE ROW LEVEL SECURITY").format(_SETTINGS),
        sql.SQL("CREATE POLICY {} ON {} FOR SELECT USING {}").format(
            sql.Identifier(POLICY), _SETTINGS, sql.SQL(_RUNTIMES)
        ),
    ),
}
_LIKE: Mapping[str, tuple[Any, ...]] = {
    IDENTIFIERS: ([["hash", "bytea"], ["owner", "text"]], False, []),
    SETTINGS: (
        [["id", "integer"], ["key", "bytea"], ["lengths", "integer[]"], ["version", "bigint"]],
        True,
        [[POLICY, "r", _RUNTIMES]],
    ),
}
"""Of a table that is as we made it: columns, whether rows are secured, and by which policies."""

LOOK = sql.SQL(f"""
SELECT obj_description(n.oid, 'pg_namespace'), pg_has_role(n.nspowner, 'USAGE'),
  {acl_of("n.nspacl", "n.nspowner")},
  (SELECT coalesce(jsonb_object_agg(c.relname, jsonb_build_object(
      'ours', pg_has_role(c.relowner, 'USAGE') AND c.relkind = 'r',
      'acl', {acl_of("c.relacl", "c.relowner")},
      'like', jsonb_build_array(
        (SELECT jsonb_agg(jsonb_build_array(a.attname, format_type(a.atttypid, a.atttypmod)) ORDER BY a.attnum)
          FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
        c.relrowsecurity,
        (SELECT coalesce(jsonb_agg(jsonb_build_array(p.polname, p.polcmd, pg_get_expr(p.polqual, p.polrelid))
          ORDER BY p.polname), '[]') FROM pg_policy p WHERE p.polrelid = c.oid)
      ))), '{{{{}}}}')
    FROM pg_class c WHERE c.relnamespace = n.oid AND c.relname = ANY({{tables}}))
FROM pg_namespace n WHERE n.nspname = {{schema}}
""").format(schema=sql.Literal(SCHEMA), tables=sql.Literal([IDENTIFIERS, SETTINGS]))  # noqa: S608 - only constants
"""One row where the schema is there: comment, whether the admin has its owner's rights, the grants on it as (role,
privilege, grantable), and its tables."""


READER = sql.SQL("SELECT 1 FROM pg_roles WHERE rolname = %(reader)s")


def ours(row: tuple[Any, ...]) -> bool:
    return bool(row[0] == COMMENT and row[1] and all(table["ours"] for table in row[3].values()))


def corrections(row: tuple[Any, ...] | None, reader: str) -> list[Correction]:
    """From what LOOK saw, which is ours, to a schema that is there and that `reader` and nobody else may read.

    A table that is not as we made it is made anew: all that it holds is written again.
    """
    _, _, schema, tables = row or (COMMENT, True, [], {})
    found: list[Statement] = []
    if row is None:
        found += [statement("CREATE SCHEMA {}", SCHEMA), comment("SCHEMA", SCHEMA, COMMENT)]
    found += _granted(statement("SCHEMA {}", SCHEMA), (reader, "USAGE"), schema)
    for name in (IDENTIFIERS, SETTINGS):
        seen = tables.get(name)
        target = sql.Identifier(SCHEMA, name)
        if seen and tuple(seen["like"]) != _LIKE[name]:
            found.append(sql.SQL("DROP TABLE {} CASCADE").format(target))
            seen = None
        if seen is None:
            found += _MAKE[name]
        found += _granted(sql.SQL("TABLE {}").format(target), (reader, "SELECT"), seen["acl"] if seen else [])
    return [Correction(f"schema {SCHEMA}", tuple(found), drift=row is not None)] if found else []


def _granted(target: sql.Composable, wanted: tuple[str, str], seen: list[list[Any]]) -> Iterator[Statement]:
    yield from grants(target, {wanted}, frozenset((a, b, c) for a, b, c in seen))


LISTED = sql.SQL("""
SELECT (SELECT sha256(coalesce(string_agg(hash || convert_to(owner, 'UTF8'), '' ORDER BY hash), ''))
  FROM {list} WHERE owner <> ALL(%(kept)s::text[])), key, lengths
FROM {settings}
""").format(list=_LIST, settings=_SETTINGS)
"""At most one row: a digest of the list without what is kept, the key, and the lengths."""


def holds(wanted: Leaks, rows: list[tuple[Any, ...]]) -> bool:
    """Whether LISTED saw what is wanted, so that SYNC would change nothing."""
    for listed, key, lengths in rows:
        known = {*wanted.lengths, *(lengths if wanted.kept else ())}
        return (listed, key, lengths) == (wanted.listed, wanted.key, sorted(known))
    return False


SYNC = sql.SQL("""
WITH wanted AS MATERIALIZED (
    SELECT substring(hashes, start, {bytes}) AS hash, owner
    FROM unnest(%(hashes)s::bytea[], %(owners)s::text[]) AS w(hashes, owner),
        generate_series(1, octet_length(hashes), {bytes}) AS start
), gone AS (
    DELETE FROM {list} t
    WHERE NOT EXISTS (SELECT FROM wanted w WHERE w.hash = t.hash) AND t.owner <> ALL(%(kept)s::text[]) RETURNING 1
), put AS (
    INSERT INTO {list} AS t (hash, owner)
    SELECT hash, owner FROM wanted w
    WHERE NOT EXISTS (SELECT FROM {list} x WHERE x.hash = w.hash AND x.owner = w.owner)
    ON CONFLICT (hash) DO UPDATE SET owner = excluded.owner RETURNING 1
), new AS (
    SELECT (SELECT count(*) FROM gone) + (SELECT count(*) FROM put) AS changes, %(key)s::bytea AS key,
        -- Of what is kept only the hash is known: its length is one of those that there were.
        ARRAY(SELECT DISTINCT n FROM unnest(%(lengths)s::int[] || CASE WHEN cardinality(%(kept)s::text[]) > 0
            THEN coalesce((SELECT lengths FROM {settings}), '{{}}') END) n ORDER BY n) AS lengths,
        (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS version
), first AS (
    INSERT INTO {settings} (key, lengths, version) SELECT key, lengths, version FROM new
    WHERE NOT EXISTS (SELECT FROM {settings}) RETURNING 1
), again AS (
    UPDATE {settings} s SET key = new.key, lengths = new.lengths, version = greatest(s.version + 1, new.version)
    FROM new WHERE new.changes > 0 OR s.key <> new.key OR s.lengths <> new.lengths RETURNING 1
)
SELECT changed, CASE WHEN changed THEN pg_notify({channel}, '') END
FROM (SELECT EXISTS (SELECT FROM first) OR EXISTS (SELECT FROM again)) AS done(changed)
""").format(list=_LIST, settings=_SETTINGS, channel=sql.Literal(LEAKS_CHANNEL), bytes=sql.Literal(LEAK_HASH_BYTES))
"""Makes the list what it should be, and tells the runtimes that listen; whether anything changed."""


def values(wanted: Leaks) -> dict[str, Any]:
    """For SYNC: all hashes of an owner in one, which takes a third of the memory of one value for each."""
    hashes: dict[str, bytearray] = {}
    for one, owner in wanted.rows.items():
        hashes.setdefault(owner, bytearray()).extend(one)
    return {
        "hashes": list(hashes.values()),
        "owners": list(hashes),
        "kept": sorted(wanted.kept),
        "key": wanted.key,
        "lengths": list(wanted.lengths),
    }
