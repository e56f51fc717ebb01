"""Our labels and our objects: nobody but the operator changes them; everybody's own objects are left alone."""

from typing import Any

import pytest

from tests.api import Api, Object, ok, path, refused
from tests.controlplane import poll
from tests.integration.admission.conftest import Cluster, TenantSpaces

POD_TEMPLATE: Object = {
    "metadata": {"labels": {"app": "x"}},
    "spec": {
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "x",
                "image": "example.org/x:1",
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }
        ],
    },
}
SELECTOR = {"matchLabels": {"app": "x"}}

WHOLE: dict[str, Object] = {
    "ResourceQuota": {"apiVersion": "v1", "kind": "ResourceQuota", "spec": {"hard": {"pods": "5"}}},
    "LimitRange": {
        "apiVersion": "v1",
        "kind": "LimitRange",
        "spec": {"limits": [{"type": "Container", "default": {"cpu": "1"}}]},
    },
    "Secret": {"apiVersion": "v1", "kind": "Secret", "stringData": {"api-key": "x"}},
    "ServiceAccount": {"apiVersion": "v1", "kind": "ServiceAccount"},
    "Service": {"apiVersion": "v1", "kind": "Service", "spec": {"selector": {"app": "x"}, "ports": [{"port": 80}]}},
    "Deployment": {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "spec": {"replicas": 0, "selector": SELECTOR, "template": POD_TEMPLATE},
    },
    "NetworkPolicy": {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "spec": {"podSelector": {}}},
    "PodDisruptionBudget": {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "spec": {"maxUnavailable": 1, "selector": SELECTOR},
    },
    "RoleBinding": {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
    },
}
"""The kinds that are wholly the operator's where they carry its marks."""

WITH_STATUS = ("ResourceQuota", "Service", "Deployment", "PodDisruptionBudget")
ACCESS_KEY: Object = {"apiVersion": "tenantry.dev/v1alpha1", "kind": "AccessKey"}
OURS = "is the Tenantry operator's; change Tenant"
LABELS = "metadata.labels: only the Tenantry operator sets, changes or removes tenantry.dev/* labels"
MANAGED = "only the Tenantry operator says app.kubernetes.io/managed-by: tenantry"
UID = "metadata.annotations: only the Tenantry operator sets, changes or removes tenantry.dev/tenant-uid"


def labelled(obj: Object, labels: dict[str, str | None]) -> Object:
    return {**obj, "metadata": {**obj["metadata"], "labels": labels}}


@pytest.mark.parametrize("kind", [*WHOLE, "AccessKey"])
def test_marks_can_not_be_forged(acme: TenantSpaces, kind: str) -> None:
    person = acme.cluster.person
    plain = acme.plain(WHOLE.get(kind, ACCESS_KEY))
    ok(person.create(plain))
    ok(person.create(labelled(plain, {"team": "a", "app.kubernetes.io/managed-by": "Helm"})))
    refused(person.create(labelled(plain, {"tenantry.dev/tenant": acme.tenant})), LABELS)
    refused(person.create(labelled(plain, {"tenantry.dev/role": "runtime"})), LABELS)
    refused(person.create(labelled(plain, {"app.kubernetes.io/managed-by": "tenantry"})), MANAGED)
    marked = {**plain, "metadata": {**plain["metadata"], "annotations": {"tenantry.dev/tenant-uid": acme.uid}}}
    refused(person.create(marked), UID)
    ok(acme.cluster.operator.create(labelled(plain, {"tenantry.dev/tenant": acme.tenant})))


@pytest.mark.parametrize("kind", WHOLE)
def test_our_objects_are_left_alone(acme: TenantSpaces, kind: str) -> None:
    person, operator, rescuer = acme.cluster.person, acme.cluster.operator, acme.cluster.rescuer
    ours = acme.ours(WHOLE[kind], f"ours-{kind.lower()}", acme.home)
    mine = acme.plain(WHOLE[kind], f"mine-{kind.lower()}")
    ok(operator.create(ours, dry=False))
    ok(person.create(mine, dry=False))
    patch = {"metadata": {"annotations": {"note": "x"}}}
    orphan = {"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "x"}]}}
    for change in (patch, orphan):
        refused(person.merge(ours, change), f"metadata.labels: this {kind} {OURS} {acme.tenant} instead")
    refused(person.merge(ours, {"metadata": {"labels": {"tenantry.dev/tenant": None}}}), LABELS)
    refused(person.delete(ours), f"this {kind} {OURS} {acme.tenant} instead")
    ok(person.merge(mine, patch))
    ok(person.delete(mine))
    refused(person.merge(mine, {"metadata": {"labels": {"tenantry.dev/tenant": acme.tenant}}}), LABELS)
    for allowed in (operator, rescuer):
        ok(allowed.merge(ours, patch))
        ok(allowed.delete(ours))


@pytest.mark.parametrize("kind", WITH_STATUS)
def test_status_is_no_back_door(acme: TenantSpaces, kind: str) -> None:
    mine = acme.plain(WHOLE[kind], f"status-{kind.lower()}")
    ok(acme.cluster.person.create(mine, dry=False))
    forged = {"metadata": {"labels": {"tenantry.dev/tenant": acme.tenant}}}
    harmless = ok(acme.cluster.person.merge(mine, {"metadata": {"labels": {"team": "a"}}}, "status"))
    answer = acme.cluster.person.merge(mine, forged, "status")
    if harmless["metadata"].get("labels"):
        refused(answer, LABELS)
    else:  # Of this kind the API server itself takes no labels through the status.
        assert "labels" not in ok(answer)["metadata"]


def namespace(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


@pytest.mark.parametrize("subresource", ["", "status"])
@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"tenantry.dev/tenant": "other"}, LABELS),
        ({"tenantry.dev/tenant": None}, LABELS),
        ({"tenantry.dev/external-services": "allowed"}, LABELS),
        ({"app.kubernetes.io/managed-by": "me"}, MANAGED),
        ({"pod-security.kubernetes.io/enforce": "privileged"}, "pod-security.kubernetes.io/* of a tenant's namespace"),
        ({"pod-security.kubernetes.io/enforce": None}, "pod-security.kubernetes.io/* of a tenant's namespace"),
    ],
)
def test_labels_of_a_tenants_namespace(
    acme: TenantSpaces, subresource: str, labels: dict[str, str | None], words: str
) -> None:
    home = namespace(acme.home)
    refused(acme.cluster.person.merge(home, {"metadata": {"labels": labels}}, subresource), words)
    ok(acme.cluster.person.merge(home, {"metadata": {"labels": {"team": "a"}}}, subresource))
    ok(acme.cluster.rescuer.merge(home, {"metadata": {"labels": labels}}, subresource))


def test_a_tenants_namespace_goes_with_the_tenant(acme: TenantSpaces) -> None:
    person = acme.cluster.person
    for name in (acme.home, acme.runtime):
        refused(
            person.delete(namespace(name)),
            f"metadata.name: this namespace belongs to Tenant {acme.tenant}; delete the Tenant",
        )
        now = ok(person.get(namespace(name)))
        emptied = {**now, "spec": {"finalizers": []}}
        refused(person.replace(emptied, "finalize"), "spec.finalizers: this namespace belongs to a Tenant")
        ok(acme.cluster.operator.delete(namespace(name)))
        ok(acme.cluster.rescuer.delete(namespace(name)))


def test_other_namespaces_are_nobodys_business(cluster: Cluster) -> None:
    other = namespace("somebody-elses")
    ok(cluster.person.create(other, dry=False))
    ok(cluster.person.merge(other, {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}}))
    refused(cluster.person.merge(other, {"metadata": {"labels": {"tenantry.dev/tenant": "acme"}}}, "status"), LABELS)
    refused(cluster.person.create(labelled(namespace("forged"), {"tenantry.dev/tenant": "acme"})), LABELS)
    ok(cluster.person.delete(other, dry=False))


def test_the_developer_keeps_the_access_keys(acme: TenantSpaces) -> None:
    person = acme.cluster.person
    default = acme.ours(ACCESS_KEY, "default", acme.home)
    ok(acme.cluster.operator.create(default, dry=False))
    ok(person.merge(default, {"metadata": {"annotations": {"tenantry.dev/rotate": "now"}}}))
    ok(person.merge(default, {"spec": {"user": "somebody"}}))
    ok(person.delete(default))
    refused(person.merge(default, {"metadata": {"labels": {"tenantry.dev/tenant": "other"}}}), LABELS)
    refused(person.merge(default, {"metadata": {"annotations": {"tenantry.dev/tenant-uid": None}}}), UID)


def test_access_keys_live_in_workload_namespaces(acme: TenantSpaces) -> None:
    person = acme.cluster.person
    ok(person.create(acme.plain(ACCESS_KEY, "app")))
    for namespace_ in ("default", acme.runtime):
        refused(
            person.create(acme.plain(ACCESS_KEY, "app", namespace_)),
            "metadata.namespace must be one of a tenant's workload namespaces",
        )


def test_a_protected_tenant_is_not_deleted(cluster: Cluster) -> None:
    tenant: Object = {
        "apiVersion": "tenantry.dev/v1alpha1",
        "kind": "Tenant",
        "metadata": {"name": "protected"},
        "spec": {"displayName": "Protected", "deletionProtection": True},
    }
    ok(cluster.person.create(tenant, dry=False))
    for user in (cluster.person, cluster.operator, cluster.rescuer):
        refused(user.delete(tenant), "spec.deletionProtection of Tenant protected is true; set it to false first")
    # All at once, as `kubectl delete tenants --all` does in one call of its own.
    refused(cluster.person.client.delete("/apis/tenantry.dev/v1alpha1/tenants"), "deletionProtection")
    assert cluster.person.get(tenant).status_code == 200
    ok(cluster.person.merge(tenant, {"metadata": {"finalizers": ["tenantry.dev/cleanup"]}}, dry=False))
    ok(cluster.person.merge(tenant, {"spec": {"deletionProtection": False}}, dry=False))
    ok(cluster.person.delete(tenant, dry=False))
    # The finalizer goes as always: the policy is about DELETE alone.
    ok(cluster.operator.merge(tenant, {"metadata": {"finalizers": None}}, dry=False))
    poll(lambda: cluster.person.get(tenant).status_code == 404, "the Tenant is gone")


def test_only_the_operator_says_where_a_tenants_data_lie(cluster: Cluster) -> None:
    def pins(value: str | None) -> Object:
        return {"metadata": {"annotations": {"tenantry.dev/pinned": value}}}

    tenant: Object = {
        "apiVersion": "tenantry.dev/v1alpha1",
        "kind": "Tenant",
        # As from a backup.
        "metadata": {"name": "pinned", "annotations": {"tenantry.dev/pinned": "here"}},
        "spec": {"displayName": "Pinned"},
    }
    ok(cluster.person.create(tenant, dry=False))
    refused(cluster.person.merge(tenant, pins("there")), "only the operator changes it")
    ok(cluster.person.merge(tenant, pins("here")))
    ok(cluster.person.merge(tenant, {"metadata": {"annotations": {"tenantry.dev/other": "x"}}}))
    ok(cluster.person.merge(tenant, pins(None)))
    ok(cluster.rescuer.merge(tenant, pins("there")))
    ok(cluster.operator.merge(tenant, pins("there"), dry=False))
    ok(cluster.person.delete(tenant, dry=False))


RUNTIME: list[dict[str, Any]] = [
    *(body for kind, body in WHOLE.items() if kind in ("Service", "Deployment", "NetworkPolicy", "RoleBinding")),
    {"apiVersion": "v1", "kind": "ServiceAccount"},
    {"apiVersion": "v1", "kind": "Pod", "spec": POD_TEMPLATE["spec"]},
    {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "rules": []},
    {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "spec": {"template": {**POD_TEMPLATE, "spec": {**POD_TEMPLATE["spec"], "restartPolicy": "Never"}}},
    },
]


@pytest.mark.parametrize("body", RUNTIME, ids=lambda body: str(body["kind"]))
def test_the_runtime_namespace_is_closed(acme: TenantSpaces, body: Object) -> None:
    there = acme.plain(body, "mine", acme.runtime)
    sentence = f"metadata.namespace: {acme.runtime} is the Tenantry operator's alone; change the Tenant instead"
    refused(acme.cluster.person.create(there), sentence)
    ok(acme.cluster.person.create(acme.plain(body, "mine", acme.home)))
    ok(acme.cluster.operator.create(there))
    ok(acme.cluster.rescuer.create(there))


def test_what_runs_there_can_not_be_scaled(acme: TenantSpaces) -> None:
    ours = acme.ours(WHOLE["Deployment"], "runtime", acme.runtime)
    ok(acme.cluster.operator.create(ours, dry=False))
    wanted = {"spec": {"replicas": 3}}
    refused(acme.cluster.person.merge(ours, wanted, "scale"), f"{acme.runtime} is the Tenantry operator's alone")
    ok(acme.cluster.operator.merge(ours, wanted, "scale"))


def test_deleting_a_whole_collection_spares_ours(acme: TenantSpaces) -> None:
    person = acme.cluster.person
    ours = acme.ours(WHOLE["NetworkPolicy"], "wall", acme.home)
    ok(acme.cluster.operator.create(ours, dry=False))
    refused(person.client.delete(path(ours), params={"dryRun": "All"}), f"this NetworkPolicy {OURS} {acme.tenant}")
    ok(person.get(ours))


def test_policies_pass_the_servers_type_check(cluster: Cluster, policies: list[Object]) -> None:
    """The API server checks each expression against the kinds' schemas and notes what can't be."""
    api = Api(cluster.plane.client())
    names = [p["metadata"]["name"] for p in policies if p["kind"] == "ValidatingAdmissionPolicy"]
    assert len(names) > 15
    for name in names:
        where = f"/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/{name}"

        def status(where: str = where) -> Any:
            return ok(api.client.get(where)).get("status", {})

        poll(lambda status=status: "typeChecking" in status(), f"the type check of {name}")  # type: ignore[misc]
        assert status()["typeChecking"] == {}, name
