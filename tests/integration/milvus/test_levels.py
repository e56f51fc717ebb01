"""Each level on a real server: made, at rest without writes, walled off, empty when made again."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tenantry.api.tier import VectorIsolation
from tenantry.backends.milvus import MilvusBackend
from tenantry.backends.milvus.protocol import milvus
from tenantry.desired.vectors import VectorPlan
from tests.integration.milvus.tools import Spy, User, eventually, planned, settle, some_model
from tests.unit.milvus.make import tenant

Login = Callable[[VectorPlan], User]
LEVELS: tuple[VectorIsolation, ...] = ("Partition", "Collection", "Database")


@pytest.mark.parametrize("isolation", LEVELS)
async def test_the_life_of_a_tenant(
    isolation: VectorIsolation, make_backend: Callable[..., MilvusBackend], login: Login
) -> None:
    """It can use its place, rests without writes, and made again under another UID it is empty."""
    backend, model = make_backend(remember=600), some_model()
    first = tenant(isolation, model=model)
    plan = planned(first, await backend.place(first))
    spy = Spy(backend)
    assert await settle(backend, plan)

    user, place = login(plan), plan.place
    await eventually(partial(user.add, place.collection, place.partition, place.tag, "mine"), None, "insert")
    await eventually(partial(user.texts, place.collection, place.partition), ["mine"], "query")

    spy.clear()
    assert (await backend.ensure(plan)).corrected == ()
    assert spy.writes == []
    assert len(spy.reads) <= 3
    restarted = make_backend()  # knows nothing, looks at everything
    spy = Spy(restarted)
    await settle(restarted, plan)
    assert spy.writes == []
    assert not (await restarted.ensure(plan)).created

    # The space of deleted rows: asked for by the region's login, once for many deletions; no tenant's user may.
    described = await backend._storage.describe(place.collection, place.database)
    asking = milvus.ManualCompactionRequest(collectionID=described.collectionID)
    assert await user.verdict("ManualCompaction", asking) == "right missing"
    spy = Spy(backend)
    assert await backend.compact(place, deleted_ago=2)
    assert await backend.compact(place, deleted_ago=600)  # asked since
    assert not await backend.compact(place, deleted_ago=0)  # too soon to ask again
    assert spy.writes == ["ManualCompaction"]
    await backend.remove(first.uid, place.collection, isolation, "Delete")
    second = tenant(isolation, uid=str(uuid.uuid4()), model=model)
    new = planned(second, await backend.place(second))
    await settle(backend, new)
    await eventually(partial(login(new).texts, new.place.collection, new.place.partition), [], "query")
    if isolation != "Partition":
        request = milvus.QueryRequest(collection_name=new.place.collection)
        await eventually(partial(user.verdict, "Query", request, new.place.database), "login refused", "old login")
    await backend.remove(second.uid, new.place.collection, isolation, "Delete")


def on_collection(plan: VectorPlan) -> dict[str, Any]:
    """Requests that show a right on a collection; only `Delete` has content that Milvus takes."""
    name = plan.place.collection
    return {
        "Query": milvus.QueryRequest(collection_name=name),
        "Search": milvus.SearchRequest(collection_name=name),
        "Insert": milvus.InsertRequest(collection_name=name),
        "Upsert": milvus.UpsertRequest(collection_name=name),
        "Delete": milvus.DeleteRequest(collection_name=name, expr='id in ["x"]'),
    }


async def test_walls_between_tenants_of_all_levels(
    make_backend: Callable[..., MilvusBackend], login: Login, root: User
) -> None:
    """Every login is refused everywhere but at home, by Milvus; each refusal beside the same call succeeding."""
    backend = make_backend(remember=600)
    plans: dict[str, VectorPlan] = {}
    for label in ("Partition", "Collection", "another Collection", "Database", "another Database"):
        isolation: Any = label.split()[-1]
        resolved = tenant(isolation, model=some_model())
        plans[label] = planned(resolved, await backend.place(resolved))
    await asyncio.gather(*(settle(backend, plan) for plan in plans.values()))

    async def tried(label: str, mine: VectorPlan) -> None:
        user, home = login(mine), mine.place.database
        for whose, target in plans.items():
            for method, request in on_collection(target).items():
                expected = "allowed" if target is mine else "right missing"
                attempt = partial(user.verdict, method, request, target.place.database)
                await eventually(attempt, expected, f"{method} by {label} at {whose}")
        # Names of others are listed to nobody; a database of the tenant's own is an open book to it.
        listing = milvus.ShowCollectionsRequest()
        partitions = milvus.ShowPartitionsRequest(collection_name=mine.place.collection)
        describe = milvus.DescribeCollectionRequest(collection_name=mine.place.collection)
        tries: list[tuple[str, Any, str, str]] = [
            ("ShowPartitions", partitions, home, "right missing"),
            ("ShowCollections", listing, "default", "right missing"),
            ("DescribeCollection", describe, "default", "allowed" if home == "default" else "right missing"),
        ]
        if home != "default":
            tries += [("ShowCollections", listing, home, "allowed"), ("DescribeCollection", describe, home, "allowed")]
        for method, request, database, expected in tries:
            assert await root.verdict(method, request, database) == "allowed"
            await eventually(partial(user.verdict, method, request, database), expected, f"{method} by {label}")

    await asyncio.gather(*(tried(label, plan) for label, plan in plans.items()))
    for plan in plans.values():
        uid = str(uuid.UUID(plan.place.tag))
        level: VectorIsolation = "Partition" if plan.shared else "Collection"
        await backend.remove(
            uid, plan.place.collection, level if plan.place.database == "default" else "Database", "Delete"
        )
