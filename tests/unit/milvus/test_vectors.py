"""The plan for a tenant's vectors: names, rights, and the choice of a shared collection."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.api.tier import VectorIsolation
from tenantry.desired import vectors
from tenantry.desired.vectors import Place, choose_shared
from tenantry.resolve import VectorChoice
from tests.unit.milvus.make import MASTER, REGION_UID, region, tenant

UID = "3f8b2c1e-9d4a-4f6b-8c7d-0e1f2a3b4c5d"
BARE = UID.replace("-", "")
SHARED = "shared_embed_4_cosine_1"


def test_where_each_level_lies() -> None:
    assert vectors.settled(tenant("Database", uid=UID)) == Place("t_" + BARE, "t_" + BARE, None, BARE)
    assert vectors.settled(tenant("Collection", uid=UID)) == Place("default", "t_" + BARE, None, BARE)
    assert vectors.settled(tenant("Partition", uid=UID)) is None
    pinned = vectors.settled(tenant("Partition", uid=UID, collection=SHARED))
    assert pinned == Place("default", SHARED, "t_" + BARE, BARE)


@pytest.mark.parametrize("isolation", ["Collection", "Database"])
def test_a_tenant_with_a_user_of_its_own(isolation: VectorIsolation) -> None:
    resolved = tenant(isolation, uid=UID)
    place = vectors.settled(resolved)
    assert place is not None
    plan = vectors.plan(resolved, place, MASTER, REGION_UID)
    assert plan.login == (vectors.own_users(UID)[0], MASTER.milvus(UID))
    assert UID in plan.mark
    assert not plan.shared
    assert {g.target for g in plan.grants if g.scope == "Collection"} == {place.collection}
    assert {g.database for g in plan.grants} == {place.database}
    wide = {g.privilege for g in plan.grants if g.scope == "Global"}
    assert wide == {"DescribeCollection", *(["ShowCollections"] if isolation == "Database" else [])}


def test_tenants_of_a_shared_collection_share_its_user_and_cannot_list_partitions() -> None:
    plans = []
    for _ in range(2):
        resolved = tenant("Partition", collection=SHARED)
        plans.append(vectors.plan(resolved, vectors.shared_place(resolved, SHARED), MASTER, REGION_UID))
    assert plans[0].login == plans[1].login
    assert plans[0].place.partition != plans[1].place.partition
    assert {g.privilege for g in plans[0].grants} == {
        "Delete", "DescribeCollection", "Insert", "Query", "Search", "Upsert",
    }  # fmt: skip
    other = tenant("Partition", collection="shared_embed_4_cosine_2")
    elsewhere = vectors.plan(other, vectors.shared_place(other, other.collection), MASTER, REGION_UID)
    assert elsewhere.user != plans[0].user
    assert elsewhere.password != plans[0].password


@given(st.integers(0, 999_999_999))
def test_users_of_a_shared_collection_are_counted_by_their_names(number: int) -> None:
    assert [vectors.shared_user(SHARED, n).rpartition("_")[2] for n in (0, 1, 25, 26, 27)] == [
        "a",
        "b",
        "z",
        "ba",
        "bb",
    ]
    user = vectors.shared_user(SHARED, number)
    assert vectors.shared_user_number(SHARED, user) == number
    assert vectors.shared_user_number("shared_embed_4_cosine_2", user) is None
    for other in ("root", vectors.shared_role(SHARED), user + "1", vectors.shared_role(SHARED) + "_"):
        assert vectors.shared_user_number(SHARED, other) is None


def test_a_shared_users_password_is_its_own() -> None:
    resolved = tenant("Partition", collection=SHARED)
    place = vectors.shared_place(resolved, SHARED)
    plans = [
        vectors.plan(resolved, place, MASTER, REGION_UID, shared=vectors.SharedUsers(n, tuple(range(n))))
        for n in range(3)
    ]
    assert len({plan.password for plan in plans}) == 3
    assert len({plan.role for plan in plans}) == 1, "the rights are those of one role"
    assert plans[2].ended == (plans[0].user, plans[1].user)


def test_no_login_where_the_region_has_none() -> None:
    resolved = tenant("Collection", spec=region(secret=False, unauthenticated=True))
    place = vectors.settled(resolved)
    assert place is not None
    assert vectors.plan(resolved, place, MASTER, REGION_UID).login == ("", "")


def test_a_plan_shows_no_password() -> None:
    resolved = tenant("Collection")
    place = vectors.settled(resolved)
    assert place is not None
    plan = vectors.plan(resolved, place, MASTER, REGION_UID)
    assert plan.password not in repr(plan)


@given(
    st.uuids(),
    st.text(min_size=1, max_size=253),
    st.text(min_size=1, max_size=300),
    st.integers(2, 32768),
    st.sampled_from(["COSINE", "IP", "L2"]),
)
def test_names_fit_milvus(uid: uuid.UUID, region: str, model: str, dimension: int, metric: str) -> None:
    shared = vectors.shared_prefix(region, VectorChoice("Partition", model, dimension, metric)) + "123456789"
    for user in (*vectors.own_users(str(uid)), vectors.shared_user(shared, 999_999_999)):
        assert len(user) < 32
        assert user.replace("_", "a").isalnum()
    assert len(shared) <= 255
    assert shared.isascii()
    assert shared.replace("_", "a").isalnum()


def test_a_combination_knows_only_its_own_collections() -> None:
    choice = VectorChoice("Partition", "text-embedding-3-small", 1536, "COSINE")
    older, prefix = vectors.older_prefix(choice), vectors.shared_prefix("us", choice)
    assert older == "shared_text_embedding_3_small_1536_cosine_"
    assert prefix == older + "rpgw3fix44xdlu_", "names that are in use stay as they are"
    others = [vectors.shared_prefix("us", replace(choice, dimension=15)), vectors.shared_prefix("eu", choice)]
    for one, foreign in ((prefix, [older, *others]), (older, [prefix, *others])):
        assert vectors.shared_number(one, one + "12") == 12
        for end in ("", "x", "0", "01", "-1", "1_2"):
            assert vectors.shared_number(one, one + end) is None
        for other in foreign:
            assert vectors.shared_number(one, other + "1") is None


@pytest.mark.parametrize(
    ("taken", "number"),
    [
        ({}, 1),
        ({1: 0}, 1),
        ({1: 2}, 1),
        ({1: 3}, 2),
        ({1: 3, 2: 2}, 2),
        ({1: 2, 2: 2}, 1),
        ({1: 4}, 2),
        ({1: 3, 2: 5, 4: 3}, 5),
    ],
)
def test_the_first_shared_collection_with_room_is_chosen(taken: dict[int, int], number: int) -> None:
    assert choose_shared(taken, spread=3) == number
