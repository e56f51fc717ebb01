"""Regions that one Milvus serves have shared collections of their own; what is there by an older name stays in use."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

from tenantry.backends.milvus.placing import Placing
from tenantry.backends.milvus.storage import Storage
from tenantry.desired import vectors
from tenantry.resolve import Resolved
from tests.unit.milvus.make import tenant

CHOICE = tenant("Partition").vectors
OLDER = vectors.older_prefix(CHOICE)
NEW = vectors.shared_prefix("us", CHOICE)


@dataclass
class Milvus:
    """Collections of one combination, with their partitions."""

    there: dict[str, list[str]]
    pinned: set[tuple[str, str]] = field(default_factory=set)
    """(region, collection) of tenants."""
    foreign: set[str] = field(default_factory=set)

    async def collections(self) -> list[str]:
        return list(self.there)

    async def describe(self, name: str) -> Any:
        mark = "somebody's" if name in self.foreign else vectors.shared_mark(CHOICE)
        return SimpleNamespace(schema=SimpleNamespace(description=mark), num_partitions=1 + len(self.there[name]))

    async def has_partition(self, name: str, partition: str) -> bool:
        return partition in self.there[name]

    def placing(self, spread: int = 2) -> Placing:
        """As after a start of the operator."""
        return Placing(cast(Storage, self), spread, lambda region, name: (region, name) in self.pinned)


def of(region: str) -> Resolved:
    return replace(tenant("Partition"), region=region)


async def test_regions_of_one_milvus_share_no_collection() -> None:
    placing = Milvus({}).placing()
    us, eu = [(await placing.place(of(region))).collection for region in ("us", "eu")]
    assert us == NEW + "1"
    assert eu == vectors.shared_prefix("eu", CHOICE) + "1" != us
    assert vectors.shared_user(us, 0) != vectors.shared_user(eu, 0)
    assert vectors.shared_role(us) != vectors.shared_role(eu)


async def test_a_collection_by_an_older_name_goes_on_for_the_region_whose_tenants_are_in_it() -> None:
    server = Milvus({OLDER + "1": ["t_1"]}, {("us", OLDER + "1")})
    placing = server.placing()
    assert (await placing.place(of("us"))).collection == OLDER + "1"
    assert (await placing.place(of("us"))).collection == NEW + "1", "the one before is full"
    assert (await placing.place(of("eu"))).collection == vectors.shared_prefix("eu", CHOICE) + "1"
    assert await placing.started("us", CHOICE)
    assert not await placing.started("eu", CHOICE)
    server.there = {NEW + "1": []}
    assert await placing.started("us", CHOICE)
    assert not await placing.started("eu", CHOICE)


async def test_a_tenant_whose_place_was_forgotten_is_found_by_its_partition() -> None:
    """Also where no tenant of the region is known to be there: a backup may hold neither status nor annotations."""
    one = of("us")
    for name in (OLDER + "3", NEW + "2"):
        server = Milvus({OLDER + "1": [], name: [vectors.own_name(one.uid)]})
        placing = server.placing(spread=1)
        assert (await placing.place(one)).collection == name
        server.there = {NEW + "1": ["t_1"], NEW + "2": []}
        assert (await placing.place(of("us"))).collection == NEW + "2", "what was found is not counted twice"


async def test_a_place_that_was_given_is_held_until_it_is_used() -> None:
    server = Milvus({})
    placing = server.placing(spread=1)
    first = await placing.place(of("us"))
    assert (await placing.place(of("us"))).collection == NEW + "2"
    server.there[first.collection] = [f"t_{first.tag}"]
    placing.taken(first.tag)
    assert (await placing.place(of("us"))).collection == NEW + "3"


async def test_what_is_not_ours_is_left_alone_and_what_was_dropped_is_not_made_again() -> None:
    server = Milvus({NEW + "1": [], OLDER + "1": ["t_1"]}, {("us", OLDER + "1")})
    server.foreign.add(NEW + "1")
    placing = server.placing()
    place = await placing.place(of("us"))
    assert place.collection == OLDER + "1"
    placing.taken(place.tag)
    del server.there[OLDER + "1"]
    assert (await placing.place(of("us"))).collection == NEW + "2"
