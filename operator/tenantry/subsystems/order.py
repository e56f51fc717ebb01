"""What of a tenant comes first, what side by side, and what waits for what."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection

from tenantry import outcomes, rotation
from tenantry.accesskeys import AccessKeys
from tenantry.api import Reason, Tenant
from tenantry.api.conditions import Type
from tenantry.api.tenant import RotatedCredentials
from tenantry.backends.connection import ApiError
from tenantry.backends.errors import BackendError
from tenantry.backends.kubernetes import KubernetesBackend
from tenantry.credentials import Credentials
from tenantry.desired.meta import DesiredError
from tenantry.desired.options import Options
from tenantry.memo import Memo
from tenantry.metrics import Metrics
from tenantry.outcomes import compliance, failed, usable
from tenantry.regions import Backends, Regions
from tenantry.rotation import Rotations
from tenantry.status import Outcome
from tenantry.subsystems.compaction import Compaction
from tenantry.subsystems.database import Database
from tenantry.subsystems.namespaces import Namespaces
from tenantry.subsystems.runtime import Runtime
from tenantry.subsystems.tools import Tools
from tenantry.subsystems.vectors import Vectors
from tenantry.work import Work

logger = logging.getLogger(__name__)

_OBJECTS = {Type.NAMESPACES: "namespaces", Type.RUNTIME: "runtime"}
"""Conditions of objects of the API server, and what metrics call them."""


class Subsystems:
    def __init__(
        self,
        kubernetes: KubernetesBackend,
        regions: Regions,
        derived: Credentials,
        options: Options,
        keys: AccessKeys,
        metrics: Metrics,
        believed_seconds: float,
        rotations: Rotations,
    ) -> None:
        self.rotations = rotations
        self.keys = keys
        self._tools = Tools(kubernetes, regions, derived, options, metrics, Memo(believed_seconds), rotations)
        self._namespaces = Namespaces(self._tools)
        self._database = Database(self._tools, keys)
        self._vectors = Vectors(self._tools)
        self._compaction = Compaction()
        self._runtime = Runtime(self._tools, self._namespaces)
        keys.drifted = lambda: self._tools.drift("keys", 1)

    async def run(self, work: Work) -> None:
        """Namespaces first, since Secrets live there; then the stores side by side; then the runtime."""
        report = work.report
        report.add(compliance(work.tenant, work.region))
        report.add(await self._attempt(Type.NAMESPACES, self._namespaces.ensure(work)))
        try:
            backends = await self._tools.regions.get(work.region)
        except (BackendError, ApiError) as error:
            backends = None
            for kind in (Type.DATABASE, Type.VECTORS):
                report.add(failed(kind, error))
        if backends:
            await self._stores(work, backends)
        await self._rest_of_namespaces(work)
        waiting = [t for t in (Type.NAMESPACES, Type.DATABASE, Type.VECTORS) if not usable(report.outcomes[t])]
        if backends and not waiting:
            report.add(await self._attempt(Type.RUNTIME, self._runtime.ensure(work, backends)))
        else:
            report.add(outcomes.waits(self._runtime.deployment(work), waiting))
        if backends:
            self._compaction.begin(work, backends)
        if work.logins:
            now = rotation.clock()
            work.turn = self.rotations.ended(work.turn, now, work.resolved, ready=report.ready, used=work.logins)
            self.rotations.note(work.resolved.uid, work.turn)
        report.credentials = work.turn

    async def _rest_of_namespaces(self, work: Work) -> None:
        """Whatever became of the stores; but nothing is made in a namespace that is not ours."""
        if work.later and usable(work.report.outcomes[Type.NAMESPACES]):
            outcome = await self._attempt(Type.NAMESPACES, self._namespaces.finish(work))
            if not outcome.good:
                work.report.add(outcome)

    async def _stores(self, work: Work, backends: Backends) -> None:
        """Side by side, unless PostgreSQL must first say whose turn it is."""
        report = work.report

        async def database() -> None:
            step = backends.database_breaker(lambda: self._database.ensure(work, backends), work.tenant.name)
            report.add(await self._attempt(Type.DATABASE, step))

        async def vectors() -> None:
            step = backends.vectors_breaker(lambda: self._vectors.ensure(work, backends), work.tenant.name)
            report.add(await self._attempt(Type.VECTORS, step))

        if self.rotations.known(work.tenant, work.resolved.uid) or not rotation.own_vectors(work.resolved):
            await asyncio.gather(database(), vectors())
            return
        await database()
        if work.logins:
            await vectors()
        else:
            report.add(Outcome(Type.VECTORS, "False", Reason.WAITING, "Waits for DatabaseReady"))

    async def only(self, work: Work, kinds: Collection[str]) -> None:
        """Bring about these alone, before anything else of the tenant is there."""
        report = work.report
        report.add(compliance(work.tenant, work.region))
        for kind in (Type.NAMESPACES, Type.DATABASE, Type.VECTORS, Type.RUNTIME):
            report.add(Outcome(kind, "False", Reason.WAITING, f"Is made once {', '.join(kinds)} is in order"))
        if Type.NAMESPACES in kinds:
            report.add(await self._attempt(Type.NAMESPACES, self._namespaces.ensure(work)))
            await self._rest_of_namespaces(work)
        if Type.DATABASE in kinds:
            report.add(await self._attempt(Type.DATABASE, self._alone(work, self._database.ensure)))
        if Type.VECTORS in kinds:
            report.add(await self._attempt(Type.VECTORS, self._alone(work, self._vectors.reserved)))

    async def _alone(self, work: Work, step: Callable[[Work, Backends], Awaitable[Outcome]]) -> Outcome:
        return await step(work, await self._tools.regions.get(work.region))

    async def look(self, work: Work, kinds: Collection[str]) -> list[Outcome]:
        """What a look alone shows to be wrong with these; changes nothing."""
        found: list[Outcome] = []
        for kind, look in (
            (Type.NAMESPACES, self._namespaces.look),
            (Type.DATABASE, self._database.look),
            (Type.VECTORS, self._vectors.look),
        ):
            if kind in kinds:
                outcome = await self._attempt(kind, look(work))
                found += [] if outcome.good else [outcome]
        return found

    def forget(self, tenant: Tenant) -> None:
        """A tenant ends, or begins anew."""
        for uid in (tenant.uid, tenant.identity):
            self._tools.verified.forget(uid)
            self.keys.forget(tenant.name, uid)
            self.rotations.forget(uid)

    async def collection(self, work: Work) -> str:
        """The Milvus collection that the tenant shall have; empty where Milvus can't be asked now."""
        return await self._vectors.collection(work)

    async def room(self, work: Work, begun: RotatedCredentials) -> None:
        """Make the user that the next rotation goes with, without rights: raises BackendError where that fails."""
        backends = await self._tools.regions.get(work.region)
        await backends.vectors_breaker(lambda: self._vectors.room(work, backends, begun), work.tenant.name)

    async def _attempt(self, kind: Type, step: Awaitable[Outcome]) -> Outcome:
        try:
            return await step
        except (BackendError, ApiError) as error:
            if kind in _OBJECTS and isinstance(error, BackendError):
                self._tools.drift(_OBJECTS[kind], len(error.corrected))
            return failed(kind, error)
        except DesiredError as error:
            return Outcome(kind, "False", Reason.INVALID_SPEC, str(error))
        except Exception as error:
            logger.exception("%s: a step failed in a way that nobody foresaw", kind)
            return Outcome(
                kind,
                "False",
                Reason.RETRYING,
                f"Unexpected error ({type(error).__name__}); the operator's log has it, and it is tried again",
            )
