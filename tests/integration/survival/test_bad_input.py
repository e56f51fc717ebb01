"""What a person does wrong: said in a condition, nothing lost, nothing taken over, nobody else held up."""

from __future__ import annotations

import base64
import json

import yaml

from dev.cluster import postgres
from tests import samples
from tests.controlplane import CRDS
from tests.integration.operator.world import ADMIN_PASSWORD, GROUP, MERGE, NAMESPACE, Json, World, region, until
from tests.integration.survival.faults import unforeseen

LONG_AGO = "2026-01-01T00:00:00Z"


def test_a_region_deleted_while_it_is_in_use(operator: World) -> None:
    world = operator
    place = region(world, "lent", default=False)
    world.create(f"{GROUP}/dataregions", place)
    for name in ("lodger", "leaver"):
        world.tenant(name, region="lent")
    for name in ("lodger", "leaver"):
        uid = str(world.ready(name)["metadata"]["uid"])
        world.rows(f"CREATE TABLE tenant_{name}.kept AS SELECT 42 AS x")
    places = world.places(uid)
    world.remove(f"{GROUP}/dataregions/lent")
    message = world.says("lodger", "UnknownRegion")
    assert "create it again" in message
    assert "Nothing is removed" in message
    assert world.condition("lodger", "Stalled")["status"] == "True"
    assert world.condition("lodger", "RuntimeReady")["status"] == "True", "it goes on with what it had"
    # A deletion waits: what is there can't be dealt with, and is not forgotten.
    world.remove(f"{GROUP}/tenants/leaver")
    assert "create it again" in world.says("leaver", "UnknownRegion")
    assert world.rows("SELECT x FROM tenant_leaver.kept") == [(42,)]
    assert world.places(uid) == places
    world.create(f"{GROUP}/dataregions", place)
    world.ready("lodger")
    assert world.rows("SELECT x FROM tenant_lodger.kept") == [(42,)]
    until(lambda: world.get(f"{GROUP}/tenants/leaver") is None, "the deletion goes on", 60)
    assert not world.schemas("leaver")
    world.deleted("lodger")
    world.remove(f"{GROUP}/dataregions/lent")


def test_regions_whose_credentials_or_addresses_are_garbled(operator: World) -> None:
    world = operator
    login = {"username": postgres.ADMIN.encode(), "password": ADMIN_PASSWORD.encode()}
    secrets = {
        "no-text": login | {"username": b"\xff\xfe"},
        "with-nul": login | {"password": b"a\x00b"},
        "two-lines": {"api-key": b"one\ntwo"},
        "a-line": {"api-key": b"the-key\n"},
    }
    for name, data in secrets.items():
        encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
        world.create(f"/api/v1/namespaces/{NAMESPACE}/secrets", {"metadata": {"name": name}, "data": encoded})
    usual = region(world, "")["spec"]
    changes: dict[str, Json] = {
        "no-text": {"postgres": usual["postgres"] | {"credentialsSecret": {"name": "no-text"}}},
        "with-nul": {"postgres": usual["postgres"] | {"credentialsSecret": {"name": "with-nul"}}},
        "two-lines": {"provider": usual["provider"] | {"credentialsSecret": {"name": "two-lines"}}},
        "a-line": {"provider": usual["provider"] | {"credentialsSecret": {"name": "a-line"}}},
        "no-address": {"milvus": usual["milvus"] | {"uri": "http://[::1"}},
        "no-port": {"milvus": usual["milvus"] | {"uri": "http://127.0.0.1:x"}},
    }
    for name, change in changes.items():
        world.create(f"{GROUP}/dataregions", region(world, name, default=False, **change))
        world.tenant(f"in-{name}", region=name)
    world.tenant("in-order")
    world.ready("in-order")
    for name in ("no-text", "with-nul", "two-lines"):
        message = world.says(f"in-{name}", "CredentialsMissing")
        assert f"Secret {NAMESPACE}/{name}" in message
    for name in ("no-address", "no-port"):
        assert str(changes[name]["milvus"]["uri"]) in world.says(f"in-{name}", "InvalidSpec")
    world.ready("in-a-line")
    held = world.secret("runtime-in-a-line", "runtime")
    assert held is not None
    assert json.loads(held["credentials.json"])["provider"]["api_key"] == "the-key"
    assert unforeseen(world.replicas[-1]) == []
    # A tenant whose data can't be dealt with stays; corrected, all goes on.
    for name in ("no-text", "with-nul", "two-lines"):
        right = login if name != "two-lines" else {"api-key": b"one"}
        encoded = {key: base64.b64encode(value).decode() for key, value in right.items()}
        world.patch(f"/api/v1/namespaces/{NAMESPACE}/secrets/{name}", {"data": encoded})
    for name in ("no-address", "no-port"):
        world.patch(f"{GROUP}/dataregions/{name}", {"spec": {"milvus": {"uri": usual["milvus"]["uri"]}}})
    world.deleted("in-order", *(f"in-{name}" for name in changes))
    for name in changes:
        world.remove(f"{GROUP}/dataregions/{name}")
    for name in secrets:
        world.remove(f"/api/v1/namespaces/{NAMESPACE}/secrets/{name}")


def test_roles_and_databases_that_we_did_not_make(operator: World) -> None:
    """Namespaces and schemas: test_tenants.py.  Milvus' names carry the Tenant's UID: nobody had them before."""
    world = operator
    world.rows("CREATE ROLE tenant_role_taken LOGIN")
    world.rows("CREATE ROLE tenant_slot_taken__runtime_a")
    world.rows("CREATE DATABASE tenant_base_taken")
    world.create("/api/v1/namespaces", {"metadata": {"name": "runtime-taken"}})
    try:
        world.tenant("role-taken")
        world.tenant("slot-taken")
        world.tenant("base-taken", database={"isolation": "Database"})
        world.tenant("taken")
        world.tenant("high", quota={"cpu": "1000"})
        for name, thing in (
            ("role-taken", "tenant_role_taken"),
            ("slot-taken", "tenant_slot_taken__runtime_a"),
            ("base-taken", "tenant_base_taken"),
            ("taken", "Namespace runtime-taken"),
        ):
            message = world.says(name, "ForeignObject")
            assert thing in message
            assert "give the Tenant another name" in message
            assert world.condition(name, "Stalled")["status"] == "True"
        assert "spec.quota.cpu" in world.says("high", "QuotaAboveCeiling")
        assert world.rows("SELECT rolcanlogin FROM pg_roles WHERE rolname = 'tenant_role_taken'") == [(True,)]
        assert not world.schemas("role-taken")
        found = world.get("/api/v1/namespaces/runtime-taken")
        assert found
        assert "tenantry.dev/tenant" not in found["metadata"].get("labels", {})
        world.deleted("role-taken", "slot-taken", "base-taken", "taken", "high")
        # What is not ours is still there when the tenants are gone.
        assert world.rows("SELECT 1 FROM pg_database WHERE datname = 'tenant_base_taken'")
        assert world.roles("role-taken") == {"tenant_role_taken"}
        assert world.get("/api/v1/namespaces/runtime-taken")
    finally:
        world.rows("DROP ROLE tenant_role_taken")
        world.rows("DROP ROLE tenant_slot_taken__runtime_a")
        world.rows("DROP DATABASE tenant_base_taken")
        world.remove("/api/v1/namespaces/runtime-taken")


def loosened(file: str) -> tuple[str, str]:
    """A CRD as it is, and one that takes anything."""
    good = (CRDS / file).read_text()
    loose = yaml.safe_load(good)
    for version in loose["spec"]["versions"]:
        version["schema"]["openAPIV3Schema"] = {
            "type": "object",
            "properties": {
                field: {"type": "object", "x-kubernetes-preserve-unknown-fields": True} for field in ("spec", "status")
            },
        }
    return good, yaml.safe_dump(loose)


def told(world: World, path: str) -> Json:
    """The Ready condition of an AccessKey."""
    found = world.get(path) or {}
    return next((c for c in found.get("status", {}).get("conditions", ()) if c["type"] == "Ready"), {})


def test_what_was_stored_before_the_schema_had_its_rules(operator: World) -> None:
    world = operator
    world.tenant("readable")
    world.ready("readable")
    tenants, keys = loosened("tenants.yaml"), loosened("accesskeys.yaml")
    odd = samples.manifest("odd", deletion={"policy": "Delete"}, ai={"temperature": "warm"})
    where = f"{GROUP}/namespaces/tenant-readable/accesskeys"
    key = {
        "apiVersion": "tenantry.dev/v1alpha1", "kind": "AccessKey", "metadata": {"name": "odd"},
        "spec": {"scopes": ["everything"]},
    }  # fmt: skip
    apply = ("apply", "--server-side", "--force-conflicts", "-f", "-")
    try:
        for _, loose in (tenants, keys):
            world.plane.kubectl(*apply, stdin=loose)
        for path, body in ((f"{GROUP}/tenants", odd), (where, key)):
            until(lambda p=path, b=body: world.api.post(p, json=b).status_code in (201, 409), "it is stored", 60)  # type: ignore[misc]
        message = world.says("odd", "InvalidSpec")
        assert "spec.ai.temperature" in message
        assert "apply it again" in message
        until(lambda: told(world, f"{where}/odd").get("reason") == "InvalidSpec", "the key has a condition", 60)
    finally:
        for good, _ in (tenants, keys):
            world.plane.kubectl(*apply, stdin=good)
    assert world.condition("odd", "Stalled")["status"] == "True"
    world.change("readable", displayName="Not Held Up")
    world.ready("readable")
    # The rules are back, and what they would refuse is still there: the condition can be written all the same.
    unknown = [
        {"type": "Ready", "status": "Unknown", "reason": "Pending", "message": "", "lastTransitionTime": LONG_AGO}
    ]
    until(lambda: world.api.patch(
        f"{where}/odd/status", json={"status": {"conditions": unknown}}, headers=MERGE,
    ).status_code == 200, "its condition is taken away", 60)  # fmt: skip
    world.patch(f"{where}/odd", {"metadata": {"annotations": {"seen": "again"}}})
    until(lambda: told(world, f"{where}/odd").get("reason") == "InvalidSpec", "the key has a condition again", 60)
    condition = told(world, f"{where}/odd")
    assert condition["status"] == "False"
    for words in ("spec.scopes", "is refused", "apply it again"):
        assert words in condition["message"]
    assert "everything" not in condition["message"]
    assert world.keys("readable") == {"default"}
    until(lambda: world.api.patch(
        f"{where}/odd", json={"spec": {"scopes": ["chat"]}}, headers=MERGE,
    ).status_code == 200, "it is corrected", 60)  # fmt: skip
    until(lambda: told(world, f"{where}/odd").get("status") == "True", "the key works", 60)
    assert world.keys("readable") == {"default", "odd"}
    until(lambda: world.api.patch(
        f"{GROUP}/tenants/odd", json={"spec": {"ai": {"temperature": 0.5}}}, headers=MERGE,
    ).status_code == 200, "it is corrected", 60)  # fmt: skip
    world.ready("odd")
    assert not unforeseen(world.replicas[-1]), unforeseen(world.replicas[-1])
