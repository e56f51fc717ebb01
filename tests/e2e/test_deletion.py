"""The end of a Tenant: what goes, what stays, and that a new one of the same name is a new one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from dev.demo import ask, walls
from dev.demo.kube import Refused, wait
from dev.demo.story import ACTORS
from tenantry import names
from tenantry.backends import kinds
from tests.e2e.world import World

STORY = ACTORS[0]


@pytest.fixture(scope="module")
def postgres(world: World, one: str) -> Iterator[psycopg.Connection[Any]]:
    """The region's PostgreSQL as its admin sees it."""
    spec = world.region(one)["spec"]["postgres"]
    login = world.kube.secret("tenantry-system", spec["credentialsSecret"]["name"])
    assert login is not None
    with psycopg.connect(
        host=spec["host"],
        port=spec["port"],
        dbname=spec["database"],
        user=login["username"],
        password=login["password"],
        connect_timeout=10,
        autocommit=True,
    ) as connection:
        yield connection


def schemas(postgres: psycopg.Connection[Any], like: str) -> set[str]:
    rows = postgres.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE %s", [f"%{like}%"]).fetchall()
    return {row[0] for row in rows}


def roles(postgres: psycopg.Connection[Any], tenant: str) -> set[str]:
    stem = names.schema(tenant)
    rows = postgres.execute("SELECT rolname FROM pg_roles").fetchall()
    return {row[0] for row in rows if row[0] == stem or row[0].startswith(f"{stem}__")}


def fill(world: World, tenant: str) -> str:
    """A document and a row in the tenant's own schema; its key."""
    key = world.key(tenant)
    ask.upload(ask.client(world.runtime(tenant), key), STORY)
    secret = world.kube.secret(names.workload_namespace(tenant), "postgres")
    assert secret is not None
    walls.note(secret, STORY.fact)
    return key


def test_retain_keeps_the_data_and_delete_does_not(world: World, postgres: psycopg.Connection[Any]) -> None:
    keep, drop = world.name("keep"), world.name("drop")
    world.ready(keep, drop)
    old = {name: fill(world, name) for name in (keep, drop)}
    bare = {name: names.bare(world.tenant(name)["metadata"]["uid"]) for name in (keep, drop)}
    assert schemas(postgres, names.schema(drop)) == {names.schema(drop), names.runtime_schema(drop)}

    for name in (keep, drop):
        world.kube.delete(kinds.TENANT, name)
    world.gone(keep, drop)

    assert schemas(postgres, bare[keep]) == {f"retained_{bare[keep]}", f"retained_{bare[keep]}__runtime"}
    assert not schemas(postgres, bare[drop])
    for name in (keep, drop):
        assert not schemas(postgres, names.schema(name))
        assert not roles(postgres, name)

    # Made again under the same names: new tenants, which find nothing of the old.
    for name in (keep, drop):
        world.apply(name, world.name("wide"))
    world.ready(keep, drop)
    for name in (keep, drop):
        assert bare[name] != names.bare(world.tenant(name)["metadata"]["uid"])
        key = world.key(name)
        assert key != old[name]
        wait(lambda n=name, k=key: world.works(n, k), "the new key works")  # type: ignore[misc]
        assert world.refused(name, old[name]), "the old key is refused"
        ai = ask.client(world.runtime(name), key)
        assert not list(ai.files.list())
        assert not list(ai.vector_stores.list())
        answered = ask.ask(ai, STORY.question, STORY.model, ask.prices(world.region(name)))
        assert STORY.fact not in answered.text
        secret = world.kube.secret(names.workload_namespace(name), "postgres")
        assert secret is not None
        with walls.login(secret) as own, pytest.raises(psycopg.errors.UndefinedTable):
            own.execute(f"SELECT * FROM {walls.NOTE}")  # type: ignore[call-overload]
    assert schemas(postgres, bare[keep]), "what was retained is still there"
    for suffix in ("", "__runtime"):
        postgres.execute(f'DROP SCHEMA "retained_{bare[keep]}{suffix}" CASCADE')  # type: ignore[call-overload]


def test_a_protected_tenant_is_not_deleted(world: World, four: str) -> None:
    world.kube.merge(kinds.TENANT, four, {"spec": {"deletionProtection": True}})
    with pytest.raises(Refused) as refused:
        world.kube.delete(kinds.TENANT, four)
    assert "spec.deletionProtection" in str(refused.value)
    assert "deletionTimestamp" not in world.tenant(four)["metadata"]
    world.kube.merge(kinds.TENANT, four, {"spec": {"deletionProtection": False}})


def test_a_tenants_namespace_is_not_deleted_by_itself(world: World, four: str) -> None:
    with pytest.raises(Refused) as refused:
        world.kube.delete(kinds.NAMESPACE, names.workload_namespace(four))
    assert four in str(refused.value)
