"""The tenant's part of its region's PostgreSQL: schemas and roles, configuration, keys."""

import logging

from tenantry import rotation
from tenantry.accesskeys import AccessKeys
from tenantry.api.conditions import Type
from tenantry.api.tenant import Spend
from tenantry.backends.postgres import Ahead
from tenantry.credentials import Logins
from tenantry.desired import configuration, database, secrets
from tenantry.desired.database import DatabasePlan
from tenantry.desired.postgres.things import Things
from tenantry.outcomes import dollars, good, usable
from tenantry.regions import Backends
from tenantry.status import Outcome
from tenantry.subsystems.tools import Tools
from tenantry.work import Work, memory

logger = logging.getLogger(__name__)


class Database:
    def __init__(self, tools: Tools, keys: AccessKeys) -> None:
        self._tools = tools
        self._keys = keys

    async def ensure(self, work: Work, backends: Backends) -> Outcome:
        tools, uid = self._tools, work.resolved.uid
        logins, plan, digest = await self._planned(work, backends)
        if not tools.verified.holds(uid, "database", digest):
            try:
                seen = await backends.postgres.ensure(plan, logins=True, new=work.first)
            except Ahead as ahead:
                work.turn = tools.rotations.found(work.tenant, ahead.logins, rotation.clock(), work.resolved)
                logger.warning("The status has forgotten a rotation: generation %d is in use", work.turn.generation)
                logins, plan, digest = await self._planned(work, backends)
                seen = await backends.postgres.ensure(plan, logins=True)
            tools.drift("database", 0 if seen.created or work.rotating else len(seen.corrected))
            work.removal = (plan, seen.removal) if seen.removal else None
            if seen.spent_nano is not None and seen.month:
                work.report.spend = Spend(month=seen.month, amount=dollars(seen.spent_nano))
        work.report.database = f"{plan.database}/{plan.things.schema}"
        if work.turn.draining and not logins.database_previous:
            await backends.postgres.end_sessions(plan.things, logins.generation - 1)
        work.logins = logins
        tools.rotations.note(uid, work.turn)
        if usable(work.report.outcomes[Type.NAMESPACES]):
            await tools.secret(work, secrets.postgres(work.resolved, tools.derived))
            await self._keys.sync(
                work.resolved,
                lambda rows: backends.postgres.sync_keys(plan, rows, new=work.first),
                first=work.first,
            )
            tools.verified.note(uid, "database", digest)
        where = "a database of its own" if work.resolved.database_isolation == "Database" else "schemas of its own"
        return good(Type.DATABASE, f"PostgreSQL: {where}, with roles that reach nothing else")

    async def _planned(self, work: Work, backends: Backends) -> tuple[Logins, DatabasePlan, str]:
        """By whose turn it is now; and the digest of all that the plan is made of."""
        settings = configuration.configuration(work.resolved)
        logins = await self._logins(work, backends)
        meta = work.tenant.metadata
        plan = database.plan(
            work.resolved,
            self._tools.derived,
            settings,
            logins,
            changed_by=meta.changed_by,
            tenant_generation=meta.generation,
        )
        return logins, plan, work.digest(settings.digest(), logins, *memory(backends))

    async def _logins(self, work: Work, backends: Backends) -> Logins:
        """Those to accept now; what drains is looked at each time."""
        in_use = False
        if work.turn.draining:
            things = Things(work.resolved.name, work.resolved.uid)
            in_use = await backends.postgres.in_use(things, work.turn.generation - 1)
        return rotation.logins(work.turn, rotation.clock(), in_use)

    async def look(self, work: Work) -> Outcome:
        backends = await self._tools.regions.get(work.region)
        settings = configuration.configuration(work.resolved)
        plan = database.plan(work.resolved, self._tools.derived, settings)
        await backends.database_breaker(lambda: backends.postgres.look(plan), work.resolved.name)
        return good(Type.DATABASE, "Nothing is in the way")
