"""The installed operator: what it does when it is ended, and when others change what is its own."""

from __future__ import annotations

import httpx

from dev.demo.kube import POD, QUOTA, SERVICE, running, wait
from tenantry import names
from tenantry.backends import kinds
from tests.e2e.world import World

NAMESPACE = "tenantry-system"
SELECTOR = "app.kubernetes.io/name=tenantry"


def operators(world: World) -> set[str]:
    return {p["metadata"]["name"] for p in world.kube.list(POD, NAMESPACE, SELECTOR) if running(p)}


def test_a_restarted_operator_converges(world: World, one: str) -> None:
    """What is changed while no operator runs holds once one does, and what was lost is made again."""
    before = wait(lambda: operators(world) or None, "an operator runs")
    emergency = world.kube.as_user("breaker", ("tenantry:break-glass", "system:masters"))
    for pod in before:
        world.kube.delete(POD, pod, NAMESPACE)
    world.kube.merge(kinds.TENANT, one, {"spec": {"quota": {"pods": 7}}})
    emergency.delete(SERVICE, "runtime", names.runtime_namespace(one))

    wait(lambda: operators(world) - before, "another operator runs", 120)
    world.ready(one)
    wait(
        lambda: world.kube.get(SERVICE, "runtime", names.runtime_namespace(one)),
        "the Service that was deleted is back",
        90,
    )

    def pods() -> bool:
        hard = [q["spec"]["hard"].get("pods") for q in world.kube.list(QUOTA, names.workload_namespace(one))]
        return "7" in hard

    wait(pods, "the quota as it was changed", 90)
    wait(lambda: world.works(one, world.key(one)), "the runtime is reached through its Service", 60)
    emergency.close()


def test_what_drifts_is_put_back(world: World, two: str) -> None:
    emergency = world.kube.as_user("breaker", ("tenantry:break-glass", "system:masters"))
    namespace = names.workload_namespace(two)
    policy = "tenantry"
    kind = next(k for k in kinds.CHILDREN if k.kind == "NetworkPolicy")
    asked = world.kube.get(kind, policy, namespace)
    assert asked is not None
    emergency.delete(kind, policy, namespace)
    wait(lambda: world.kube.get(kind, policy, namespace), "the NetworkPolicy is back", 60)
    emergency.merge(kind, policy, {"spec": {"ingress": [{}]}}, namespace)
    wait(
        lambda: (world.kube.get(kind, policy, namespace) or {}).get("spec") == asked["spec"],
        "what was added to it is gone",
        60,
    )
    emergency.close()
    world.ready(two)


def test_a_steady_tenant_is_not_written(world: World, one: str) -> None:
    """A reconcile that has nothing to do writes nothing."""
    world.ready(one)
    region = world.region(one)["metadata"]["name"]

    def versions() -> dict[str, str]:
        found = {"conditions": str(world.tenant(one)["status"]["conditions"])}
        for kind in kinds.CHILDREN:
            if kind.kind in ("Deployment", "Namespace", "ResourceQuota", "PodDisruptionBudget"):
                continue  # Kubernetes' own controllers write their status
            for namespace in (names.workload_namespace(one), names.runtime_namespace(one)):
                for obj in world.kube.list(kind, namespace):
                    found[f"{kind.kind} {namespace}/{obj['metadata']['name']}"] = obj["metadata"]["resourceVersion"]
        return found

    def reconciles() -> float:
        return sum(
            float(line.split()[-1])
            for pod in operators(world)
            for line in httpx.get(
                world.target.pod(NAMESPACE, pod, 9090) + "/metrics", timeout=20, trust_env=False
            ).text.splitlines()
            if line.startswith("tenantry_reconcile_total")
        )

    before, count = versions(), reconciles()
    assert any(what.startswith("NetworkPolicy") for what in before)
    # A change of the region has each of its tenants looked at anew.
    world.kube.merge(kinds.REGION, region, {"metadata": {"labels": {"e2e": world.prefix}}})
    wait(lambda: reconciles() >= count + len(world.tenants), "every tenant was looked at again", 120)
    world.kube.merge(kinds.REGION, region, {"metadata": {"labels": {"e2e": None}}})
    assert versions() == before
