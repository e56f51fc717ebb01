"""One look at everything of a tenant in one database."""

import contextlib
from collections.abc import Collection, Sequence
from typing import Any

from psycopg import sql

from tenantry.backends.postgres.connections import READ_SECONDS, Session, Unreadable
from tenantry.desired.postgres import catalog, seen
from tenantry.desired.postgres.statements import as_role, joined
from tenantry.desired.postgres.things import Things

_WHAT = "the look at the tenant's roles and schemas"


async def everything(
    session: Session,
    things: Things,
    databases: Sequence[str],
    *,
    shared: bool = True,
    inside: bool = True,
    new: bool = False,
    made_by: str | None = None,
) -> tuple[seen.Shared | None, seen.Inside | None]:
    """What all databases share, and what is in this one; None for what is not asked for.

    One query where the runtime's tables are there, as they are once the tenant is provisioned, or where they are not
    and `new` says that they hardly are; else up to three.  `made_by`: the maker of a tenant that was made a moment
    ago.  It reads the rows, since the admin's rights are those of all tenants' owners, which PostgreSQL would read
    anew after each new role.
    """
    readable = True
    found = None
    if made_by:
        with contextlib.suppress(Unreadable):
            found = await _query(session, things, databases, (), shared, inside)
            found = (*found[:2], await _rows(session, things, made_by))
    elif not new:
        with contextlib.suppress(Unreadable):
            found = await _query(session, things, databases, catalog.TABLES, shared, inside)
    if found is None:
        found = await _query(session, things, databases, (), shared, inside)
        present = catalog.TABLES & found[1].get("relations", {}).keys()
        if present:
            try:
                found = await _query(session, things, databases, present, shared, inside)
            except Unreadable:
                readable = False
    return (
        seen.shared(found[0]) if shared else None,
        seen.inside(found[1], found[2], readable=readable) if inside else None,
    )


async def catalogs(
    session: Session, things: Things, databases: Sequence[str], schemas: Sequence[str]
) -> tuple[seen.Shared, seen.Inside]:
    """The same without rows, for these schemas; of all the tenant's roles, whether the admin has their rights."""
    used = (*things.roles, things.maker)
    statement, values = catalog.observe(things, databases, (), schemas=schemas, used=used)
    (row,) = await session.run(statement, values, what=_WHAT, seconds=READ_SECONDS)
    return seen.shared(row[0]), seen.inside(row[1], row[2])


async def _rows(session: Session, things: Things, reader: str) -> dict[str, Any]:
    query = as_role(reader, sql.SQL("SELECT {}").format(catalog.rows(things, catalog.TABLES)))
    ((found,),) = await session.run(joined(query), what=_WHAT, seconds=READ_SECONDS)
    return dict(found)


async def _query(
    session: Session,
    things: Things,
    databases: Sequence[str],
    tables: Collection[str],
    shared: bool,
    inside: bool,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    statement, values = catalog.observe(things, databases, tables, shared=shared, inside=inside)
    (row,) = await session.run(statement, values, what=_WHAT, seconds=READ_SECONDS)
    return row[0], row[1], row[2]
