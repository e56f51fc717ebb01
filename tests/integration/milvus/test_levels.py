"""Each level on a real server: made, at rest without writes, walled off, empty when made again."""

from __future__ import annotations

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
async def test_a_tenant_can_use_its_place_and_rests_without_writes(
    isolation: VectorIsolation, make_backend: Callable[..., MilvusBackend], login: Login
) -> None:
    backend = make_backend(remember=600)
    resolved = tenant(isolation, model=some_model())
    plan = planned(resolved, await backend.place(resolved))
    spy = Spy(backend)
    assert await settle(backend, plan)

    user, place = login(plan), plan.place
    await eventually(lambda: add(user, plan, "mine"), None, "insert")
    await eventually(lambda: user.texts(place.collection, place.partition), ["mine"], "query")

    spy.clear()
    assert (await backend.ensure(plan)).corrected == ()
    assert spy.writes == []
    assert len(spy.reads) <= 3
    restarted = make_backend()  # knows nothing, looks at everything
    spy = Spy(restarted)
    seen = await restarted.ensure(plan)
    assert (seen.corrected, seen.created, spy.writes) == ((), False, [])
    await backend.remove(resolved.uid, place.collection, isolation, "Delete")


async def test_walls_between_tenants_of_all_levels(backend: MilvusBackend, login: Login) -> None:
    """Every login is refused everywhere but at home, by Milvus; each refusal beside the same call at home."""
    plans: list[VectorPlan] = []
    for isolation in ("Partition", "Collection", "Collection", "Database", "Database"):
        resolved = tenant(isolation, model=some_model())
        plans.append(planned(resolved, await backend.place(resolved)))
        await settle(backend, plans[-1])
    calls = {
        "Query": lambda plan: milvus.QueryRequest(collection_name=plan.place.collection, expr='id in ["x"]'),
        "Search": lambda plan: milvus.SearchRequest(collection_name=plan.place.collection),
        "Insert": lambda plan: milvus.InsertRequest(collection_name=plan.place.collection),
        "Upsert": lambda plan: milvus.UpsertRequest(collection_name=plan.place.collection),
        "Delete": lambda plan: milvus.DeleteRequest(collection_name=plan.place.collection, expr='id in ["x"]'),
    }

    for mine in plans:
        user = login(mine)
        for method in calls:
            for target in plans:
                expected = "allowed" if target is mine else "right missing"
                attempt = partial(user.verdict, method, calls[method](target), target.place.database)
                await eventually(attempt, expected, f"{method} by {user.name}")


async def test_names_of_others_are_not_listed(backend: MilvusBackend, login: Login, root: User) -> None:
    """No list of collections or partitions outside a database of the tenant's own; the region's login has them."""
    listing = milvus.ShowCollectionsRequest()
    for isolation in LEVELS:
        resolved = tenant(isolation, model=some_model())
        plan = planned(resolved, await backend.place(resolved))
        await settle(backend, plan)
        user, home = login(plan), plan.place.database
        partitions = milvus.ShowPartitionsRequest(collection_name=plan.place.collection)
        describe = milvus.DescribeCollectionRequest(collection_name=plan.place.collection)
        tries: list[tuple[str, Any, str, str]] = [
            ("ShowPartitions", partitions, home, "right missing"),
            ("ShowCollections", listing, "default", "right missing"),
            ("DescribeCollection", describe, "default", "right missing"),
        ]
        if isolation == "Database":
            tries.append(("ShowCollections", listing, home, "allowed"))
            tries.append(("DescribeCollection", describe, home, "allowed"))
        for method, request, database, expected in tries:
            assert await root.verdict(method, request, database) == "allowed"
            await eventually(partial(user.verdict, method, request, database), expected, f"{method} at {isolation}")


@pytest.mark.parametrize("isolation", LEVELS)
async def test_made_again_under_a_new_uid_it_is_empty_and_the_old_login_is_refused(
    isolation: VectorIsolation, backend: MilvusBackend, login: Login
) -> None:
    model = some_model()
    first = tenant(isolation, model=model)
    old = planned(first, await backend.place(first))
    await settle(backend, old)
    user = login(old)
    await eventually(lambda: add(user, old, "old"), None, "insert")
    await eventually(lambda: user.texts(old.place.collection, old.place.partition), ["old"], "query")
    await backend.remove(first.uid, old.place.collection, isolation, "Delete")

    second = tenant(isolation, uid=str(uuid.uuid4()), model=model)
    new = planned(second, await backend.place(second))
    await settle(backend, new)
    successor = login(new)
    await eventually(lambda: successor.texts(new.place.collection, new.place.partition), [], "query")
    if isolation != "Partition":
        request = milvus.QueryRequest(collection_name=new.place.collection, expr='id in ["x"]')
        await eventually(lambda: user.verdict("Query", request, new.place.database), "login refused", "old login")
    await backend.remove(second.uid, new.place.collection, isolation, "Delete")


async def add(user: User, plan: VectorPlan, text: str) -> None:
    await user.add(plan.place.collection, plan.place.partition, plan.place.tag, text)
