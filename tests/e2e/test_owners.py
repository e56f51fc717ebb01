"""What a tenant's owner may do in its namespaces, with real Pods, and what it may not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from dev.demo.kube import NETWORK_POLICY, POD, SERVICE, Json, Kube, Refused, wait
from tenantry import names
from tenantry.backends import kinds
from tests.e2e.world import World

RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
CALLS_ITS_RUNTIME = """
import json, os, urllib.request
request = urllib.request.Request(
    os.environ["BASE_URL"] + "/models", headers={"Authorization": "Bearer " + os.environ["API_KEY"]}
)
print([model["id"] for model in json.load(urllib.request.urlopen(request, timeout=30))["data"]])
"""


@pytest.fixture
def owner(world: World, one: str) -> Iterator[Kube]:
    made = world.kube.as_user(world.owner(one))
    yield made
    made.close()


def image(world: World) -> str:
    """One that the node has, with Python in it: the runtime's."""
    found = world.kube.get(kinds.DEPLOYMENT, "tenantry", "tenantry-system")
    assert found is not None
    env = found["spec"]["template"]["spec"]["containers"][0]["env"]
    return str(next(entry["value"] for entry in env if entry["name"] == "TENANTRY_RUNTIME_IMAGE"))


def template(world: World, code: str, restart: str, env: list[dict[str, Any]] | None = None) -> Json:
    return {
        "metadata": {"labels": {"app": "e2e"}},
        "spec": {
            "restartPolicy": restart,
            "containers": [
                {
                    "name": "app",
                    "image": image(world),
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["python", "-c", code],
                    "env": env or [],
                    "securityContext": RESTRICTED,
                    "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
                }
            ],
        },
    }


def key(name: str, of: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": "accesskey-default", "key": of}}}


def test_an_owners_workload_runs_and_calls_its_runtime_by_name(world: World, one: str, owner: Kube) -> None:
    """A Deployment becomes available; a Job finds its runtime by the base URL that the Secret names."""
    home = names.workload_namespace(one)
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "e2e", "namespace": home},
        "spec": {
            "selector": {"matchLabels": {"app": "e2e"}},
            "template": template(world, "import time; time.sleep(3600)", "Always"),
        },
    }
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "e2e", "namespace": home},
        "spec": {
            "backoffLimit": 3,
            "template": template(
                world, CALLS_ITS_RUNTIME, "OnFailure", [key("API_KEY", "api-key"), key("BASE_URL", "base-url")]
            ),
        },
    }
    job_kind = kinds.Kind("batch/v1", "Job", "jobs")
    owner.create(deployment)
    owner.create(job)
    try:
        wait(
            lambda: (owner.get(kinds.DEPLOYMENT, "e2e", home) or {}).get("status", {}).get("availableReplicas"),
            "the owner's Deployment is available",
            120,
        )
        wait(
            lambda: (owner.get(job_kind, "e2e", home) or {}).get("status", {}).get("succeeded"),
            "the owner's Job has called its runtime",
            120,
        )
        pod = owner.list(POD, home, "job-name=e2e")[0]["metadata"]["name"]
        assert "gpt-4o" in owner.logs(home, pod)
    finally:
        background = {"propagationPolicy": "Background"}
        owner.request("DELETE", job_kind.path(home, "e2e"), background)
        owner.request("DELETE", kinds.DEPLOYMENT.path(home, "e2e"), background)


def test_an_owner_leaves_what_is_the_operators(world: World, one: str, owner: Kube) -> None:
    home = names.workload_namespace(one)
    quota = owner.list(kinds.Kind("v1", "ResourceQuota", "resourcequotas"), home)[0]["metadata"]["name"]
    attempts: dict[str, Any] = {
        "its quota": lambda: owner.merge(
            kinds.Kind("v1", "ResourceQuota", "resourcequotas"), quota, {"spec": {"hard": {"pods": "999"}}}, home
        ),
        "its network policy": lambda: owner.delete(NETWORK_POLICY, "tenantry", home),
        "its own rights": lambda: owner.delete(
            kinds.Kind("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings"), "tenantry-owner", home
        ),
        "its namespace": lambda: owner.delete(kinds.NAMESPACE, home),
        "its namespace's labels": lambda: owner.merge(
            kinds.NAMESPACE, home, {"metadata": {"labels": {names.TENANT_LABEL: "other"}}}
        ),
        "its key's Secret": lambda: owner.merge(
            kinds.SECRET, "accesskey-default", {"stringData": {"api-key": "tk-mine"}}, home
        ),
        "its runtime's Secret": lambda: owner.secret(names.runtime_namespace(one), "runtime"),
        "its runtime's Pods": lambda: owner.list(POD, names.runtime_namespace(one)),
        "its own tier": lambda: owner.merge(kinds.TENANT, one, {"spec": {"tier": "enterprise"}}),
    }
    for what, run in attempts.items():
        with pytest.raises(Refused) as refused:
            run()
        assert refused.value.status == 403, f"{what}: {refused.value}"


def test_an_owner_has_no_rights_at_a_neighbours(world: World, one: str, two: str, owner: Kube) -> None:
    assert owner.secret(names.workload_namespace(one), "accesskey-default") is not None
    assert owner.list(POD, names.workload_namespace(one)) is not None
    for namespace in (names.workload_namespace(two), names.runtime_namespace(two)):
        with pytest.raises(Refused) as refused:
            owner.secret(namespace, "accesskey-default")
        assert refused.value.status == 403
        with pytest.raises(Refused):
            owner.list(POD, namespace)
    with pytest.raises(Refused):
        owner.list(kinds.NAMESPACE)


def policy(namespace: str, spec: Json) -> Json:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "e2e", "namespace": namespace},
        "spec": {"podSelector": {}, **spec},
    }


def service(namespace: str, spec: Json) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "e2e", "namespace": namespace},
        "spec": {"selector": {"app": "e2e"}, "ports": [{"port": 80}], **spec},
    }


def test_an_owner_opens_no_way_out(one: str, two: str, owner: Kube) -> None:
    """Within its tenant it may; each refusal has the same object, but for one field, accepted."""
    home = names.workload_namespace(one)
    own = {"namespaceSelector": {"matchLabels": {names.TENANT_LABEL: one}}}
    foreign = {"namespaceSelector": {"matchLabels": {names.TENANT_LABEL: two}}}
    owner.create(policy(home, {"policyTypes": ["Egress"], "egress": [{"to": [own]}]}), dry_run=True)
    owner.create(service(home, {}), dry_run=True)
    for refused in (
        policy(home, {"policyTypes": ["Egress"], "egress": [{"to": [foreign]}]}),
        policy(home, {"policyTypes": ["Egress"], "egress": [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}]}),
        policy(home, {"policyTypes": ["Egress"], "egress": [{}]}),
        service(home, {"type": "NodePort"}),
        service(home, {"type": "LoadBalancer"}),
        service(home, {"externalIPs": ["192.0.2.1"]}),
    ):
        with pytest.raises(Refused) as error:
            owner.create(refused, dry_run=True)
        assert error.value.status in (403, 422), str(error.value)
    assert owner.list(SERVICE, home) is not None
