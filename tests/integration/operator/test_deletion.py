"""The end of a Tenant, whatever is away, missing or changed meanwhile; and one of the same name after it."""

import json
import uuid

from pymilvus import MilvusClient

from dev.cluster import postgres
from tenantry import names
from tenantry_runtime.config import key_sha256
from tests import samples
from tests.integration.operator.restore import Marked, accepted, drop_retained
from tests.integration.operator.world import ADMIN_PASSWORD, GROUP, NAMESPACE, Json, World, region, until

LEVELS: dict[str, tuple[str, Json]] = {
    "again-free": ("free", {}),
    "again-own": ("enterprise", {}),
    "again-most": ("enterprise", {"database": {"isolation": "Database"}, "vectors": {"isolation": "Database"}}),
}
"""Tenants at the three levels of isolation: name -> tier and more of the spec."""


def clean(world: World, name: str, uid: str) -> None:
    """Nothing of the tenant is left anywhere, and its names are free."""
    assert not world.schemas(name)
    assert not world.roles(name)
    assert world.rows("SELECT count(*) FROM pg_database WHERE datname = %s", names.schema(name)) == [(0,)]
    assert [p for p in world.places(uid) if not p.startswith("shared_")] == []
    with world.vectors() as client:
        assert f"t_{names.bare(uid)}" not in client.list_databases()
    for namespace in (f"tenant-{name}", f"runtime-{name}"):
        assert world.get(f"/api/v1/namespaces/{namespace}") is None


def told(world: World, name: str) -> Json:
    """What the runtime logs in with."""
    found = world.secret(f"runtime-{name}", "runtime")
    assert found
    return dict(json.loads(found["credentials.json"]))


def milvus_accepts(world: World, login: Json) -> bool:
    """Whether Milvus knows this user and password; making a client alone does not ask it."""
    client = None
    try:
        client = MilvusClient(uri=world.milvus.uri, user=login["user"], password=login["password"])
        client.describe_collection(login["collection"])
    except Exception as error:
        # Who is known is told what is missing, such as a right or the collection.
        return "auth" not in str(error).lower()
    finally:
        if client:
            client.close()
    return True


def subjects(world: World, name: str) -> set[str]:
    bindings = world.get(f"/apis/rbac.authorization.k8s.io/v1/namespaces/tenant-{name}/rolebindings") or {}
    return {s["name"] for b in bindings["items"] for s in b.get("subjects", ())}


def test_the_same_name_starts_empty_and_refuses_what_was_its_predecessors(operator):
    world = operator
    owners = {"owners": [{"kind": "User", "name": "alice"}]}
    first = {name: world.tenant(name, tier, **spec, **owners) for name, (tier, spec) in LEVELS.items()}
    before: dict[str, Json] = {}
    for name in LEVELS:
        database = world.ready(name, 90)["status"]["database"].split("/")[0]
        world.rows(f"CREATE TABLE {names.schema(name)}.precious (x int)", database=database)
        assert "alice" in subjects(world, name)
        key, login, runtime = (
            world.secret(f"tenant-{name}", "accesskey-default"),
            world.secret(f"tenant-{name}", "postgres"),
            told(world, name),
        )
        assert key
        assert login
        assert accepted(login)
        assert milvus_accepts(world, runtime["milvus"])
        before[name] = {"key": key["api-key"], "login": login, "runtime": runtime}
    world.deleted(*LEVELS)
    for name, uid in first.items():
        clean(world, name, uid)
        assert not accepted(before[name]["login"])
    second = {name: world.tenant(name, tier, **spec) for name, (tier, spec) in LEVELS.items()}
    for name, uid in second.items():
        assert uid != first[name]
        database = world.ready(name, 90)["status"]["database"].split("/")[0]
        old = before[name]
        count = "SELECT count(*) FROM pg_class WHERE relname = 'precious'"
        assert world.rows(count, database=database) == [(0,)]
        hashes = f"SELECT key_sha256 FROM {names.runtime_schema(name)}.access_keys"
        assert key_sha256(old["key"]) not in {row[0] for row in world.rows(hashes, database=database)}
        new = world.secret(f"tenant-{name}", "postgres")
        assert new
        assert accepted(new)
        assert not accepted(old["login"])
        runtime = told(world, name)["postgres"]
        uri = f"postgresql://{runtime['user']}:{{}}@127.0.0.1:{world.postgres.port}/{database}"
        assert accepted({"uri": uri.format(runtime["password"])})
        assert not accepted({"uri": uri.format(old["runtime"]["postgres"]["password"])})
        assert milvus_accepts(world, told(world, name)["milvus"])
        if name != "again-free":  # that one's user is all runtimes', and never a tenant's
            login = old["runtime"]["milvus"]  # Milvus' proxies learn late who is gone
            until(lambda login=login: not milvus_accepts(world, login), "the user before is refused")  # type: ignore[misc]
        assert "alice" not in subjects(world, name)
        assert world.places(first[name]) == []
        assert world.places(uid) or name == "again-most"


def test_retain_locks_out_at_once_though_milvus_is_away_and_the_policy_may_change(operator):
    world = operator
    world.create(f"{GROUP}/dataregions", region(world, "apart", default=False))
    milvus = f"{GROUP}/dataregions/apart"
    try:
        uid = world.tenant("locked", "enterprise", region="apart", deletion={"policy": "Retain"})
        world.ready("locked")
        login = Marked(world, "locked", uid).write().login()
        assert accepted(login)
        runtime = told(world, "locked")["postgres"]
        uri = f"postgresql://{runtime['user']}:{runtime['password']}@127.0.0.1:{world.postgres.port}/tenantry"
        assert accepted({"uri": uri})
        world.patch(milvus, {"spec": {"milvus": {"uri": "http://127.0.0.1:1"}}})
        world.says("locked", "VectorsUnavailable", "VectorsReady")
        world.remove(f"{GROUP}/tenants/locked")
        until(lambda: not accepted(login), "the tenant's login is refused", 60)
        until(lambda: not accepted({"uri": uri}), "and the runtime's", 60)
        world.says("locked", "VectorsUnavailable")
        retained = f"retained_{names.bare(uid)}"
        until(lambda: world.rows("SELECT 1 FROM pg_namespace WHERE nspname = %s", retained), "the data is kept", 60)
        assert world.rows(f"SELECT x FROM {retained}.precious") == [(42,)]
        assert world.places(uid)
        # A person thinks better of it while it waits.
        world.change("locked", deletion={"policy": "Delete"})
        until(lambda: not world.rows("SELECT 1 FROM pg_namespace WHERE nspname = %s", retained), "it is removed", 60)
        assert "tenantry.dev/cleanup" in world.seen("locked")["metadata"]["finalizers"]
        world.patch(milvus, {"spec": {"milvus": {"uri": world.milvus.uri}}})
        until(lambda: world.get(f"{GROUP}/tenants/locked") is None, "it is gone", 90)
        clean(world, "locked", uid)
    finally:
        world.patch(milvus, {"spec": {"milvus": {"uri": world.milvus.uri}}})
        world.deleted("locked", seconds=120)
        world.remove(milvus)
        drop_retained(world, uid)


def test_what_is_missing_holds_nothing_up(operator):
    world = operator
    uid = world.tenant("holes", "enterprise")
    never = f"never-{uuid.uuid4().hex[:6]}"
    world.ready("holes")
    world.stop()
    world.rows("DROP SCHEMA tenant_holes CASCADE")
    world.rows("DROP SCHEMA tenant_holes__runtime CASCADE")
    world.rows("DROP OWNED BY tenant_holes CASCADE")
    world.rows("DROP ROLE tenant_holes")
    with world.vectors() as client:
        client.drop_collection(f"t_{names.bare(uid)}")
        client.drop_user(f"t_{names.short(uid)}_a")
    world.remove("/api/v1/namespaces/tenant-holes")
    world.patch("/api/v1/namespaces/runtime-holes", {"metadata": {"labels": {"tenantry.dev/tenant": None}}})
    world.remove(f"{GROUP}/tenants/holes")
    # One that no operator ever saw goes at once.
    world.tenant(never)
    world.remove(f"{GROUP}/tenants/{never}")
    assert world.get(f"{GROUP}/tenants/{never}") is None
    world.start()
    until(lambda: world.get(f"{GROUP}/tenants/holes") is None, "it is gone", 90)
    until(lambda: world.get("/api/v1/namespaces/tenant-holes") is None, "its namespace too", 60)
    clean(world, "holes", uid)


def test_a_region_whose_secret_and_database_are_gone(operator):
    """A Secret can be made again, so it is waited for; a database that was dropped took what was in it along."""
    world = operator
    secrets = f"/api/v1/namespaces/{NAMESPACE}/secrets"
    login = {"username": postgres.ADMIN, "password": ADMIN_PASSWORD}
    secret = {"metadata": {"name": "lost-postgres"}, "stringData": login}
    world.create(secrets, secret)
    world.rows(f"CREATE DATABASE lost OWNER {postgres.ADMIN}")
    place = region(world, "lost", default=False)
    place["spec"]["postgres"] |= {"database": "lost", "credentialsSecret": {"name": "lost-postgres"}}
    world.create(f"{GROUP}/dataregions", place)
    uids = {
        "lost-shared": world.tenant("lost-shared", region="lost"),
        "lost-own": world.tenant(
            "lost-own", "enterprise", region="lost", database={"isolation": "Database"}, deletion={"policy": "Retain"}
        ),
    }
    try:
        for name in uids:
            world.ready(name)
        world.rows("CREATE TABLE tenant_lost_own.precious AS SELECT 42 AS x", database="tenant_lost_own")
        world.stop()
        world.rows("DROP DATABASE lost WITH (FORCE)")
        world.remove(f"{secrets}/lost-postgres")
        for name in uids:
            world.remove(f"{GROUP}/tenants/{name}")
        world.start()
        for name in uids:
            message = world.says(name, "CredentialsMissing")
            assert "lost-postgres" in message
            assert "create it" in message
            assert world.roles(name)
        world.create(secrets, secret)
        for name, uid in uids.items():
            until(lambda n=name: world.get(f"{GROUP}/tenants/{n}") is None, f"{name} is gone", 90)  # type: ignore[misc]
            assert not world.roles(name)
            assert name == "lost-own" or not [p for p in world.places(uid) if not p.startswith("shared_")]
        retained = f"retained_{names.bare(uids['lost-own'])}"
        assert world.rows(f"SELECT x FROM {retained}.precious", database=retained) == [(42,)]
    finally:
        world.rows("DROP DATABASE IF EXISTS lost WITH (FORCE)")
        world.rows(f"DROP DATABASE IF EXISTS retained_{names.bare(uids['lost-own'])}")
        drop_retained(world, uids["lost-own"])
        world.remove(f"{GROUP}/dataregions/lost")
        world.remove(f"{secrets}/lost-postgres")


def test_a_tenant_deleted_while_it_is_made(operator):
    world = operator
    uids: dict[str, str] = {}
    for number in range(4):
        name = f"brief-{number}"
        made = world.create(
            f"{GROUP}/tenants",
            samples.manifest(name, "enterprise" if number % 2 else "pro", deletion={"policy": "Delete"}),
        )
        uids[name] = str(made["metadata"]["uid"])
        if number:  # the first one at once; the others at a later step each
            steps = ("NamespacesReady", "DatabaseReady", "VectorsReady")
            until(
                lambda n=name, k=steps[number - 1]: bool(  # type: ignore[misc]
                    {
                        "NamespacesReady": lambda: world.get(f"/api/v1/namespaces/runtime-{n}"),
                        "DatabaseReady": lambda: world.roles(n),
                        "VectorsReady": lambda: world.places(uids[n]),
                    }[k]()
                ),
                f"{name} is under way",
                60,
            )
        world.remove(f"{GROUP}/tenants/{name}")
    for name in uids:
        until(lambda n=name: world.get(f"{GROUP}/tenants/{n}") is None, f"{name} is gone", 120)  # type: ignore[misc]
    for name, uid in uids.items():
        clean(world, name, uid)
