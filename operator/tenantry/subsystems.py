"""The four things that a tenant consists of, each brought about and looked at on its own.

A failure of one is its own condition: it delays neither the others nor another tenant.
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from typing import Any

from tenantry import outcomes, rotation
from tenantry.accesskeys import AccessKeys
from tenantry.api import Reason
from tenantry.api.conditions import Type
from tenantry.api.tenant import Spend
from tenantry.backends import kinds
from tenantry.backends.connection import ApiError
from tenantry.backends.errors import BackendError, foreign
from tenantry.backends.kubernetes import KubernetesBackend, owned, said
from tenantry.backends.observed import Rollout, key
from tenantry.backends.postgres import Ahead
from tenantry.credentials import Credentials, Logins
from tenantry.desired import configuration, database, kubernetes, secrets, vectors
from tenantry.desired.meta import DesiredError
from tenantry.desired.options import Options
from tenantry.desired.postgres.things import Things
from tenantry.memo import Memo
from tenantry.metrics import Metrics
from tenantry.outcomes import compliance, dollars, failed, good, usable
from tenantry.regions import Backends, Regions
from tenantry.rotation import Rotations
from tenantry.status import Outcome
from tenantry.work import Work, memory

logger = logging.getLogger(__name__)
Json = dict[str, Any]


_OBJECTS = {Type.NAMESPACES: "namespaces", Type.RUNTIME: "runtime"}
"""Conditions of objects of the API server, and what metrics call them."""
_SECRETS = {"postgres": "database", "milvus": "vectors", "runtime": "runtime"}
"""To which subsystem a drift of a Secret is counted."""


class Subsystems:
    def __init__(
        self,
        kubernetes_backend: KubernetesBackend,
        regions: Regions,
        derived: Credentials,
        options: Options,
        keys: AccessKeys,
        metrics: Metrics,
        believed_seconds: float,
        rotations: Rotations,
    ) -> None:
        self.rotations = rotations
        self.kubernetes = kubernetes_backend
        self.regions = regions
        self.derived = derived
        self.options = options
        self.keys = keys
        keys.drifted = lambda: self._drift("keys", 1)
        self.metrics = metrics
        self.verified = Memo(believed_seconds)

    async def run(self, work: Work) -> None:
        """Namespaces first, since Secrets live there; then the stores side by side; then the runtime."""
        report = work.report
        report.add(compliance(work.tenant, work.region))
        report.add(await self._attempt(Type.NAMESPACES, self._namespaces(work)))
        try:
            backends = await self.regions.get(work.region)
        except (BackendError, ApiError) as error:
            backends = None
            for kind in (Type.DATABASE, Type.VECTORS):
                report.add(failed(kind, error))
        if backends:
            await self._stores(work, backends)
        waiting = [t for t in (Type.NAMESPACES, Type.DATABASE, Type.VECTORS) if not usable(report.outcomes[t])]
        if backends and not waiting:
            report.add(await self._attempt(Type.RUNTIME, self._runtime(work, backends)))
        else:
            report.add(outcomes.waits(self._deployment(work), waiting))
        if work.logins:
            now = rotation.clock()
            work.turn = self.rotations.ended(work.turn, now, work.resolved, ready=report.ready, used=work.logins)
            self.rotations.note(work.resolved.uid, work.turn)
        report.credentials = work.turn

    async def _stores(self, work: Work, backends: Backends) -> None:
        """Side by side, unless PostgreSQL must first say whose turn it is."""
        report = work.report

        async def database() -> None:
            step = backends.database_breaker(lambda: self._database(work, backends), work.tenant.name)
            report.add(await self._attempt(Type.DATABASE, step))

        async def vectors() -> None:
            step = backends.vectors_breaker(lambda: self._vectors(work, backends), work.tenant.name)
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
            report.add(await self._attempt(Type.NAMESPACES, self._namespaces(work)))
        if Type.DATABASE in kinds:
            report.add(await self._attempt(Type.DATABASE, self._alone(work, self._database)))
        if Type.VECTORS in kinds:
            report.add(await self._attempt(Type.VECTORS, self._alone(work, self._reserved_vectors)))

    async def _alone(self, work: Work, step: Callable[[Work, Backends], Awaitable[Outcome]]) -> Outcome:
        return await step(work, await self.regions.get(work.region))

    async def _reserved_vectors(self, work: Work, backends: Backends) -> Outcome:
        """Its user first: where Milvus has no room for that, no collection is made in vain."""
        place = await self._place(work, backends)
        await backends.milvus.reserve(vectors.plan(work.resolved, place, self.derived, backends.uid))
        return await self._vectors(work, backends)

    async def look(self, work: Work, kinds: Collection[str]) -> list[Outcome]:
        """What a look alone shows to be wrong with these; changes nothing."""
        found: list[Outcome] = []
        steps = {Type.NAMESPACES: self._look_namespaces, Type.DATABASE: self._look_database}
        for kind, step in {**steps, Type.VECTORS: self._look_vectors}.items():
            if kind in kinds:
                outcome = await self._attempt(kind, step(work))
                found += [] if outcome.good else [outcome]
        return found

    async def _look_namespaces(self, work: Work) -> Outcome:
        for obj in kubernetes.namespace_objects(work.resolved, self.options):
            if obj["kind"] == kinds.NAMESPACE.kind:
                seen = await self.kubernetes.get(kinds.NAMESPACE, "", obj["metadata"]["name"])
                if seen and not owned(seen, work.resolved.uid):
                    raise foreign(f"Namespace {obj['metadata']['name']}", said(seen))
        return good(Type.NAMESPACES, "Nothing is in the way")

    async def _look_database(self, work: Work) -> Outcome:
        backends = await self.regions.get(work.region)
        plan = database.plan(work.resolved, self.derived, configuration.configuration(work.resolved))
        await backends.database_breaker(lambda: backends.postgres.look(plan), work.resolved.name)
        return good(Type.DATABASE, "Nothing is in the way")

    async def _look_vectors(self, work: Work) -> Outcome:
        backends = await self.regions.get(work.region)

        async def look() -> None:
            place = await backends.milvus.place(work.resolved)
            await backends.milvus.look(vectors.plan(work.resolved, place, self.derived, backends.uid))

        await backends.vectors_breaker(look, work.resolved.name)
        return good(Type.VECTORS, "Nothing is in the way")

    async def _attempt(self, kind: Type, step: Awaitable[Outcome]) -> Outcome:
        try:
            return await step
        except (BackendError, ApiError) as error:
            if kind in _OBJECTS and isinstance(error, BackendError):
                self._drift(_OBJECTS[kind], len(error.corrected))
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

    # -- namespaces ---------------------------------------------------------------

    async def _namespaces(self, work: Work) -> Outcome:
        resolved = work.resolved
        # Read before anything is looked at: what a watch says meanwhile is looked at again.
        work.changes = self.kubernetes.observed.changes[resolved.name]
        mark = work.digest(work.changes)
        if not self.verified.holds(resolved.uid, "namespaces", mark):
            applied = await self.kubernetes.ensure(self._spaces(work), resolved.uid)
            self._drift("namespaces", len(applied.corrected))
            if applied.sure:
                self.verified.note(resolved.uid, "namespaces", mark)
        count = len(resolved.workloads) + 1
        return good(Type.NAMESPACES, f"{count} namespaces with their quotas, policies and rights")

    def _spaces(self, work: Work) -> list[Json]:
        """Built when first asked for."""
        if work.spaces is None:
            work.spaces = kubernetes.namespace_objects(work.resolved, self.options)
        return work.spaces

    async def _sweep(self, work: Work, runtime: list[Json]) -> None:
        """Remove what this tenant no longer asks for, such as a namespace taken from the list."""
        wanted = {*map(key, self._spaces(work)), *map(key, runtime)}
        for k, seen in self.kubernetes.observed.of_tenant(work.resolved.name):
            if k in wanted or seen.deleting or not seen.owned(work.resolved.uid):
                continue
            logger.info("%s %s is no longer wanted and is removed", k[0], k[2])
            await self.kubernetes.delete(
                kinds.of_key(k), {"metadata": {"namespace": k[1], "name": k[2], "uid": seen.uid}}
            )
            self.kubernetes.unwanted(k)

    # -- PostgreSQL -----------------------------------------------------------------

    async def _database(self, work: Work, backends: Backends) -> Outcome:
        uid = work.resolved.uid
        settings = configuration.configuration(work.resolved)
        logins = await self._logins(work, backends)
        plan = database.plan(work.resolved, self.derived, settings, logins)
        digest = work.digest(settings.digest(), logins, *memory(backends))
        if not self.verified.holds(uid, "database", digest):
            try:
                seen = await backends.postgres.ensure(plan, logins=True)
            except Ahead as ahead:
                work.turn = self.rotations.found(work.tenant, ahead.logins, rotation.clock(), work.resolved)
                logger.warning("The status has forgotten a rotation: generation %d is in use", work.turn.generation)
                logins = await self._logins(work, backends)
                plan = database.plan(work.resolved, self.derived, settings, logins)
                digest = work.digest(settings.digest(), logins, *memory(backends))
                seen = await backends.postgres.ensure(plan, logins=True)
            self._drift("database", 0 if seen.created or work.rotating else len(seen.corrected))
            if seen.spent_nano is not None and seen.month:
                work.report.spend = Spend(month=seen.month, amount=dollars(seen.spent_nano))
        work.report.database = f"{plan.database}/{plan.things.schema}"
        if rotation.draining(work.turn) and not logins.database_previous:
            await backends.postgres.end_sessions(plan.things, logins.generation - 1)
        work.logins = logins
        self.rotations.note(uid, work.turn)
        if usable(work.report.outcomes[Type.NAMESPACES]):
            await self._secret(work, secrets.postgres(work.resolved, self.derived))
            await self.keys.sync(work.resolved, lambda rows: backends.postgres.sync_keys(plan, rows), first=work.first)
            self.verified.note(uid, "database", digest)
        where = "a database of its own" if work.resolved.database_isolation == "Database" else "schemas of its own"
        return good(Type.DATABASE, f"PostgreSQL: {where}, with roles that reach nothing else")

    async def _logins(self, work: Work, backends: Backends) -> Logins:
        """Those to accept now; what drains is looked at each time."""
        in_use = False
        if rotation.draining(work.turn):
            things = Things(work.resolved.name, work.resolved.uid)
            in_use = await backends.postgres.in_use(things, work.turn.generation - 1)
        return rotation.logins(work.turn, rotation.clock(), in_use)

    # -- Milvus -----------------------------------------------------------------------

    async def _vectors(self, work: Work, backends: Backends) -> Outcome:
        resolved = work.resolved
        place = await self._place(work, backends)
        logins = rotation.logins(work.turn, rotation.clock(), in_use=False)
        plan = vectors.plan(resolved, place, self.derived, backends.uid, logins)
        digest = work.digest(place, plan.user, plan.ended, *memory(backends))
        if not self.verified.holds(resolved.uid, "vectors", digest):
            try:
                seen = await backends.milvus.ensure(plan)
            except BackendError as error:
                held = work.tenant.holds(Type.VECTORS)
                if held and not work.rotating:
                    self._drift("vectors", len(error.corrected))
                raise
            self._drift("vectors", 0 if seen.created or work.rotating else len(seen.corrected))
        work.report.vectors = "/".join(p for p in (place.database, place.collection, place.partition) if p)
        if usable(work.report.outcomes[Type.NAMESPACES]):
            if own := secrets.milvus(resolved, place, plan.login):
                await self._secret(work, own)
            self.verified.note(resolved.uid, "vectors", digest)
        work.vectors = plan
        return good(Type.VECTORS, f"Milvus: {resolved.vectors.isolation.lower()} with its rights")

    async def collection(self, work: Work) -> str:
        """The Milvus collection that the tenant shall have; empty where Milvus can't be asked now."""
        try:
            backends = await self.regions.get(work.region)
            place = await backends.vectors_breaker(lambda: backends.milvus.place(work.resolved), work.tenant.name)
        except (BackendError, ApiError):
            return ""
        return place.collection

    async def _place(self, work: Work, backends: Backends) -> vectors.Place:
        place = await backends.milvus.place(work.resolved)
        pinned = work.report.pinned
        if pinned and pinned.collection != place.collection:
            # Milvus was away when the tenant was claimed.  Written before anything is made there.
            await work.pin(pinned.model_copy(update={"collection": place.collection}))
            work.resolved = replace(work.resolved, collection=place.collection)
        return place

    # -- the runtime ----------------------------------------------------------------------

    async def _runtime(self, work: Work, backends: Backends) -> Outcome:
        resolved = work.resolved
        assert work.vectors is not None, "the runtime is made after its stores"
        place, login = work.vectors.place, work.vectors.login
        held = configuration.credentials(
            resolved, self.derived, place, login, backends.provider_api_key, work.turn.generation
        )
        secret = secrets.runtime(resolved, held)
        await self._secret(work, secret)
        mark = work.digest(work.changes, secret)
        if not self.verified.holds(resolved.uid, "runtime", mark):
            objects = kubernetes.runtime_objects(resolved, self.options, secrets.digest(secret))
            applied = await self.kubernetes.ensure(objects, resolved.uid)
            self._drift("runtime", len(applied.corrected))
            await self._sweep(work, objects)
            if applied.sure:
                self.verified.note(resolved.uid, "runtime", mark)
        work.report.secrets = tuple(
            f"{resolved.home}/{name}"
            for name in (
                "accesskey-default",
                "postgres",
                *(["milvus"] if secrets.milvus(resolved, place, login) else []),
            )
        )
        return outcomes.rollout(self._deployment(work), resolved)

    def _deployment(self, work: Work) -> Rollout | None:
        return self.kubernetes.observed.rollout(("Deployment", work.resolved.runtime_namespace, "runtime"))

    # -- shared ---------------------------------------------------------------------------

    async def _secret(self, work: Work, desired: Json) -> None:
        uid, name = work.resolved.uid, f"secret/{desired['metadata']['namespace']}/{desired['metadata']['name']}"
        digest = hashlib.sha256(repr(desired).encode()).hexdigest()
        if self.verified.holds(uid, name, digest):
            return
        if how := await self.kubernetes.ensure_secret(desired, uid, first=work.first):
            logger.info("Secret %s was written", desired["metadata"]["name"])
            self._drift(_SECRETS[desired["metadata"]["name"]], how == "corrected")
        self.verified.note(uid, name, digest)

    def _drift(self, subsystem: str, count: int) -> None:
        if count:
            self.metrics.drift.labels(subsystem).inc(count)
