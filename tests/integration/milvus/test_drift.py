"""What others change is put back; what is not ours is left alone; what a crash left is finished."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from tenantry.api.conditions import Reason
from tenantry.api.tier import VectorIsolation
from tenantry.backends.errors import BackendError
from tenantry.backends.milvus import MilvusBackend
from tenantry.backends.milvus.client import Denied, Failure
from tenantry.backends.milvus.protocol import common, milvus, schema
from tenantry.desired import vectors
from tenantry.desired.vectors import Grant, VectorPlan
from tests.integration.milvus.tools import UNSETTLED, Died, Spy, User, eventually, planned, settle, some_model
from tests.unit.milvus.make import tenant

Login = Callable[[VectorPlan], User]
Change = Callable[[User, VectorPlan], Awaitable[None]]


def privilege(role: str, grant: Grant, revoke: bool) -> object:
    kinds = milvus.OperatePrivilegeType
    entity = milvus.GrantEntity(
        role=milvus.RoleEntity(name=role),
        object=milvus.ObjectEntity(name=grant.scope),
        object_name=grant.target,
        db_name=grant.database,
        grantor=milvus.GrantorEntity(privilege=milvus.PrivilegeEntity(name=grant.privilege)),
    )
    return milvus.OperatePrivilegeRequest(entity=entity, type=kinds.Revoke if revoke else kinds.Grant)


def credential(plan: VectorPlan, password: str) -> object:
    return milvus.CreateCredentialRequest(username=plan.user, password=base64.b64encode(password.encode()).decode())


async def revoke(root: User, plan: VectorPlan) -> None:
    await root.ask("OperatePrivilege", privilege(plan.role, plan.grants[0], True))


async def grant_more(root: User, plan: VectorPlan) -> None:
    more = Grant("Collection", "*", "Query", plan.place.database)
    await root.ask("OperatePrivilege", privilege(plan.role, more, False))


async def give_admin(root: User, plan: VectorPlan) -> None:
    joins = milvus.OperateUserRoleType.AddUserToRole
    request = milvus.OperateUserRoleRequest(username=plan.user, role_name="admin", type=joins)
    await root.ask("OperateUserRole", request)


async def drop_user(root: User, plan: VectorPlan) -> None:
    await root.ask("DeleteCredential", milvus.DeleteCredentialRequest(username=plan.user))


async def drop_role(root: User, plan: VectorPlan) -> None:
    """Also once more: only what is revoked of a role that is there is told to the proxies, which may have missed it."""
    with contextlib.suppress(Failure):  # it is there
        await root.ask("CreateRole", milvus.CreateRoleRequest(entity=milvus.RoleEntity(name=plan.role)))
    for grant in plan.grants:
        await root.ask("OperatePrivilege", privilege(plan.role, grant, True))
    await root.ask("DropRole", milvus.DropRoleRequest(role_name=plan.role))


async def change_password(root: User, plan: VectorPlan) -> None:
    await drop_user(root, plan)
    await root.ask("CreateCredential", credential(plan, "somebody else's"))
    joins = milvus.OperateUserRoleType.AddUserToRole
    request = milvus.OperateUserRoleRequest(username=plan.user, role_name=plan.role, type=joins)
    await root.ask("OperateUserRole", request)


async def open_public(root: User, plan: VectorPlan) -> None:
    for name in ("ShowCollections", "DescribeCollection"):
        await root.ask("OperatePrivilege", privilege("public", Grant("Global", "*", name, "*"), False))


async def release(root: User, plan: VectorPlan) -> None:
    await root.ask("ReleaseCollection", milvus.ReleaseCollectionRequest(collection_name=plan.place.collection))


async def drop_storage(root: User, plan: VectorPlan) -> None:
    await release(root, plan)
    name = plan.place.collection
    if plan.place.partition:
        request = milvus.DropPartitionRequest(collection_name=name, partition_name=plan.place.partition)
        await root.ask("DropPartition", request)
    else:
        await root.ask("DropCollection", milvus.DropCollectionRequest(collection_name=name))


CHANGES: tuple[tuple[Change, str, tuple[str, str]], ...] = (
    # what someone does, what `ensure` says of it, and how a login sees that it was done
    (revoke, "right Delete", ("Delete", "right missing")),
    (grant_more, "foreign right Query", ("Query elsewhere", "allowed")),
    (give_admin, "foreign role of user {user}", ("ListCredUsers", "allowed")),
    (drop_user, "user {user}", ("Query", "login refused")),
    (drop_role, "role {role}", ("Query", "right missing")),
    (change_password, "password of user {user}", ("Query", "login refused")),
    (open_public, "right ShowCollections of role public", ("ShowCollections", "allowed")),
    (release, "loading of collection {collection}", ("Query", "allowed")),
    (drop_storage, "{storage}", ("Query", "allowed")),
)
AT_EACH_LEVEL = {
    "Partition": (revoke, drop_user, open_public, drop_storage),
    "Collection": (revoke, grant_more, give_admin, drop_role, change_password, release, drop_storage),
}


def trial(kind: str, plan: VectorPlan) -> tuple[str, object]:
    """A request that shows whether a login has a right, and changes nothing."""
    name = plan.place.collection
    return {
        "Delete": ("Delete", milvus.DeleteRequest(collection_name=name, expr='id in ["x"]')),
        "Query": ("Query", milvus.QueryRequest(collection_name=name)),
        "Query elsewhere": ("Query", milvus.QueryRequest(collection_name="nowhere")),
        "ListCredUsers": ("ListCredUsers", milvus.ListCredUsersRequest()),
        "ShowCollections": ("ShowCollections", milvus.ShowCollectionsRequest()),
    }[kind]


async def changed(change: Change, root: User, plan: VectorPlan, user: User, kind: str) -> str:
    with contextlib.suppress(Failure):  # the role is gone since the last time
        await change(root, plan)
    await asyncio.sleep(0.5)
    return await user.verdict(*trial(kind, plan))


@pytest.mark.parametrize("isolation", ["Partition", "Collection"])
async def test_drift_is_put_back(
    isolation: VectorIsolation, make_backend: Callable[..., MilvusBackend], login: Login, root: User
) -> None:
    resolved = tenant(isolation, model=some_model())
    plan = planned(resolved, await make_backend().place(resolved))
    await settle(make_backend(), plan)
    user, place = login(plan), plan.place
    words = {
        "user": plan.user,
        "role": plan.role,
        "collection": place.collection,
        "storage": f"partition {place.partition}" if place.partition else f"collection {place.collection}",
    }

    async def held(wanted: Callable[[], Awaitable[object]], expected: object) -> object:
        """What shows; where that is wrong the operator looks again, as it does from time to time.

        Proxies hear of changes in no fixed order: of one that was made several times, the last may come after the
        operator's own.
        """
        seen: object
        try:
            seen = await wanted()
        except (Denied, Failure) as error:
            seen = error
        if seen != expected:
            await asyncio.sleep(1)
            await settle(make_backend(), plan)
        return seen

    for change, said, (kind, verdict) in CHANGES:
        if change not in AT_EACH_LEVEL[isolation]:
            continue
        # Milvus' proxies may miss a change: it is made until a login sees it.
        seen = partial(changed, change, root, plan, user, kind)
        await eventually(seen, verdict, f"{change.__name__} itself")
        backend = make_backend()  # as after a restart: nothing is remembered
        written = await settle(backend, plan)
        assert {said.format(**words), UNSETTLED} & set(written), f"{change.__name__}: {written}"
        texts: Callable[[], Awaitable[object]] = partial(user.texts, place.collection, place.partition)
        await eventually(partial(held, texts, []), [], change.__name__)
        if verdict == "allowed" and kind != "Query":
            refused: Callable[[], Awaitable[object]] = partial(user.verdict, *trial(kind, plan))
            await eventually(partial(held, refused, "right missing"), "right missing", change.__name__)
        spy = Spy(backend)
        await settle(backend, plan)
        assert spy.writes == [], change.__name__
    await make_backend().remove(resolved.uid, place.collection, isolation, "Delete")


@pytest.mark.parametrize("isolation", ["Partition", "Collection", "Database"])
async def test_a_crash_after_every_effect_converges(
    isolation: VectorIsolation, make_backend: Callable[..., MilvusBackend], login: Login, root: User
) -> None:
    """The operator dies after each single write, starts anew, and in the end all holds."""
    resolved = tenant(isolation, model=some_model())
    plan = planned(resolved, await make_backend().place(resolved))
    lives = 0
    while lives < 60:
        lives += 1
        backend = make_backend()
        spy = Spy(backend, die_after=1)
        with contextlib.suppress(Died):
            await settle(backend, plan)
            assert spy.writes == []
            break
    else:
        pytest.fail("it writes the same again and again")
    assert lives > 5
    user = login(plan)
    await eventually(lambda: user.texts(plan.place.collection, plan.place.partition), [], "query")

    for _ in range(2):  # and once more, when there is nothing left
        await make_backend().remove(resolved.uid, plan.place.collection, isolation, "Delete")
    await assert_gone(root, plan, resolved.uid)


@pytest.mark.parametrize("isolation", ["Partition", "Collection", "Database"])
async def test_removal_that_dies_anywhere_is_finished_by_the_next(
    isolation: VectorIsolation, make_backend: Callable[..., MilvusBackend], root: User
) -> None:
    resolved = tenant(isolation, model=some_model())
    plan = planned(resolved, await make_backend().place(resolved))
    await settle(make_backend(), plan)
    for effects in range(1, 60):
        backend = make_backend()
        Spy(backend, die_after=effects)
        try:
            await backend.remove(resolved.uid, plan.place.collection, isolation, "Delete")
        except Died:
            continue
        break
    else:
        pytest.fail("the removal never ends")
    await assert_gone(root, plan, resolved.uid)


async def assert_gone(root: User, plan: VectorPlan, uid: str) -> None:
    async def left() -> list[str]:
        databases = list((await root.ask("ListDatabases", milvus.ListDatabasesRequest())).db_names)
        names = list((await root.ask("ShowCollections", milvus.ShowCollectionsRequest())).collection_names)
        users = list((await root.ask("ListCredUsers", milvus.ListCredUsersRequest())).usernames)
        roles = [r.role.name for r in (await root.ask("SelectRole", milvus.SelectRoleRequest())).results]
        if plan.place.partition:
            request = milvus.ShowPartitionsRequest(collection_name=plan.place.collection)
            names += list((await root.ask("ShowPartitions", request)).partition_names)
        own = (vectors.own_name(uid), vectors.own_role(uid), *vectors.own_users(uid))
        return [name for name in (*databases, *names, *users, *roles) if name in own]

    await eventually(left, [], "leftovers")


async def make_foreign(root: User, name: str, description: str) -> None:
    fields = [
        schema.FieldSchema(name="id", is_primary_key=True, data_type=schema.DataType.Int64),
        schema.FieldSchema(
            name="vector",
            data_type=schema.DataType.FloatVector,
            type_params=[common.KeyValuePair(key="dim", value="4")],
        ),
    ]
    made = schema.CollectionSchema(name=name, description=description, fields=fields)
    request = milvus.CreateCollectionRequest(collection_name=name, schema=made.SerializeToString(), shards_num=1)
    await root.ask("CreateCollection", request)


async def test_foreign_collections_are_left_alone(backend: MilvusBackend, root: User) -> None:
    resolved = tenant("Partition", model=some_model())
    first = vectors.shared_prefix(resolved.region, resolved.vectors) + "1"
    await make_foreign(root, first, "somebody's")
    assert (await backend.place(resolved)).collection == first[:-1] + "2"

    pinned = vectors.shared_place(resolved, first)
    own = tenant("Collection")
    await make_foreign(root, vectors.own_name(own.uid), vectors.own_mark(own.uid))  # our mark, another shape
    own_place = vectors.settled(own)
    assert own_place is not None
    for plan in (planned(resolved, pinned), planned(own, own_place)):
        with pytest.raises(BackendError) as caught:
            await backend.ensure(plan)
        assert caught.value.reason is Reason.FOREIGN_OBJECT
        assert plan.place.collection in caught.value.message
        request = milvus.DescribeCollectionRequest(collection_name=plan.place.collection)
        assert len((await root.ask("DescribeCollection", request)).schema.fields) == 2
        await root.ask("DropCollection", milvus.DropCollectionRequest(collection_name=plan.place.collection))
