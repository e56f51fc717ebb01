"""Whose the things by a tenant's names are, and whether they hold anything.  Only looks."""

from psycopg import sql

from tenantry.backends.postgres.connections import Connections, Session, Unreadable
from tenantry.backends.postgres.removal import look
from tenantry.desired.postgres.seen import Shared
from tenantry.desired.postgres.things import Isolation, Things

_TABLES = sql.SQL(
    "SELECT EXISTS (SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE n.nspname = %(schema)s AND obj_description(n.oid, 'pg_namespace') = %(comment)s)"
)
_CONTENT = ("ledger", "files", "vector_stores")
"""Tables of the runtime's schema that have a row as soon as anybody used it."""


async def owners(connections: Connections, things: Things) -> dict[str, str]:
    """What is there by the tenant's names, and whose: the UID that its comment says, or '' where it says none.

    Also what a deletion retained of `things.uid`.  A database by the tenant's name counts only where it is marked.
    """
    async with connections.use() as session:
        shared, inside = await look(session, things)
    found = {f"Role {name}": things.owner_said(role.comment) for name, role in shared.roles.items()}
    found = {what: uid for what, uid in found.items() if what.removeprefix("Role ") in things.roles}
    found |= {f"Schema {name}": things.owner_said(schema.comment) for name, schema in inside.schemas.items()}
    marked = {f"Database {name}": things.owner_said(seen.comment) for name, seen in shared.databases.items()}
    return found | {what: uid for what, uid in marked.items() if uid}


async def used(connections: Connections, things: Things, isolation: Isolation) -> bool:
    """Whether the tenant or its runtime stored anything yet, in the schemas that carry `things.uid`."""
    database = None
    if isolation == "Database":
        async with connections.use() as session:
            shared, _ = await look(session, things)
        if not _open(things, shared):
            return False
        database = things.database
    async with connections.use(database) as session:
        values = {"schema": things.schema, "comment": things.comment}
        ((tables,),) = await session.run(_TABLES, values, what="a look for the tenant's own tables")
        if tables:
            return True
        _, inside = await look(session, things)
        runtime = inside.schemas.get(things.runtime_schema)
        if runtime is None or not things.owns(runtime.comment):
            return False
        return any([await _rows(session, things, table) for table in _CONTENT])


def _open(things: Things, shared: Shared) -> bool:
    own = shared.databases.get(things.database)
    return own is not None and own.open and things.owns(own.comment)


async def _rows(session: Session, things: Things, table: str) -> bool:
    query = sql.SQL("SELECT EXISTS (SELECT 1 FROM {})").format(sql.Identifier(things.runtime_schema, table))
    try:
        ((found,),) = await session.run(query, what="a look for what the runtime stored")
    except Unreadable:
        return False  # not made yet
    return bool(found)
