"""What the operator asks of one Milvus: a place for a tenant, that it holds, and that it goes."""

import asyncio
import contextlib
import math
import time
from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal

from tenantry.api.conditions import Reason
from tenantry.api.tier import VectorIsolation
from tenantry.backends.errors import BackendError
from tenantry.backends.fence import Fence
from tenantry.backends.inventory import Stored
from tenantry.backends.milvus.access import Access
from tenantry.backends.milvus.client import CALL_SECONDS, Client, Server
from tenantry.backends.milvus.inventory import inventory
from tenantry.backends.milvus.placing import SPREAD, Occupied, Placing, nobody
from tenantry.backends.milvus.storage import Load, Storage
from tenantry.desired import vectors
from tenantry.desired.vectors import DEFAULT_DATABASE, Place, VectorPlan
from tenantry.resolve import Resolved, VectorChoice

REMEMBER_SECONDS = 30.0
"""How long what all tenants of a server share (role public, shared collections) is not looked at again."""

LOGIN_SECONDS = 600.0
"""How long a login that was seen to work is believed."""


COMPACT_SECONDS = 300.0
"""So often at most one collection is asked for the space of its deleted rows, by all of its tenants together."""


@dataclass(frozen=True)
class VectorsSeen:
    """What `ensure` found."""

    corrected: tuple[str, ...]
    """What was written, in words; at first provisioning that is everything."""
    created: bool
    """The tenant's own partition or collection was not there before."""


class _Memory:
    """Things seen lately, as `how`.  Times are of the monotonic clock."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, tuple[Hashable, float]] = {}

    def fresh(self, thing: Hashable, seconds: float, how: Hashable = None) -> bool:
        seen = self._seen.get(thing)
        return seen is not None and seen[0] == how and time.monotonic() - seen[1] < seconds

    def note(self, thing: Hashable, how: Hashable = None) -> None:
        self._seen[thing] = (how, time.monotonic())

    def forget(self, thing: Hashable) -> None:
        self._seen.pop(thing, None)


class MilvusBackend:
    """All tenants of one Milvus.  Every method raises BackendError and nothing else."""

    def __init__(
        self,
        server: Server,
        *,
        spread: int = SPREAD,
        remember: float = REMEMBER_SECONDS,
        timeout: float = CALL_SECONDS,
        fence: Fence | None = None,
        occupied: Occupied = nobody,
    ) -> None:
        self._server = server
        self._remember = remember
        self._client = Client(server, timeout, fence)
        self._access = Access(self._client)
        self._storage = Storage(self._client)
        self._memory = _Memory()
        self._placing = Placing(self._storage, spread, occupied)
        self._public = asyncio.Lock()
        self._shared: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._users: dict[str, frozenset[int]] = {}
        """Shared collection -> the numbers of its users, as last seen and since changed."""
        self._compactions: dict[tuple[str, str], tuple[float, bool]] = {}
        """Database and collection -> when (monotonic) compaction was last asked for, and whether Milvus took it."""

    async def close(self) -> None:
        await self._client.close()

    async def inventory(self) -> list[Stored]:
        """Everything here that was made for some Tenant."""
        return await inventory(self._client, self._storage, await self._secured())

    async def place(self, resolved: Resolved) -> Place:
        """Where the tenant's vectors lie, or shall; see `Placing`."""
        return await self._placing.place(resolved)

    async def started(self, region: str, choice: VectorChoice) -> bool:
        """Whether the region has any shared collection of this combination."""
        return await self._placing.started(region, choice)

    async def shared_users(self, collection: str) -> frozenset[int]:
        """The numbers of the runtimes' users on a shared collection; none where nobody logs in."""
        if not self._server.user or not await self._secured():
            return frozenset()
        async with self._shared[collection]:
            if not self._memory.fresh(("users", collection), self._remember):
                numbers = (vectors.shared_user_number(collection, name) for name in await self._access.users())
                self._users[collection] = frozenset(n for n in numbers if n is not None)
                self._memory.note(("users", collection))
            return self._users[collection]

    async def ensure(self, plan: VectorPlan) -> VectorsSeen:
        """Make the plan hold; writes only what differs.  At rest that is one to three reads.

        With a place that names no partition, the shared collection alone.
        """
        place = plan.place
        secured = await self._secured()
        secured = secured and bool(plan.user)
        written = await self._close_public() if secured else []
        if written:  # and the proxies must be seen to know it
            self._memory.forget(_login(plan.user))
            self._memory.forget(_shared(place.collection, plan.user))
        if place.partition is None:
            made = await self._hold_own(plan, secured)
        else:
            written += await self._hold_shared(plan, secured)
            made = await self._storage.ensure_partition(plan) if place.partition else []
            if any(step.startswith("loading") for step in made):  # someone took it out of memory: look at all of it
                self._memory.forget(_shared(place.collection, plan.user))
            self._placing.taken(place.tag)
        created = any(step.startswith(("partition", "collection")) for step in made)
        return VectorsSeen(tuple(written + made), created)

    async def remove(
        self, uid: str, collection_hint: str, isolation: VectorIsolation, policy: Literal["Retain", "Delete"]
    ) -> None:
        """Undo a tenant, whatever is left of it.  First nobody can log in any more, then the data goes.

        `Retain` keeps the data, out of reach of all but the region's own login (and, at level Partition, of the
        runtimes, which name their own partition only).  `collection_hint` is the shared collection, where known.
        """
        own = vectors.own_name(uid)
        if isolation == "Partition":
            if policy == "Delete":
                await self._remove_partition(own, collection_hint)
            self._placing.taken(own.removeprefix("t_"))
            return
        database = own if isolation == "Database" else DEFAULT_DATABASE
        for thing in (_own(database, own), *map(_login, vectors.own_users(uid))):
            self._memory.forget(thing)
        if self._server.user:
            databases = (database,) if database == DEFAULT_DATABASE else (database, DEFAULT_DATABASE)
            await self._access.remove(vectors.own_role(uid), vectors.own_users(uid), databases)
        if policy == "Retain":
            await self._storage.release(own, database)
        elif isolation == "Database":
            await self._storage.drop_database(database)
        else:
            await self._storage.drop_collection(own)

    async def compact(self, place: Place, deleted_ago: float) -> bool:
        """Ask Milvus for the space of deleted rows; whether it was asked since what was deleted so many seconds ago.

        What another tenant of a shared collection asked counts for all.  False: it was asked too lately to ask again.
        """
        now, where = time.monotonic(), (place.database, place.collection)
        began, taken = self._compactions.get(where, (-math.inf, False))
        if taken and now - began < deleted_ago:
            return True
        if now - began < COMPACT_SECONDS:
            return False
        recent = {at: last for at, last in self._compactions.items() if now - last[0] < COMPACT_SECONDS}
        self._compactions = {**recent, where: (now, False)}
        await self._storage.compact(place.collection, place.database)
        self._compactions[where] = (now, True)
        return True

    async def level(self, uid: str, collection_hint: str) -> VectorIsolation | None:
        """The level at which vectors of this UID lie here; None where there are none."""
        own = vectors.own_name(uid)
        if await self._storage.collections(own):
            return "Database"
        if await self._storage.describe(own):
            return "Collection"
        for collection in await self._shared_collections(collection_hint):
            if await self._storage.has_partition(collection, own):
                return "Partition"
        return None

    async def look(self, plan: VectorPlan) -> None:
        """Raises BackendError where a person must mend something first, as far as can be seen; changes nothing."""
        await self._secured()
        await self._storage.look(plan)

    async def reserve(self, plan: VectorPlan) -> None:
        """The plan's role and user alone, which is where Milvus is full first; cheaper than a collection."""
        if not plan.user or not await self._secured():
            return
        collection = plan.place.collection
        async with self._shared[collection] if plan.shared else contextlib.nullcontext():
            await self._access.reserve(plan)
            number = vectors.shared_user_number(collection, plan.user) if plan.shared else None
            if number is not None and collection in self._users:
                self._users[collection] |= {number}

    async def _shared_collections(self, hint: str) -> list[str]:
        return [hint] if hint else [n for n in await self._storage.collections() if n.startswith("shared_")]

    async def _remove_partition(self, partition: str, hint: str) -> None:
        for collection in await self._shared_collections(hint):
            await self._storage.drop_partition(collection, partition)

    async def _secured(self) -> bool:
        """Whether the server asks for logins; BackendError where it does not and the region minds."""
        if not self._memory.fresh("secured", self._remember):
            if not await self._access.secured():
                if not self._server.allow_unauthenticated:
                    raise BackendError(
                        Reason.UNAUTHENTICATED_MILVUS,
                        "Milvus asks nobody for a login, so whoever reaches its port reads and changes the vectors of "
                        "every tenant; set common.security.authorizationEnabled in milvus.yaml, or accept it with "
                        "spec.milvus.allowUnauthenticated in the DataRegion",
                    )
                return False
            self._memory.note("secured")
        return True

    async def _close_public(self) -> list[str]:
        async with self._public:
            if self._memory.fresh("public", self._remember):
                return []
            written = await self._access.close_public()
            self._memory.note("public")
            return written

    async def _hold_shared(self, plan: VectorPlan, secured: bool) -> list[str]:
        """The shared collection and the runtimes' user on it, once for all of its tenants."""
        collection = plan.place.collection
        async with self._shared[collection]:
            ended = {vectors.shared_user_number(collection, user) for user in plan.ended}
            there = self._users.get(collection, frozenset())
            shared = _shared(collection, plan.user)
            if self._memory.fresh(shared, self._remember) and not ended & there:
                return []
            written = await self._storage.ensure_collection(plan)
            if secured:
                written += await self._hold_login(plan)
                used = vectors.shared_user_number(collection, plan.user)
                self._users[collection] = frozenset(n for n in {*there, used} - ended if n is not None)
            self._memory.note(shared)
            return written

    async def _hold_own(self, plan: VectorPlan, secured: bool) -> list[str]:
        place = plan.place
        seen = _own(place.database, place.collection)
        written: list[str] = []
        known = self._memory.fresh(seen, LOGIN_SECONDS)
        if not known or await self._storage.load(place.collection, place.database) is not Load.DONE:
            written = await self._storage.ensure_collection(plan)
            self._memory.note(seen)
        if secured:
            written += await self._hold_login(plan)
        return written

    async def _hold_login(self, plan: VectorPlan) -> list[str]:
        login, password = _login(plan.user), hash(plan.password)
        written = await self._access.ensure(plan, self._memory.fresh(login, LOGIN_SECONDS, password))
        self._memory.note(login, password)
        for user in plan.ended:
            self._memory.forget(_login(user))
            self._memory.forget(_shared(plan.place.collection, user))
        return written


def _shared(collection: str, user: str) -> Hashable:
    return "shared", collection, user


def _login(user: str) -> Hashable:
    return "login", user


def _own(database: str, collection: str) -> Hashable:
    return "collection", database, collection
