"""The end of a tenant's audit: a last row, then the move to the archive where compliance keeps it; and its purge.

Rows go through two sessions, since a tenant's own database is another one, and a row at a time, so that no size of
an audit is too large for the operator.  Each batch is a transaction; a move that was cut off begins anew and finds
its rows there.
"""

from datetime import datetime

from psycopg import sql

from tenantry.api.conditions import Reason
from tenantry.backends.errors import BackendError
from tenantry.backends.postgres.connections import Connections, Session
from tenantry.desired.postgres import archive, audit
from tenantry.desired.postgres.archive import Ending, Key
from tenantry.desired.postgres.statements import Correction
from tenantry.desired.postgres.things import Policy, Things

_WHAT = "the archive of the audit"
PURGES = 200
"""Batches in one purge: a million rows."""


async def end(connections: Connections, things: Things, database: str, policy: Policy, ending: Ending) -> None:
    """After the lock-out and before anything is dropped; may be done again.

    `database` holds the tenant's schemas.  Raises BackendError, with the source as it was, where not every row that
    is within its retention was seen in the archive.
    """
    async with connections.use(database) as session:
        rows = await session.run(archive.SOURCES, archive.sources(things), what="a look for the audit")
        schemas = [str(row[0]) for row in rows]
        archived = ending.keep_days is not None
        said = tuple(audit.deletion(things, schema, ending.begun, policy, archived) for schema in schemas)
        if said:
            await session.transact([Correction("the audit row of the deletion", said)])
    if ending.keep_days is None or not schemas:
        return
    async with connections.pairs, connections.use() as target, connections.use(database) as source:
        await _prepare(target)
        for schema in schemas:
            await _move(source, schema, target, things, ending.keep_days)


async def _prepare(session: Session) -> None:
    rows = await session.run(archive.LOOK, what=_WHAT)
    row = rows[0] if rows else None
    if row and not archive.ours(row):
        raise BackendError(
            Reason.FOREIGN_OBJECT,
            f"Schema {archive.SCHEMA} exists and is not the operator's, so the tenant's audit has no place to go and "
            "its data stays; rename that schema",
        )
    await session.transact(archive.corrections(row))


async def _move(source: Session, schema: str, target: Session, things: Things, keep_days: int) -> None:
    query = sql.SQL("SELECT now() - make_interval(days => {})").format(sql.Literal(keep_days))
    ((since,),) = await source.run(query, what="the time")
    after: Key | None = None
    while True:
        after, count = await _batch(source, schema, target, things, since, keep_days, after)
        if count < archive.BATCH:
            break
    ((there,),) = await source.run(archive.count_source(schema, since), what=_WHAT)
    ((kept,),) = await target.run(archive.count_archived(things, since), what=_WHAT)
    if kept < there:
        raise BackendError(
            Reason.RETRYING, f"{there} audit rows are to be archived and {kept} are; the operator moves them again"
        )
    await source.transact([archive.empty(schema)])


async def _batch(
    source: Session, schema: str, target: Session, things: Things, since: datetime, keep_days: int, after: Key | None
) -> tuple[Key | None, int]:
    """A session that fails within the transaction is closed, which undoes it."""
    await target.run(sql.SQL("BEGIN"))
    await target.run(archive.STAGE, what=_WHAT)
    await source.pour(archive.batch(things, schema, since, keep_days, after), target, archive.INTO, what=_WHAT)
    rows = await target.run(archive.KEEP, what=_WHAT)
    await target.run(sql.SQL("COMMIT"))
    if not rows:
        return after, 0
    at, row_id, phase, count = rows[0]
    return (at, row_id, phase), int(count)


async def purge(connections: Connections) -> int:
    """Remove rows whose time is over, at most PURGES batches of them; how many.  Puts the walls back too."""
    async with connections.use() as session:
        rows = await session.run(archive.LOOK, what=_WHAT)
        if not rows or not archive.ours(rows[0]):
            return 0
        await session.transact(archive.corrections(rows[0]))
        removed = 0
        for _ in range(PURGES):
            ((count,),) = await session.run(archive.PURGE, what="the purge of the archive")
            removed += count
            if count < archive.BATCH:
                break
        return removed


async def inventory(connections: Connections) -> list[tuple[str, str, int, str]]:
    """By archived tenant: name, UID, rows, the day until which the last of them is kept."""
    async with connections.use() as session:
        rows = await session.run(archive.LOOK, what=_WHAT)
        if not rows or not archive.ours(rows[0]) or not rows[0][5]:
            return []
        found = await session.run(archive.INVENTORY, what=_WHAT)
    return [(str(tenant), str(uid), int(count), str(until)) for tenant, uid, count, until in found]
