"""Logins as runtimes and tenants' programs hold them, and whether the servers take them."""

import json
from typing import Any

import psycopg
from pymilvus import MilvusClient

from tests.integration.operator.world import GROUP, Json, World, until

ROTATE = "tenantry.dev/rotate"


def ask(world: World, tenant: str, value: str) -> None:
    world.patch(f"{GROUP}/tenants/{tenant}", {"metadata": {"annotations": {ROTATE: value}}})


def state(world: World, tenant: str) -> Json:
    return dict(world.seen(tenant).get("status", {}).get("credentials", {}))


def end_overlap(world: World, tenant: str) -> None:
    """As if its time had come; a reconcile under way may put the time back once."""

    def ended() -> bool:
        if not state(world, tenant).get("previousUntil"):
            return True
        past = {"previousUntil": "2026-01-01T00:00:00Z"}
        world.patch(f"{GROUP}/tenants/{tenant}/status", {"status": {"credentials": past}})
        return False

    until(ended, f"the rotation of {tenant} has ended", 90)


def held(world: World, tenant: str) -> Json:
    """What a Pod that starts now mounts."""
    secret = world.secret(f"runtime-{tenant}", "runtime")
    assert secret is not None
    return dict(json.loads(secret["credentials.json"]))


def connect(credentials: Json) -> psycopg.Connection[Any]:
    """As the runtime does."""
    told = credentials["postgres"]
    return psycopg.connect(
        host=told["host"], port=told["port"], dbname=told["database"], user=told["user"], password=told["password"],
        connect_timeout=20, autocommit=True,
    )  # fmt: skip


def accepted(credentials: Json) -> bool:
    try:
        connect(credentials).close()
    except psycopg.OperationalError as error:
        if "not permitted to log in" in str(error) or "password authentication failed" in str(error):
            return False
        raise
    return True


def vectors(credentials: Json) -> MilvusClient:
    told = credentials["milvus"]
    return MilvusClient(uri=told["uri"], user=told["user"], password=told["password"], db_name=told["database"])


def vectors_accepted(credentials: Json) -> bool:
    try:
        client = vectors(credentials)
    except Exception:
        return False
    try:
        client.describe_collection(credentials["milvus"]["collection"])
    except Exception:
        return False
    finally:
        client.close()
    return True


def users(world: World, one: str) -> set[str]:
    """Those of the same shared collection."""
    stem = one.rpartition("_")[0]
    with world.vectors() as client:
        return {name for name in client.list_users() if name.startswith(f"{stem}_")}
