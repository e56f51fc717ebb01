"""A Tenant becomes everything it should, and changes as it is told."""

from __future__ import annotations

import httpx

from dev.demo.kube import QUOTA, Json, condition, wait
from tenantry import names
from tenantry.backends import kinds
from tests.e2e.world import World, columns

SUBSYSTEMS = ("Compliant", "NamespacesReady", "DatabaseReady", "VectorsReady", "RuntimeReady")


def test_a_tenant_becomes_ready_and_says_what_it_has(world: World, one: str) -> None:
    seen = world.tenant(one)
    for type_ in ("Ready", *SUBSYSTEMS):
        found = condition(seen, type_)
        assert found["status"] == "True", found
        assert found["observedGeneration"] == seen["metadata"]["generation"]
    assert condition(seen, "Stalled")["status"] == "False"
    assert condition(seen, "Reconciling")["status"] == "False"

    status = seen["status"]
    assert status["endpoint"] == names.endpoint(one)
    assert status["namespaces"] == [names.workload_namespace(one), names.runtime_namespace(one)]
    assert names.schema(one) in status["database"]
    assert status["pinned"]["collection"] in status["vectors"]
    assert f"{names.workload_namespace(one)}/accesskey-default" in status["secrets"]
    for namespace in status["namespaces"]:
        assert world.kube.get(kinds.NAMESPACE, namespace) is not None
    for place in status["secrets"]:
        namespace, name = place.split("/")
        assert world.kube.secret(namespace, name), f"the status names {place}"


def test_kubectl_prints_what_matters(world: World, one: str) -> None:
    table = world.target.kubectl("get", "tn", one)
    assert columns(table) == ["NAME", "TIER", "REGION", "READY", "REASON", "SPEND", "ENDPOINT", "AGE"]
    assert names.endpoint(one) in table
    assert "True" in table
    assert "ceiling" in world.target.kubectl("explain", "tenant.spec.quota").lower()


def test_a_shared_collection_holds_two_tenants_and_the_other_levels_their_own(
    world: World, one: str, two: str, three: str, four: str
) -> None:
    at = {name: world.tenant(name)["status"]["pinned"] for name in (one, two, three, four)}
    assert [at[name]["vectorIsolation"] for name in (one, two, three, four)] == [
        "Partition", "Partition", "Collection", "Database",
    ]  # fmt: skip
    assert at[one]["collection"] == at[two]["collection"]
    assert len({at[name]["collection"] for name in (one, three, four)}) == 3


def test_a_change_of_tier_keeps_the_level_and_says_so(world: World) -> None:
    name = world.name("grow")
    world.ready(name)
    before = world.tenant(name)
    small = quota(world, name)
    world.apply(name, "enterprise")
    ready = world.until(name, "Ready", "True")
    assert "vectors stay at level Partition" in ready["message"]
    after = world.tenant(name)
    assert after["status"]["pinned"] == before["status"]["pinned"]
    assert after["status"]["tier"] == "enterprise"
    assert small["requests.cpu"] == "1"
    assert quota(world, name)["requests.cpu"] == "32"

    def models() -> set[str]:
        answer = httpx.get(
            f"{world.runtime(name)}/models", headers={"Authorization": f"Bearer {world.key(name)}"}, trust_env=False
        )
        return {model["id"] for model in answer.json().get("data", [])}

    wait(lambda: "gpt-4o" in models(), "the runtime offers the new tier's model")


def test_suspended_and_back(world: World, two: str) -> None:
    del two  # the world is settled
    name = world.name("grow")
    world.ready(name)
    key = world.key(name)
    assert world.works(name, key)
    tier = world.tenant(name)["spec"]["tier"]
    world.apply(name, tier, suspended=True)
    assert world.until(name, "Ready", "True", "Suspended")
    wait(lambda: world.status(world.runtime(name), key) == 403, "the runtime of a suspended tenant refuses with 403")
    world.apply(name, tier)
    assert world.until(name, "Ready", "True", "Ready")
    wait(lambda: world.works(name, key), "the runtime serves again")


def test_an_unknown_tier_stalls_and_heals(world: World) -> None:
    name, tier = world.name("stall"), world.name("later")
    stalled = world.until(name, "Stalled", "True", "UnknownTier")
    assert tier in stalled["message"]
    assert condition(world.tenant(name))["status"] == "False"
    assert world.kube.get(kinds.NAMESPACE, names.workload_namespace(name)) is None
    assert ("Warning", "UnknownTier") in wait(lambda: events(world, name) or None, "an event about it")
    world.tier("later", like="free")
    world.ready(name)
    assert condition(world.tenant(name), "Stalled")["status"] == "False"
    wait(lambda: ("Normal", "Ready") in events(world, name), "an event about its being Ready")


def quota(world: World, tenant: str) -> Json:
    """The hard limits of a tenant's one workload namespace."""
    hard: Json = {}
    for found in world.kube.list(QUOTA, names.workload_namespace(tenant)):
        hard |= found["spec"]["hard"]
    return hard


def events(world: World, tenant: str) -> set[tuple[str, str]]:
    """Type and reason of the events about a Tenant."""
    found = world.kube.list(kinds.EVENT, "default")
    return {
        (event["type"], event["reason"])
        for event in found
        if event["involvedObject"].get("kind") == "Tenant" and event["involvedObject"].get("name") == tenant
    }
