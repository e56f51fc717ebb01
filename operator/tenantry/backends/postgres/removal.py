"""Removal of a tenant: every step looks first, so that it goes on wherever a crash left it.

The order: nobody logs in any more and all sessions end, and that is committed; then the audit, which may have to be
kept; then what is in other databases; last, in one transaction, what is in the application database, and the roles,
whose comments said whose they are.
"""

from tenantry.api.conditions import Reason
from tenantry.backends.errors import BackendError
from tenantry.backends.postgres import archive, errors, observe
from tenantry.backends.postgres.connections import Connections, Session
from tenantry.desired.postgres import removal
from tenantry.desired.postgres.archive import Ending
from tenantry.desired.postgres.seen import Inside, Shared
from tenantry.desired.postgres.things import Isolation, Policy, Things


async def remove(
    connections: Connections, things: Things, isolation: Isolation, policy: Policy, ending: Ending | None = None
) -> None:
    application = connections.admin.database
    async with connections.use() as session:
        shared, inside = await look(session, things)
        if _done(things, shared, inside, policy):
            return
        roles = removal.roles(things, shared)
        if locking := removal.lock_out(things, roles, shared):
            await session.transact([locking])
        databases = removal.databases(things, shared) if isolation == "Database" else []
        await end_sessions(session, roles, databases)
    if ending:
        for name in [d for d in databases if shared.databases[d].open] if isolation == "Database" else [application]:
            await archive.end(connections, things, name, policy, ending)
    async with connections.use() as session:
        if policy == "Delete":
            for name in databases:
                await session.correct(removal.drop_database(name))
        elif things.database in databases:
            adopt = removal.adopt_database(things, shared.databases[things.database])
            await session.transact(removal.together(f"access to database {things.database}", adopt))
        elsewhere = await session.run(removal.ELSEWHERE, {"roles": roles})
    others = {str(row[0]) for row in elsewhere}
    if policy == "Retain" and things.database in databases:
        others.add(things.database)
    for name in sorted(others - {application}):
        await _clean(connections, things, name, roles, policy)
    async with connections.use() as session:
        shared, inside = await look(session, things)
        keeps = isolation == "Database" and policy == "Retain" and things.database in removal.databases(things, shared)
        last = [
            *removal.schemas(things, inside, policy),
            *removal.owned(roles, policy),
            *(removal.rename_database(things) if keeps else ()),
            *removal.drop_roles(roles),
        ]
        await session.transact(removal.together(f"the removal of {things.schema}", last))
        shared, inside = await look(session, things)
    if not _done(things, shared, inside, policy):
        raise errors.unmended(f"the removal of {things.schema}")


async def _clean(connections: Connections, things: Things, database: str, roles: list[str], policy: Policy) -> None:
    async with connections.use(database) as session:
        _, inside = await look(session, things)
        own = removal.schemas(things, inside, policy) if database == things.database else []
        statements = [*own, *removal.owned(roles, policy)]
        await session.transact(removal.together(f"the removal of {things.schema} from {database}", statements))


async def look(session: Session, things: Things) -> tuple[Shared, Inside]:
    """The catalogs, for what is in use and what was retained."""
    names = (*things.schemas, *things.retained)
    return await observe.catalogs(session, things, (things.database, things.retained_database), names)


def _done(things: Things, shared: Shared, inside: Inside, policy: Policy) -> bool:
    """Whether the application database and the server hold nothing more that this policy removes."""
    databases = removal.databases(things, shared)
    if policy == "Retain":
        databases = [name for name in databases if name == things.database]
    return not (removal.roles(things, shared) or databases or removal.schemas(things, inside, policy))


async def end_sessions(session: Session, roles: list[str], databases: list[str]) -> None:
    """Of these roles, and the admin's in these databases."""
    for _ in range(3):
        ((count,),) = await session.run(
            removal.SESSIONS,
            {"roles": roles, "databases": databases},
            what="the end of the tenant's sessions",
            strict=False,
        )
        if not count:
            return
    raise BackendError(
        Reason.DATABASE_UNAVAILABLE,
        "The tenant's sessions in PostgreSQL do not end; look at them in pg_stat_activity. The operator tries again",
    )
