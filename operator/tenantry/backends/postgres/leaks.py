"""The leak list in one database: the schema as it should be, and then its rows, where they differ."""

from tenantry.api.conditions import Reason
from tenantry.backends.errors import BackendError
from tenantry.backends.postgres.connections import Connections
from tenantry.desired.postgres import leaks
from tenantry.desired.postgres.leaks import Leaks

_WHAT = "the list of identifiers that must not leak"


async def sync(connections: Connections, wanted: Leaks, database: str, reader: str) -> tuple[bool, bool]:
    """Whether the list was changed, and whether the schema had been changed by somebody else.

    Raises BackendError: FOREIGN_OBJECT where a schema of this name is not the operator's, WAITING where no tenant has
    made `reader` yet.
    """
    async with connections.use(database) as session:
        rows = await session.run(leaks.LOOK, what=_WHAT)
        row = rows[0] if rows else None
        if row and not leaks.ours(row):
            raise BackendError(
                Reason.FOREIGN_OBJECT,
                f"Schema {leaks.SCHEMA} of database {database} exists and is not the operator's, so the runtimes don't "
                "know which identifiers are other tenants'; rename that schema",
            )
        mended = leaks.corrections(row, reader)
        if mended and not await session.run(leaks.READER, {"reader": reader}, what=_WHAT):
            raise BackendError(Reason.WAITING, f"Nobody can read {_WHAT} before the first tenant is there")
        await session.transact(mended)
        if leaks.holds(wanted, await session.run(leaks.LISTED, {"kept": sorted(wanted.kept)}, what=_WHAT)):
            return False, any(one.drift for one in mended)
        # All of the list at once: libpq keeps the buffer of its largest statement for as long as a connection lives.
        session.keep = False
        ((changed, _),) = await session.run(leaks.SYNC, leaks.values(wanted), what=_WHAT)
        return bool(changed), any(one.drift for one in mended)
