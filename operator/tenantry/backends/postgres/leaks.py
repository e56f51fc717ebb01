"""The leak list in one database: the schema as it should be, and then its rows, in one statement."""

from tenantry.api.conditions import Reason
from tenantry.backends.errors import BackendError
from tenantry.backends.postgres.connections import Connections
from tenantry.desired.postgres import leaks
from tenantry.desired.postgres.leaks import Leaks

_WHAT = "the list of identifiers that must not leak"


async def sync(connections: Connections, wanted: Leaks, database: str, reader: str) -> tuple[bool, bool]:
    """Whether the list was changed, and whether the schema had been changed by somebody else.

    Raises BackendError(FOREIGN_OBJECT) where a schema of this name is not the operator's.
    """
    async with connections.use(database, large=True) as session:
        rows = await session.run(leaks.LOOK, what=_WHAT)
        row = rows[0] if rows else None
        if row and not leaks.ours(row):
            raise BackendError(
                Reason.FOREIGN_OBJECT,
                f"Schema {leaks.SCHEMA} of database {database} exists and is not the operator's, so the runtimes don't "
                "know which identifiers are other tenants'; rename that schema",
            )
        mended = leaks.corrections(row, reader)
        await session.transact(mended)
        ((changed, _),) = await session.run(leaks.SYNC, leaks.values(wanted), what=_WHAT)
        return bool(changed), any(one.drift for one in mended)
