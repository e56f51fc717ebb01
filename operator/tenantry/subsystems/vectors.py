"""The tenant's part of its region's Milvus: a partition, a collection or a database, and who may reach it."""

from dataclasses import replace

from tenantry import rotation
from tenantry.api.conditions import Reason, Type
from tenantry.api.tenant import RotatedCredentials
from tenantry.backends.connection import ApiError
from tenantry.backends.errors import BackendError
from tenantry.desired import secrets, vectors
from tenantry.outcomes import good, usable
from tenantry.regions import Backends
from tenantry.status import Outcome
from tenantry.subsystems.tools import Tools
from tenantry.work import Work, memory


class Vectors:
    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    async def ensure(self, work: Work, backends: Backends) -> Outcome:
        tools, resolved = self._tools, work.resolved
        place = await self._place(work, backends)
        logins = rotation.logins(work.turn, rotation.clock(), in_use=False)
        shared = await self._shared_users(work, place, backends)
        plan = vectors.plan(resolved, place, tools.derived, backends.uid, logins, shared)
        digest = work.digest(place, plan.user, plan.ended, *memory(backends))
        on_purpose = work.rotating or bool(plan.ended)
        if not tools.verified.holds(resolved.uid, "vectors", digest):
            try:
                seen = await backends.milvus.ensure(plan)
            except BackendError as error:
                if work.tenant.holds(Type.VECTORS) and not on_purpose:
                    tools.drift("vectors", len(error.corrected))
                raise
            tools.drift("vectors", 0 if seen.created or on_purpose else len(seen.corrected))
        work.report.vectors = "/".join(p for p in (place.database, place.collection, place.partition) if p)
        if usable(work.report.outcomes[Type.NAMESPACES]):
            if own := secrets.milvus(resolved, place, plan.login):
                await tools.secret(work, own)
            tools.verified.note(resolved.uid, "vectors", digest)
        work.vectors = plan
        if waits := tools.rotations.waits(work.tenant, resolved.uid, rotation.clock()):
            return Outcome(Type.VECTORS, "True", Reason.ROTATION_WAITS, waits)
        return good(Type.VECTORS, f"Milvus: {resolved.vectors.isolation.lower()} with its rights")

    async def room(self, work: Work, backends: Backends, begun: RotatedCredentials) -> None:
        """The user that a rotation goes with, so that it is known before it begins whether there is room for it."""
        resolved = work.resolved
        place = await backends.milvus.place(resolved)
        if place.partition:
            there = await backends.milvus.shared_users(place.collection)
            if begun.shared_user <= max(there, default=-1):
                return
        logins = rotation.logins(begun, rotation.clock(), in_use=False)
        users = vectors.SharedUsers(begun.shared_user)
        await backends.milvus.reserve(vectors.plan(resolved, place, self._tools.derived, backends.uid, logins, users))

    async def reserved(self, work: Work, backends: Backends) -> Outcome:
        """Its user first: where Milvus has no room for that, no collection is made in vain."""
        place = await self._place(work, backends)
        shared = await self._shared_users(work, place, backends)
        plan = vectors.plan(work.resolved, place, self._tools.derived, backends.uid, shared=shared)
        await backends.milvus.reserve(plan)
        return await self.ensure(work, backends)

    async def _shared_users(self, work: Work, place: vectors.Place, backends: Backends) -> vectors.SharedUsers:
        if not place.partition:
            return vectors.SharedUsers()
        there = await backends.milvus.shared_users(place.collection)
        where = (work.resolved.region, place.collection)
        work.turn, users = self._tools.rotations.users(work.tenant, work.turn, where, there)
        return users

    async def collection(self, work: Work) -> str:
        """The Milvus collection that the tenant shall have; empty where Milvus can't be asked now."""
        try:
            backends = await self._tools.regions.get(work.region)
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

    async def look(self, work: Work) -> Outcome:
        backends = await self._tools.regions.get(work.region)

        async def look() -> None:
            place = await backends.milvus.place(work.resolved)
            await backends.milvus.look(vectors.plan(work.resolved, place, self._tools.derived, backends.uid))

        await backends.vectors_breaker(look, work.resolved.name)
        return good(Type.VECTORS, "Nothing is in the way")
