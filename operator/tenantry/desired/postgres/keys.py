"""The rows of table access_keys: what should be there, and the statements that make it so."""

from collections.abc import Iterable, Sequence
from typing import Any

from psycopg import sql

from tenantry.desired.postgres.inside import notify
from tenantry.desired.postgres.statements import Correction, Statement
from tenantry.desired.postgres.things import Things
from tenantry_runtime.config import AccessKeyRow

COLUMNS = ("uid", "name", "namespace", "key_sha256", "user_name", "scopes", "act_for_users", "expires_at", "generation")
_HASH = COLUMNS.index("key_sha256")
Row = tuple[Any, ...]


def row(key: AccessKeyRow) -> Row:
    """The values of COLUMNS, as PostgreSQL gives them back."""
    return tuple(list(value) if isinstance(value := getattr(key, name), tuple) else value for name in COLUMNS)


def select(things: Things) -> Statement:
    return sql.SQL("SELECT {} FROM {}").format(_columns(), _table(things))


def correction(things: Things, keys: Sequence[AccessKeyRow], seen: Iterable[Row]) -> Correction | None:
    """None where the table holds exactly `keys`.  What is gone is removed first: a hash is unique."""
    wanted = {key.key_sha256: row(key) for key in keys}
    there = {values[_HASH]: tuple(values) for values in seen}
    if wanted == there:
        return None
    found: list[Statement] = []
    stale = [one for one, values in there.items() if wanted.get(one) != values]
    if stale:
        hashes = sql.SQL(", ").join(map(sql.Literal, stale))
        found.append(sql.SQL("DELETE FROM {} WHERE key_sha256 IN ({})").format(_table(things), hashes))
    fresh = [values for one, values in wanted.items() if there.get(one) != values]
    if fresh:
        lines = (sql.SQL("({})").format(sql.SQL(", ").join(map(_value, values))) for values in fresh)
        found.append(
            sql.SQL("INSERT INTO {} ({}) VALUES {}").format(_table(things), _columns(), sql.SQL(", ").join(lines))
        )
    return Correction("access keys", (*found, notify(things.channel)), drift=False)


def ahead(keys: Sequence[AccessKeyRow], seen: Iterable[Row]) -> dict[str, dict[int, float | None]]:
    """AccessKeys of which `keys` would bring back one whose time is over: uid -> generation in the table -> its end."""
    wanted: dict[str, set[int]] = {}
    for key in keys:
        wanted.setdefault(key.uid, set()).add(key.generation)
    there: dict[str, dict[int, float | None]] = {}
    for values in seen:
        row = dict(zip(COLUMNS, values, strict=True))
        if row["uid"] in wanted:
            there.setdefault(row["uid"], {})[row["generation"]] = row["expires_at"]
    return {
        uid: rows
        for uid, rows in there.items()
        if max(rows) > max(wanted[uid]) or (max(rows) == max(wanted[uid]) and wanted[uid] - rows.keys())
    }


def _value(value: Any) -> sql.Composable:
    """With its type where PostgreSQL would have to guess: several rows of NULLs are text to it."""
    if isinstance(value, list):
        return sql.SQL("ARRAY[{}]::text[]").format(sql.SQL(", ").join(map(sql.Literal, value)))
    if value is None or isinstance(value, float):
        return sql.SQL("{}::double precision").format(sql.Literal(value))
    return sql.Literal(value)


def _table(things: Things) -> sql.Identifier:
    return sql.Identifier(things.runtime_schema, "access_keys")


def _columns() -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, COLUMNS))
