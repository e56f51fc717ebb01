"""With every policy in force, Kubernetes' own controllers do their work, for owners and for what the operator makes.

There is no node, so Pods stay Pending; what is looked at is what each controller writes.
"""

from typing import Any

import pytest

from tenantry.desired import kubernetes as builders
from tenantry.desired.options import Options
from tests import samples
from tests.api import PLURALS, Api, Object, ok
from tests.controlplane import poll
from tests.integration.admission.conftest import Cluster, TenantSpaces
from tests.integration.admission.test_guard import POD_TEMPLATE, SELECTOR


def listed(api: Api, version: str, plural: str, namespace: str, selector: str = "") -> list[Object]:
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    answer = api.client.get(f"{root}/namespaces/{namespace}/{plural}", params={"labelSelector": selector})
    found: list[Object] = ok(answer)["items"]
    return found


def field(api: Api, obj: Object, *path: str) -> Any:
    value: Any = ok(api.get(obj))
    for part in path:
        value = (value or {}).get(part)
    return value


@pytest.fixture(scope="module")
def home(cluster: Cluster) -> TenantSpaces:
    return cluster.tenant()


def test_deployment_disruption_budget_and_autoscaler(home: TenantSpaces) -> None:
    person = home.cluster.person
    web = home.plain(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "spec": {"replicas": 2, "selector": SELECTOR, "template": POD_TEMPLATE},
        },
        "web",
    )
    budget = home.plain(
        {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "spec": {"maxUnavailable": 1, "selector": SELECTOR}},
        "web",
    )
    ok(person.create(web, dry=False))
    ok(person.create(budget, dry=False))
    poll(lambda: len(listed(person, "apps/v1", "replicasets", home.home, "app=x")) == 1, "a ReplicaSet")
    poll(lambda: len(listed(person, "v1", "pods", home.home, "app=x")) == 2, "two Pods")
    poll(lambda: field(person, web, "status", "replicas") == 2, "the Deployment's status")
    poll(lambda: field(person, budget, "status", "expectedPods") == 2, "the PodDisruptionBudget's status")
    pods = listed(person, "v1", "pods", home.home, "app=x")
    assert {c["imagePullPolicy"] for pod in pods for c in pod["spec"]["containers"]} == {"Always"}
    # A new revision, and back: the Deployment's controller scales the old ReplicaSet down.
    ok(person.merge(web, {"spec": {"template": {"metadata": {"annotations": {"again": "1"}}}}}, dry=False))
    poll(lambda: len(listed(person, "apps/v1", "replicasets", home.home, "app=x")) == 2, "a second ReplicaSet")
    ok(person.delete(web, dry=False))
    poll(lambda: not listed(person, "v1", "pods", home.home, "app=x"), "the garbage collector took the Pods")


def test_a_forged_template_makes_no_pod(home: TenantSpaces) -> None:
    """The owner's Deployment is admitted; its Pods, made by a controller that is exempt, are not."""
    person = home.cluster.person
    labels = {"app": "forged", "tenantry.dev/tenant": "other"}
    template = {**POD_TEMPLATE, "metadata": {"labels": labels}}
    forged = home.plain(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "forged"}}, "template": template},
        },
        "forged",
    )
    ok(person.create(forged, dry=False))

    def said() -> bool:
        sets = listed(person, "apps/v1", "replicasets", home.home, "app=forged")
        conditions = [c for s in sets for c in s["status"].get("conditions", [])]
        return any("tenantry.dev/tenant of a Pod must be that of its namespace" in c["message"] for c in conditions)

    poll(said, "the ReplicaSet's condition says why")
    assert not listed(person, "v1", "pods", home.home, "app=forged")
    ok(person.delete(forged, dry=False))


def test_service_gets_its_endpoint_slice(home: TenantSpaces) -> None:
    person = home.cluster.person
    spec = {"selector": {"app": "x"}, "ports": [{"port": 80}]}
    web = home.plain({"apiVersion": "v1", "kind": "Service", "spec": spec}, "web")
    ok(person.create(web, dry=False))
    poll(
        lambda: bool(
            listed(person, "discovery.k8s.io/v1", "endpointslices", home.home, "kubernetes.io/service-name=web")
        ),
        "an EndpointSlice",
    )
    poll(lambda: bool(listed(person, "v1", "endpoints", home.home)), "an Endpoints object")
    ok(person.delete(web, dry=False))
    poll(lambda: not listed(person, "discovery.k8s.io/v1", "endpointslices", home.home), "the EndpointSlice is gone")


def test_job_makes_its_pod(home: TenantSpaces) -> None:
    person = home.cluster.person
    template = {"spec": {**POD_TEMPLATE["spec"], "restartPolicy": "Never"}}
    ok(
        person.create(
            home.plain({"apiVersion": "batch/v1", "kind": "Job", "spec": {"template": template}}, "once"), dry=False
        )
    )
    selector = "batch.kubernetes.io/job-name=once"
    poll(lambda: len(listed(person, "v1", "pods", home.home, selector)) == 1, "the Job's Pod")


def test_what_the_operator_makes_lives_and_goes(cluster: Cluster) -> None:
    """All objects of a tenant, made by the operator: admitted, worked on by their controllers, and gone with it."""
    operator, person = cluster.operator, cluster.person
    resolved = samples.resolved("builders", "pro", runtime={"replicas": {"min": 2}})
    options = Options(runtime_image="example.org/runtime:1")
    objects = builders.namespace_objects(resolved, options)
    for obj in objects:
        ok(operator.apply(obj))
    space = resolved.runtime_namespace
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": space}}
    poll(lambda: person.get(account).is_success, "the runtime's ServiceAccount")
    made = [*objects, *builders.runtime_objects(resolved, options, "0" * 64)]
    for obj in made[len(objects) :]:
        ok(operator.apply(obj))
    poll(lambda: len(listed(person, "v1", "pods", space)) == 2, "the runtime's Pods")
    poll(lambda: bool(listed(person, "discovery.k8s.io/v1", "endpointslices", space)), "the runtime's EndpointSlice")
    for obj in made:
        if obj["kind"] == "ResourceQuota":
            poll(lambda quota=obj: field(person, quota, "status", "used") is not None, "the quota is counted")  # type: ignore[misc]
        if obj["kind"] == "PodDisruptionBudget":
            poll(lambda budget=obj: field(person, budget, "status", "expectedPods") == 2, "the budget is watched")  # type: ignore[misc]
        # Applied again, nothing is refused: a steady operator.
        ok(operator.apply(obj))
    assert {o["kind"] for o in made} >= {"Namespace", "ResourceQuota", "NetworkPolicy", "RoleBinding", "Deployment"}
    assert {o["kind"] for o in made} <= set(PLURALS)

    for obj in reversed([o for o in made if o["kind"] == "Namespace"]):
        ok(operator.delete(obj, dry=False))
    for obj in made:
        if obj["kind"] == "Namespace":
            poll(lambda gone=obj: person.get(gone).status_code == 404, f"{obj['metadata']['name']} is gone")  # type: ignore[misc]


def test_an_owners_namespace_ends_with_all_that_is_in_it(cluster: Cluster) -> None:
    spaces = cluster.tenant()
    person = cluster.person
    bodies: dict[str, Object] = {
        "Deployment": {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "spec": {"replicas": 1, "selector": SELECTOR, "template": POD_TEMPLATE},
        },
        "Service": {"apiVersion": "v1", "kind": "Service", "spec": {"selector": {"app": "x"}, "ports": [{"port": 80}]}},
        "Secret": {"apiVersion": "v1", "kind": "Secret"},
        "AccessKey": {"apiVersion": "tenantry.dev/v1alpha1", "kind": "AccessKey"},
        "NetworkPolicy": {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "spec": {"podSelector": {}}},
    }
    for body in bodies.values():
        ok(person.create(spaces.plain(body), dry=False))
    for kind in ("Secret", "AccessKey", "NetworkPolicy"):
        ok(cluster.operator.create(spaces.ours(bodies[kind], "ours", spaces.home), dry=False))
    poll(lambda: bool(listed(person, "v1", "pods", spaces.home)), "a Pod")
    for name in (spaces.home, spaces.runtime):
        ok(cluster.operator.delete({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}, dry=False))
    for name in (spaces.home, spaces.runtime):
        space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        poll(lambda gone=space: person.get(gone).status_code == 404, f"{name} is gone")  # type: ignore[misc]
