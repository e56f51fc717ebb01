"""The server's limits, shared collections that fill up, and what `Retain` keeps."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tenantry import names
from tenantry.api.conditions import Reason
from tenantry.api.tier import VectorIsolation
from tenantry.backends.errors import BackendError
from tenantry.backends.milvus import MilvusBackend
from tenantry.backends.milvus.protocol import milvus
from tenantry.desired import vectors
from tenantry.desired.vectors import VectorPlan
from tests.integration.milvus.conftest import LIMITS
from tests.integration.milvus.tools import User, eventually, planned, settle, some_model
from tests.unit.milvus.make import tenant

Login = Callable[[VectorPlan], User]


async def test_tenants_spread_over_shared_collections(make_backend: Callable[..., MilvusBackend]) -> None:
    """Two to a collection: five placed at once, and all of them again after a restart."""
    model = some_model()
    backend = make_backend(spread=2, remember=600)
    tenants = [tenant("Partition", model=model) for _ in range(5)]
    places = await asyncio.gather(*(backend.place(resolved) for resolved in tenants))
    prefix = vectors.shared_prefix(tenants[0].region, tenants[0].vectors)
    assert sorted(place.collection for place in places) == [prefix + n for n in "11223"]
    plans = [planned(resolved, place) for resolved, place in zip(tenants, places, strict=True)]
    await asyncio.gather(*(settle(backend, plan) for plan in plans))

    restarted = make_backend(spread=2)
    for resolved, place in zip(tenants, places, strict=True):
        assert await restarted.place(resolved) == place  # also where the choice was not kept
    await restarted.remove(tenants[0].uid, places[0].collection, "Partition", "Delete")
    again = await restarted.place(tenant("Partition", model=model))
    assert again.collection == places[0].collection  # the room that became free


async def test_a_partition_is_usable_though_others_are_busy_while_it_is_made(
    backend: MilvusBackend, root: User, login: Login
) -> None:
    """Milvus 2.3's proxies now and then miss a partition made while its collection is in use: they are told again."""
    model = some_model()
    first = tenant("Partition", model=model)
    plan = planned(first, await backend.place(first))
    await settle(backend, plan)
    request = milvus.GetLoadStateRequest(collection_name=plan.place.collection, partition_names=["_default"])
    done = asyncio.Event()

    async def busy() -> None:
        while not done.is_set():
            await root.verdict("GetLoadState", request)

    others = [asyncio.create_task(busy()) for _ in range(3)]
    try:
        for _ in range(LIMITS["rootCoord.maxPartitionNum"] - 2):  # the first tenant's and the default one are there
            late = tenant("Partition", model=model, collection=plan.place.collection)
            late_plan = planned(late, await backend.place(late))
            await settle(backend, late_plan)
            await eventually(partial(login(late_plan).texts, late.collection, late_plan.place.partition), [], "query")
    finally:
        done.set()
        await asyncio.gather(*others)


async def test_a_full_collection_names_the_setting(backend: MilvusBackend, root: User) -> None:
    resolved = tenant("Partition", model=some_model())
    plan = planned(resolved, await backend.place(resolved))
    await settle(backend, plan)
    name = plan.place.collection
    for number in range(LIMITS["rootCoord.maxPartitionNum"] - 2):  # this tenant's and the default one are there
        await root.ask(
            "CreatePartition", milvus.CreatePartitionRequest(collection_name=name, partition_name=f"p{number}")
        )
    late = tenant("Partition", model=resolved.vectors.embedding_model, collection=name)
    with pytest.raises(BackendError) as caught:
        await backend.ensure(planned(late, await backend.place(late)))
    assert caught.value.reason is Reason.CAPACITY_EXHAUSTED
    assert "rootCoord.maxPartitionNum" in caught.value.message
    await backend.ensure(plan)  # who is in is not troubled


def role(name: str) -> Any:
    return milvus.CreateRoleRequest(entity=milvus.RoleEntity(name=name))


def user(name: str) -> Any:
    return milvus.CreateCredentialRequest(username=name, password=base64.b64encode(b"some password").decode())


FILLERS: tuple[tuple[str, str, Callable[[str], Any], str, Callable[[str], Any], VectorIsolation], ...] = (
    ("proxy.maxRoleNum", "CreateRole", role, "DropRole", lambda n: milvus.DropRoleRequest(role_name=n), "Collection"),
    (
        "proxy.maxUserNum",
        "CreateCredential",
        user,
        "DeleteCredential",
        lambda n: milvus.DeleteCredentialRequest(username=n),
        "Collection",
    ),
    (
        "rootCoord.maxDatabaseNum",
        "CreateDatabase",
        lambda n: milvus.CreateDatabaseRequest(db_name=n),
        "DropDatabase",
        lambda n: milvus.DropDatabaseRequest(db_name=n),
        "Database",
    ),
)


@pytest.mark.parametrize(
    ("setting", "create", "made", "drop", "dropped", "isolation"), FILLERS, ids=[case[0] for case in FILLERS]
)
async def test_a_full_server_names_the_setting_and_goes_on_when_there_is_room(
    setting: str,
    create: str,
    made: Callable[[str], Any],
    drop: str,
    dropped: Callable[[str], Any],
    isolation: VectorIsolation,
    backend: MilvusBackend,
    root: User,
) -> None:
    resolved = tenant(isolation)
    plan = planned(resolved, await backend.place(resolved))
    fillers = [f"filler_{number}" for number in range(LIMITS[setting])]
    try:
        for name in fillers:
            if await failed(root, create, made(name)):
                break
        with pytest.raises(BackendError) as caught:
            await settle(backend, plan)
        assert caught.value.reason is Reason.CAPACITY_EXHAUSTED
        assert setting in caught.value.message
        assert caught.value.final
    finally:
        for name in fillers:
            await failed(root, drop, dropped(name))
    await settle(backend, plan)
    await backend.remove(resolved.uid, "", isolation, "Delete")


async def failed(root: User, method: str, request: Any) -> bool:
    from tenantry.backends.milvus.client import Failure

    try:
        await root.ask(method, request)
    except Failure:
        return True
    return False


@pytest.mark.parametrize("isolation", ["Partition", "Collection", "Database"])
async def test_retain_keeps_the_data_out_of_reach(
    isolation: VectorIsolation, backend: MilvusBackend, login: Login, client: Any, running: Any
) -> None:
    resolved = tenant(isolation, model=some_model())
    plan = planned(resolved, await backend.place(resolved))
    await settle(backend, plan)
    tenants, place = login(plan), plan.place
    await eventually(partial(tenants.add, place.collection, place.partition, place.tag, "kept"), None, "insert")
    for _ in range(2):
        await backend.remove(resolved.uid, place.collection, isolation, "Retain")

    region = User(client, "root", running.password, place.database)
    if isolation != "Partition":
        request = milvus.QueryRequest(collection_name=place.collection, expr='id in ["x"]')
        await eventually(partial(tenants.verdict, "Query", request), "login refused", "the tenant's login")
        load = milvus.LoadCollectionRequest(collection_name=place.collection, replica_number=1)
        await region.ask("LoadCollection", load)
    await eventually(partial(region.texts, place.collection, place.partition), ["kept"], "what was kept")
    await backend.remove(resolved.uid, place.collection, isolation, "Delete")
    remembered = repr((backend._memory._seen, backend._placing._reserved))
    assert names.bare(resolved.uid) not in remembered
    assert names.short(resolved.uid) not in remembered


async def test_a_partition_whose_collection_nobody_remembers_is_found_and_removed(
    backend: MilvusBackend, root: User
) -> None:
    resolved = tenant("Partition", model=some_model())
    plan = planned(resolved, await backend.place(resolved))
    await settle(backend, plan)
    await backend.remove(resolved.uid, "", "Partition", "Delete")
    answer = await root.ask("ShowPartitions", milvus.ShowPartitionsRequest(collection_name=plan.place.collection))
    assert list(answer.partition_names) == ["_default"]
