"""The users of a shared collection on a real server: the next one beside the one before, then alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from tenantry.backends.milvus import MilvusBackend
from tenantry.backends.milvus.protocol import milvus
from tenantry.desired import vectors
from tenantry.desired.vectors import SharedUsers, VectorPlan
from tenantry.resolve import Resolved
from tests.integration.milvus.tools import Died, Spy, User, eventually, settle, some_model
from tests.unit.milvus.make import MASTER, REGION_UID, tenant

Login = Callable[[VectorPlan], User]


def planned(resolved: Resolved, place: vectors.Place, used: int, *ended: int) -> VectorPlan:
    return vectors.plan(resolved, place, MASTER, REGION_UID, shared=SharedUsers(used, ended))


async def test_the_next_user_beside_the_one_before(make_backend: Callable[..., MilvusBackend], login: Login) -> None:
    backend, model = make_backend(remember=600), some_model()
    one, other = tenant("Partition", model=model), tenant("Partition", model=model)
    place = await backend.place(one)
    collection = place.collection
    assert await backend.shared_users(collection) == set()
    before = planned(one, place, 0)
    await settle(backend, before)
    beside = planned(other, await backend.place(other), 0)
    spy = Spy(backend)
    await settle(backend, beside)
    assert await backend.shared_users(collection) == {0}
    assert "ListCredUsers" not in spy.reads, "one more tenant of the collection costs no look at its users"
    assert "CreateCredential" not in spy.writes

    query = milvus.QueryRequest(collection_name=collection)
    after = planned(one, place, 1)
    await settle(backend, after)
    assert await backend.shared_users(collection) == {0, 1} == await make_backend().shared_users(collection)
    for plan in (before, after):
        await eventually(partial(login(plan).add, collection, place.partition, place.tag, plan.user), None, plan.user)
        assert await login(plan).verdict("Query", query) == "allowed"

    # The tenant that has not gone on holds its user as it was, also one whose password somebody changed.
    spy.clear()
    assert (await backend.ensure(beside)).corrected == ()
    assert spy.writes == []

    alone = planned(one, place, 1, 0)
    await settle(backend, alone)
    assert await backend.shared_users(collection) == {1} == await make_backend().shared_users(collection)
    await eventually(partial(login(before).verdict, "Query", query), "login refused", "the user before")
    await eventually(partial(login(after).texts, collection, place.partition), [before.user, after.user], "query")
    spy.clear()
    assert (await backend.ensure(alone)).corrected == ()
    assert spy.writes == []
    for resolved in (one, other):
        await backend.remove(resolved.uid, collection, "Partition", "Delete")


async def test_a_crash_after_each_write_of_a_rotation(make_backend: Callable[..., MilvusBackend], login: Login) -> None:
    """The numbers of the users there are all that is kept: whoever comes next goes on from them."""
    resolved = tenant("Partition", model=some_model())
    place = await make_backend().place(resolved)
    await settle(make_backend(), planned(resolved, place, 0))
    last = planned(resolved, place, 1, 0)
    deaths = 0
    while True:
        backend = make_backend()
        Spy(backend, die_after=1)
        try:
            await backend.shared_users(place.collection)
            await settle(backend, last)
        except Died:
            deaths += 1
            assert await make_backend().shared_users(place.collection) in ({0}, {0, 1}, {1})
            continue
        break
    assert deaths >= 3, "the user, its role, and the end of the one before"
    assert await make_backend().shared_users(place.collection) == {1}
    add = partial(login(last).add, place.collection, place.partition, place.tag, "mine")
    await eventually(add, None, "insert")
    await make_backend().remove(resolved.uid, place.collection, "Partition", "Delete")


async def test_two_regions_on_one_server_leave_each_others_users_alone(
    make_backend: Callable[..., MilvusBackend], login: Login
) -> None:
    """Of one embedding model; each region's operator part knows nothing of the other."""
    model = some_model()
    plans = []
    for region, uid in (("us", REGION_UID), ("eu", REGION_UID[::-1])):
        backend = make_backend()
        resolved = replace(tenant("Partition", model=model), region=region)
        plans.append(vectors.plan(resolved, await backend.place(resolved), MASTER, uid))
        await settle(backend, plans[-1])
    for plan in plans:  # again, after the other has been there
        assert (await make_backend().ensure(plan)).corrected == ()
    us, eu = plans
    for plan, other in ((us, eu), (eu, us)):
        query = milvus.QueryRequest(collection_name=plan.place.collection)
        assert await login(plan).verdict("Query", query) == "allowed"
        await eventually(partial(login(other).verdict, "Query", query), "right missing", "the other region's user")
        await make_backend().remove(plan.place.tag, plan.place.collection, "Partition", "Delete")
