"""Removal of a tenant: every step looks first, so that it goes on wherever a crash left it.

The order: nobody logs in any more and all sessions end, and that is committed; then the audit, which may have to be
kept; then what is in other databases; last, in one transaction, what is in the application database, and the roles,
whose comments said whose they are.

An application database that somebody has dropped took the tenant's schemas with it, and holds nothing up: once the
server's own list says so, the rest is done from another database.
"""

import logging

from tenantry.api.conditions import Reason
from tenantry.backends.errors import BackendError
from tenantry.backends.postgres import archive, errors, observe
from tenantry.backends.postgres.connections import Connections, Session
from tenantry.desired.postgres import removal
from tenantry.desired.postgres.archive import Ending
from tenantry.desired.postgres.seen import Inside, Shared
from tenantry.desired.postgres.things import CONNECT_ROLE, Isolation, Policy, Things

logger = logging.getLogger(__name__)

ANOTHER = "postgres"
"""A database that is on every server; not template1, which nobody can copy while somebody is connected to it."""


async def remove(
    connections: Connections, things: Things, isolation: Isolation, policy: Policy, ending: Ending | None = None
) -> None:
    try:
        await _remove(connections, connections.admin.database, things, isolation, policy, ending)
    except errors.NoDatabase as error:
        await _make_sure(connections, things, error)
        logger.warning("Database %s is not there any more; the rest is removed", connections.admin.database)
        await _remove(connections, ANOTHER, things, isolation, policy, ending)


async def _make_sure(connections: Connections, things: Things, said: errors.NoDatabase) -> None:
    """That the application database is gone, and was not only renamed.  Raises BackendError where it may be there."""
    application = connections.admin.database
    try:
        async with connections.use(ANOTHER) as session:
            shared, _ = await look(session, things)
            values = {
                "application": application,
                "own": removal.databases(things, shared),
                "roles": removal.roles(things, shared),
                "connect": CONNECT_ROLE,
            }
            ((there, elsewhere, known),) = await session.run(removal.AWAY, values, what="the look for the database")
    except BackendError as error:
        if error.reason is Reason.DATABASE_REFUSED:
            raise errors.unseen(application, ANOTHER) from None
        raise
    if there or not known:  # a new server, before its backup is restored, shows nothing of what is gone
        raise said
    if elsewhere:
        raise errors.moved(application, ", ".join(elsewhere))


async def _remove(
    connections: Connections,
    place: str,
    things: Things,
    isolation: Isolation,
    policy: Policy,
    ending: Ending | None,
) -> None:
    """`place`: the application database, or where that is gone another one, in which the tenant has nothing."""
    application = connections.admin.database
    async with connections.use(place) as session:
        shared, inside = await look(session, things)
        if _done(things, shared, inside, policy):
            return
        roles = removal.roles(things, shared)
        if locking := removal.lock_out(things, roles, shared):
            await session.transact([locking])
        databases = removal.databases(things, shared) if isolation == "Database" else []
        await end_sessions(session, roles, databases)
    if ending:
        audited = [application] if place == application else []
        for name in [d for d in databases if shared.databases[d].open] if isolation == "Database" else audited:
            await archive.end(connections, things, name, policy, ending)
    async with connections.use(place) as session:
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
    for name in sorted(others - {place}):
        await _clean(connections, things, name, roles, policy)
    async with connections.use(place) as session:
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
    """Whether the session's database and the server hold nothing more that this policy removes."""
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
