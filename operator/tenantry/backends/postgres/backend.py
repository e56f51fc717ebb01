"""Level-triggered: look, compare, write what differs, look again."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import psycopg
from psycopg import sql

from tenantry.api.conditions import Reason
from tenantry.backends.errors import BackendError, foreign
from tenantry.backends.fence import Fence
from tenantry.backends.inventory import Stored
from tenantry.backends.postgres import archive, errors, leaks, observe, ownership, removal
from tenantry.backends.postgres.connections import Admin, Connections, Session, Unreadable
from tenantry.backends.postgres.deadline import Connection
from tenantry.backends.postgres.inventory import inventory
from tenantry.credentials import Logins, slot
from tenantry.desired.database import DatabasePlan
from tenantry.desired.postgres import audit, keys
from tenantry.desired.postgres import inside as insides
from tenantry.desired.postgres import shared as shareds
from tenantry.desired.postgres.archive import Ending
from tenantry.desired.postgres.leaks import Leaks
from tenantry.desired.postgres.seen import Inside, Removal, Shared
from tenantry.desired.postgres.statements import Correction, as_member, as_role, joined
from tenantry.desired.postgres.things import CONNECT_ROLE, Isolation, Policy, Things
from tenantry_runtime.config import AccessKeyRow

logger = logging.getLogger(__name__)

IN_USE = sql.SQL(
    "SELECT EXISTS (SELECT FROM pg_roles r JOIN pg_stat_activity s ON s.usesysid = r.oid"
    " WHERE r.rolname = %(role)s AND r.rolcanlogin)"
)

PASSES = 8
"""Looks until nothing differs: the longest way (what all share, roles, database, its grants) takes five.

The others are for what many tenants at once make of what they share: the connecting role, and makers.
"""


class Ahead(Exception):
    """The runtime's login was rotated further than the plan says: whoever made the plan has forgotten it.

    Nothing was written.  `logins` is what the server has.
    """

    def __init__(self, logins: Logins) -> None:
        super().__init__(f"the runtime's login is at generation {logins.generation}")
        self.logins = logins


class KeysAhead(Exception):
    """AccessKeys were rotated further than the rows say.  Nothing was written.

    `found`: by the AccessKey's UID, its generations in the table and when each ends (Unix seconds; None: never).
    """

    def __init__(self, found: dict[str, dict[int, float | None]]) -> None:
        super().__init__(f"{len(found)} keys are at a later generation")
        self.found = found


@dataclass(frozen=True)
class DatabaseSeen:
    """What `ensure` saw to hold at its end."""

    database: str
    schema: str
    corrected: tuple[str, ...]
    """What somebody else had changed and is put back; empty for a new tenant."""
    created: bool
    kept_up: tuple[str, ...]
    """What time alone asked for: partitions of the audit made or dropped."""
    month: str | None
    """The month (YYYY-MM, the tenant's time zone) of `spent_nano`; None before the first call."""
    spent_nano: int | None
    """Nano-dollars settled in that month."""
    removal: Removal | None = None
    """Vectors that were deleted since Milvus was last asked for the space of such."""


class PostgresBackend:
    """One region's PostgreSQL.  Every method raises `BackendError` within about 10 s when it does not answer."""

    def __init__(
        self,
        admin: Admin,
        connection_class: type[Connection] = psycopg.AsyncConnection,
        fence: Fence | None = None,
    ) -> None:
        self._connections = Connections(admin, connection_class, fence)
        self._sharing = asyncio.Lock()

    async def ensure(self, plan: DatabasePlan, *, logins: bool = False, new: bool = False) -> DatabaseSeen:
        """A steady tenant costs one query (at level Database one more, in its own database) and no write.

        `logins`: also try each login, for its password can't be seen, and a role may change its own.
        `new`: the tenant is likely not there yet, which saves a query where it is so.
        Raises Ahead for a plan that would go back to logins whose time is over.
        """
        work = _Work(plan, new, self._sharing)
        own = plan.isolation == "Database"
        async with self._connections.use() as session:
            _, inside = await work.converge(session, shared=True, inside=not own)
            await work.keep_up(session, inside)
        if own:
            async with self._connections.use(plan.database) as session:
                _, inside = await work.converge(session, shared=False, inside=True)
                await work.keep_up(session, inside)
        if logins and not work.created:  # what was made a moment ago has the passwords that it was made with
            await self._try_logins(plan, work)
        assert inside is not None
        return DatabaseSeen(
            database=plan.database,
            schema=plan.things.schema,
            corrected=() if work.created else tuple(dict.fromkeys(c.what for c in work.done if c.drift)),
            created=work.created,
            kept_up=tuple(work.kept_up),
            month=inside.month,
            spent_nano=inside.spent_nano,
            removal=inside.removal,
        )

    async def _try_logins(self, plan: DatabasePlan, work: "_Work") -> None:
        refused = [
            role
            for role in plan.roles
            if role.login and not await self._connections.accepts(role.name, role.password, plan.database)
        ]
        if refused:
            resets = [shareds.reset_password(plan.things, role) for role in refused]
            async with self._connections.use() as session:
                await session.transact(resets)
            work.done += resets

    async def in_use(self, things: Things, generation: int) -> bool:
        """Whether the runtime's login of this generation may log in and has a session."""
        async with self._connections.use() as session:
            ((found,),) = await session.run(
                IN_USE, {"role": things.slot(slot(generation))}, what="the look at sessions"
            )
        return bool(found)

    async def end_sessions(self, things: Things, generation: int) -> None:
        """Of the runtime's login of this generation, which may no longer log in."""
        role = things.slot(slot(generation))
        join, leave = as_member(role)
        async with self._connections.use() as session:
            await session.run(join, what=f"a membership of {role}")
            try:
                await removal.end_sessions(session, [role], [])
            finally:
                if session.idle:  # else the next try gives it back
                    await session.run(leave, what=f"the end of the membership of {role}")

    async def sync_keys(self, plan: DatabasePlan, rows: Sequence[AccessKeyRow], *, new: bool = False) -> bool:
        """Make the tenant's keys exactly `rows`; whether anything was written.  Requires `ensure`.

        `new`: the tenant was likely made a moment ago, so that its maker reads and writes (see `observe.everything`).
        Raises KeysAhead for rows that would go back to keys whose time is over.
        """
        maker = plan.things.maker if new and plan.isolation == "Schema" else None
        async with self._connections.use(plan.database) as session:
            select, what = keys.select(plan.things), "access keys"
            try:
                if maker:
                    try:
                        seen = await session.run(joined(as_role(maker, select)), what=what)
                    except Unreadable:
                        maker = None  # made before there were makers
                if not maker:
                    seen = await session.run(select, what=what)
            except Unreadable:
                raise BackendError(
                    Reason.RETRYING,
                    "The tenant's table of access keys is not there yet; the operator makes it and tries again",
                ) from None
            if ahead := keys.ahead(rows, seen):
                raise KeysAhead(ahead)
            correction = keys.correction(plan.things, rows, seen)
            if correction:
                await session.transact([correction], maker)
            return correction is not None

    async def compacted(self, plan: DatabasePlan, removal: Removal) -> None:
        """Milvus was asked for the space of what was deleted until then; a later deletion stays written down."""
        table = sql.Identifier(plan.things.runtime_schema, "documents_state")
        forget = sql.SQL("UPDATE {} SET removed_at = NULL WHERE removed_at = %s::timestamptz").format(table)
        async with self._connections.use(plan.database) as session:
            await session.run(forget, (removal.at,), what="the note of a deletion of vectors")

    async def remove(
        self, tenant: str, uid: str, isolation: Isolation, policy: Policy, ending: Ending | None = None
    ) -> None:
        """Take away what was made for this UID, and nothing that carries another; goes on after a crash.

        ``Retain`` renames the schemas (and the tenant's own database) to ``retained_UID``, owned by the admin.
        `ending` is given where a Tenant ends; without it what was made is only taken back.
        """
        await removal.remove(self._connections, Things(tenant, uid), isolation, policy, ending)

    async def purge_archive(self) -> int:
        """Remove archived audit rows whose retention has ended; how many."""
        return await archive.purge(self._connections)

    async def sync_leaks(self, wanted: Leaks, things: Things | None = None) -> tuple[bool, bool]:
        """Make the leak list of the application database what is wanted, or its copy in this tenant's own database.

        Whether rows changed, and whether somebody else had changed the schema.
        """
        if things is None:
            return await leaks.sync(self._connections, wanted, self._connections.admin.database, CONNECT_ROLE)
        return await leaks.sync(self._connections, wanted, things.database, things.group)

    async def owners(self, tenant: str, uid: str) -> dict[str, str]:
        """What is there by the tenant's names, or retained of `uid`: thing -> the UID it was made for, or ''."""
        return await ownership.owners(self._connections, Things(tenant, uid))

    async def used(self, tenant: str, uid: str, isolation: Isolation) -> bool:
        """Whether anything was stored in what was made for this UID."""
        return await ownership.used(self._connections, Things(tenant, uid), isolation)

    async def look(self, plan: DatabasePlan) -> None:
        """Raises BackendError where something by the tenant's names is somebody else's; changes nothing."""
        async with self._connections.use() as session:
            databases, own = (plan.application_database, plan.database), plan.isolation == "Database"
            _refuse_foreign(plan, *await observe.everything(session, plan.things, databases, inside=not own))

    async def inventory(self) -> list[Stored]:
        """Everything here that was made for some Tenant."""
        return await inventory(self._connections)

    async def close(self) -> None:
        await self._connections.close()


class _Work:
    """One `ensure`: the plan, and what was done for it.  `sharing`: held while what all tenants share is made."""

    def __init__(self, plan: DatabasePlan, new: bool, sharing: asyncio.Lock) -> None:
        self.plan = plan
        self._new = new
        self._sharing = sharing
        self.done: list[Correction] = []
        self.kept_up: list[str] = []
        self._first: Shared | None = None
        self._maker: str | None = None
        self._around: tuple[Correction | None, Correction | None] = None, None
        """What goes before and after the changes of a transaction."""
        self._made_by: str | None = None
        """The maker, once it has made the tenant."""

    @property
    def created(self) -> bool:
        """Whether not one role of the tenant was there."""
        return self._first is not None and not self._first.roles.keys() & set(self.plan.things.roles)

    async def converge(self, session: Session, *, shared: bool, inside: bool) -> tuple[Shared | None, Inside | None]:
        """What was seen when nothing differed any more."""
        plan = self.plan
        databases = (plan.application_database, plan.database)
        differing: list[Correction] = []
        for _ in range(PASSES):
            seen = await observe.everything(
                session, plan.things, databases, shared=shared, inside=inside, new=self._new, made_by=self._made_by
            )
            self._first = self._first or seen[0]
            differing = self._compare(*seen)
            if not differing:
                return seen
            shared_by_all = [c for c in differing if c.shared]
            together = sorted((c for c in differing if not c.alone), key=lambda c: c.last)
            try:
                if shared_by_all:
                    self.done += await self._share(session, shared, inside)
                    continue
                if together:
                    await self._transact(session, together)
                else:
                    await session.correct(differing[0])
            except BackendError as error:
                # Another operator, or two tenants at once, made the same: the next look sees it.
                if error.reason is not Reason.RETRYING or not session.idle:
                    raise
                continue
            self.done += together or differing[:1]
            if together and self._new and self.plan.isolation == "Schema":
                self._made_by = self._maker
            self._new = False
        raise errors.unmended(differing[0].what)

    async def _transact(self, session: Session, corrections: Sequence[Correction]) -> None:
        before, after = self._around
        changes = [c for c in (before, *corrections) if c and c != after]
        if after and changes and changes[-1].last and not changes[-1].admin:
            # One SET ROLE for both: after a change of memberships it costs PostgreSQL a look at those of all makers.
            last = changes.pop()
            after = replace(last, statements=(*after.statements, *last.statements))
        await session.transact([*changes, *([after] if after else [])], self._maker)

    async def _share(self, session: Session, shared: bool, inside: bool) -> list[Correction]:
        """Make what all tenants share, one at a time: who came first has often made it for those who waited."""
        databases = (self.plan.application_database, self.plan.database)
        async with self._sharing:
            seen = await observe.everything(
                session, self.plan.things, databases, shared=shared, inside=inside, new=self._new
            )
            missing = [c for c in self._compare(*seen) if c.shared]
            await session.transact(missing)
        return missing

    async def keep_up(self, session: Session, inside: Inside | None) -> None:
        """The audit's partitions.  A lock that can't be had is no failure: the next look tries again."""
        if self.created:
            return  # the next look makes its months
        for _ in range(PASSES):
            due = audit.upkeep(self.plan, inside) if inside else []
            if not due:
                return
            for one in due:
                try:
                    await self._transact(session, [one])
                    self.kept_up.append(one.what)
                except BackendError as error:
                    if not session.idle:
                        raise
                    inside = await self._look_inside(session)
                    if one in audit.upkeep(self.plan, inside) and not isinstance(error, errors.Busy):
                        raise
                    logger.info("%s has to wait: %s", one.what, error.message)
                    return
            inside = await self._look_inside(session)

    async def _look_inside(self, session: Session) -> Inside:
        databases = (self.plan.application_database, self.plan.database)
        _, inside = await observe.everything(session, self.plan.things, databases, shared=False)
        assert inside is not None
        return inside

    def _compare(self, shared: Shared | None, inside: Inside | None) -> list[Correction]:
        """Nothing is written while anything by our names is somebody else's."""
        _refuse_foreign(self.plan, shared, inside)
        if shared and (ahead := shareds.ahead(self.plan, shared)):
            raise Ahead(ahead)
        if shared:
            self._maker = shareds.maker(self.plan, shared)
            self._around = shareds.opening(self.plan, shared), shareds.closing(self.plan, shared)
        found = shareds.corrections(self.plan, shared) if shared else []
        members = shareds.memberships(self.plan, shared) if shared else ()
        if inside and not inside.readable:
            if not found:
                raise errors.unmended(f"the rights on schema {self.plan.things.runtime_schema}")
            return [*found, *members]
        found += [*(insides.corrections(self.plan, inside) if inside else ()), *members]
        if not found and shared and shared.settable and self._around[1]:
            return [self._around[1]]  # a version before this one left it open
        return found


def _refuse_foreign(plan: DatabasePlan, shared: Shared | None, inside: Inside | None) -> None:
    for another in (shared and shareds.foreign(plan, shared), inside and insides.foreign(plan, inside)):
        if another:
            raise foreign(*another)
