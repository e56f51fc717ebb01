"""Which shared collection a tenant's partition goes to."""

import asyncio
from collections import defaultdict
from collections.abc import Callable

from tenantry.backends.milvus.storage import Storage
from tenantry.desired import vectors
from tenantry.desired.vectors import Place
from tenantry.resolve import Resolved, VectorChoice

SPREAD = 1000
"""Tenants in one shared collection before the next is made; Milvus' own limit is 1,024 partitions or more."""

Occupied = Callable[[str, str], bool]
"""Whether tenants of a region (its name) are in a collection (its name) by what is pinned of them."""


def nobody(region: str, collection: str) -> bool:
    """For who places no tenants."""
    return False


class Placing:
    """Chooses, and remembers what it chose until that is there; changes nothing on the server.

    A collection is one region's alone, since its users' passwords are: regions may be served by one Milvus, also
    without anybody knowing, for a server has many addresses.  So the name carries the region.  Older names do not:
    such a collection is the region's whose tenants are in it.
    """

    def __init__(self, storage: Storage, spread: int = SPREAD, occupied: Occupied = nobody) -> None:
        self._storage = storage
        self._spread = spread
        self._occupied = occupied
        self._lock = asyncio.Lock()
        self._reserved: dict[str, set[str]] = defaultdict(set)
        """Collection -> tags of tenants that were given a place in it and have no partition yet."""

    async def place(self, resolved: Resolved) -> Place:
        """Where the tenant's vectors lie, or shall: a shared collection with room is chosen if none was yet.

        The caller keeps the collection's name and gives it back in `resolved.collection` from then on.
        """
        settled = vectors.settled(resolved)
        if settled is not None:
            return settled
        async with self._lock:
            collection, there = await self._choose(resolved)
            place = vectors.shared_place(resolved, collection)
            self.taken(place.tag)
            if not there:
                self._reserved[collection].add(place.tag)
            return place

    async def started(self, region: str, choice: VectorChoice) -> bool:
        """Whether the region has any shared collection of this combination."""
        prefix, older = vectors.shared_prefix(region, choice), vectors.older_prefix(choice)
        return any(
            vectors.shared_number(prefix, name) or (vectors.shared_number(older, name) and self._occupied(region, name))
            for name in await self._storage.collections()
        )

    def taken(self, tag: str) -> None:
        """The tenant with this tag has its partition, or needs none any more."""
        for tags in self._reserved.values():
            tags.discard(tag)

    async def _choose(self, resolved: Resolved) -> tuple[str, bool]:
        """The collection, and whether the tenant's partition is in it already."""
        choice, region = resolved.vectors, resolved.region
        prefix, older = vectors.shared_prefix(region, choice), vectors.older_prefix(choice)
        own, mark = vectors.own_name(resolved.uid), vectors.shared_mark(choice)
        held: dict[str, int] = {}  # tenants in each collection; of one that is not ours, as many as fit
        older_ones: list[str] = []
        for name in await self._storage.collections():
            new = vectors.shared_number(prefix, name)
            if not new and not vectors.shared_number(older, name):
                continue
            found = await self._storage.describe(name)
            if found is None or found.schema.description != mark:
                held[name] = self._spread
                continue
            if await self._storage.has_partition(name, own):
                return name, True  # made before a crash forgot it
            held[name] = found.num_partitions - 1  # but for the default partition
            if not new and self._occupied(region, name):
                older_ones.append(name)
        for name, tags in self._reserved.items():
            held[name] = held.get(name, 0) + len(tags)
        for name in older_ones:
            if held[name] < self._spread:
                return name, False
        numbers = {n: held[name] for name in held if (n := vectors.shared_number(prefix, name))}
        return f"{prefix}{vectors.choose_shared(numbers, self._spread)}", False
