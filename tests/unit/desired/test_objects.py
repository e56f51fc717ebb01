"""Namespaces, rights, the runtime's Deployment and its company."""

import json

import pytest

from tenantry import names
from tenantry.desired import kubernetes, rbac, scrape, workload
from tenantry.desired.meta import DIGEST_ANNOTATION, digested
from tenantry.desired.options import Options
from tenantry_runtime import draining
from tenantry_runtime.config import Provider
from tenantry_runtime.settings import Settings
from tests import samples

OPTIONS = Options("example/runtime:1", image_pull_policy="Always")
ALICE = {"kind": "User", "name": "alice@acme.example"}
ROBOT = {"kind": "ServiceAccount", "name": "ci", "namespace": "build"}


def everything(resolved, options=OPTIONS):
    return kubernetes.namespace_objects(resolved, options) + kubernetes.runtime_objects(resolved, options, "digest")


@pytest.mark.parametrize("tier", ["free", "pro", "enterprise"])
def test_every_object_says_whose_it_is(tier):
    tenant = samples.resolved("acme", tier, namespaces=[{"suffix": "dev"}], owners=[ALICE])
    for obj in everything(tenant, Options("r", monitor="PodMonitor")):
        meta = obj["metadata"]
        assert meta["labels"][names.TENANT_LABEL] == "acme"
        assert meta["labels"][names.MANAGED_BY_LABEL] == "tenantry"
        assert meta["annotations"][names.UID_ANNOTATION] == tenant.uid
        assert "ownerReferences" not in meta


def test_no_object_is_named_twice_and_all_are_json():
    made = everything(samples.resolved("acme", "enterprise", namespaces=[{"suffix": "dev"}]))
    keys = [(o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) for o in made]
    assert len(set(keys)) == len(keys)
    assert json.loads(json.dumps(made)) == made


def test_the_same_tenant_gives_the_same_objects():
    assert everything(samples.resolved("acme")) == everything(samples.resolved("acme"))


def test_namespaces_come_first_and_are_restricted():
    made = kubernetes.namespace_objects(samples.resolved("acme", namespaces=[{"suffix": "dev"}]), OPTIONS)
    spaces = [o for o in made if o["kind"] == "Namespace"]
    assert made[: len(spaces)] == spaces
    assert {o["metadata"]["name"]: o["metadata"]["labels"][names.ROLE_LABEL] for o in spaces} == {
        "tenant-acme": "workload",
        "tenant-acme--dev": "workload",
        "runtime-acme": "runtime",
    }
    for space in spaces:
        for mode in ("enforce", "audit", "warn"):
            assert space["metadata"]["labels"][f"pod-security.kubernetes.io/{mode}"] == "restricted"
            assert space["metadata"]["labels"][f"pod-security.kubernetes.io/{mode}-version"] == "latest"


@pytest.mark.parametrize(("tier", "said"), [("free", "refused"), ("enterprise", "allowed")])
def test_namespaces_tell_admission_what_the_tier_allows(tier, said):
    made = kubernetes.namespace_objects(samples.resolved("acme", tier), OPTIONS)
    labels = {o["metadata"]["name"]: o["metadata"]["labels"] for o in made if o["kind"] == "Namespace"}
    assert labels["tenant-acme"]["tenantry.dev/external-services"] == said
    assert labels["runtime-acme"]["tenantry.dev/external-services"] == "refused"


def test_the_longest_names_fit():
    tenant = samples.resolved("a" * 40, namespaces=[{"suffix": "b" * 14}])
    for obj in everything(tenant):
        assert len(obj["metadata"]["name"]) <= 63
        assert len(obj["metadata"].get("namespace", "")) <= 63
        assert all(len(value) <= 63 for value in obj["metadata"]["labels"].values())


def test_every_namespace_has_its_walls():
    tenant = samples.resolved("acme", namespaces=[{"suffix": "dev"}])
    made = everything(tenant)
    kinds = {
        space: {(o["kind"], o["metadata"]["name"]) for o in made if o["metadata"].get("namespace") == space}
        for space in ("tenant-acme", "tenant-acme--dev", "runtime-acme")
    }
    for held in kinds.values():
        assert ("NetworkPolicy", "tenantry") in held
        assert ("ResourceQuota", "tenantry") in held
        assert ("RoleBinding", "tenantry-secrets") in held
    assert kinds["tenant-acme"] == kinds["tenant-acme--dev"]


def test_owners_are_bound_in_workload_namespaces_only():
    made = rbac.owner_bindings(samples.resolved("acme", namespaces=[{"suffix": "dev"}], owners=[ALICE, ROBOT]))
    assert [o["metadata"]["namespace"] for o in made] == ["tenant-acme", "tenant-acme--dev"]
    for binding in made:
        assert binding["roleRef"]["name"] == "tenantry-owner"
        assert binding["subjects"] == [
            {**ALICE, "apiGroup": "rbac.authorization.k8s.io"},
            {"kind": "ServiceAccount", "name": "ci", "namespace": "build"},
        ]


def test_a_tenant_without_owners_still_has_the_binding():
    """So that it loses its subjects when the last owner goes."""
    (binding,) = rbac.owner_bindings(samples.resolved("acme"))
    assert "subjects" not in binding


def test_the_operator_may_write_secrets_in_each_of_the_tenants_namespaces():
    options = Options("r", operator_namespace="ops", operator_service_account="op")
    made = rbac.operator_bindings(samples.resolved("acme"), options)
    assert [o["metadata"]["namespace"] for o in made] == ["tenant-acme", "runtime-acme"]
    assert all(o["subjects"] == [{"kind": "ServiceAccount", "name": "op", "namespace": "ops"}] for o in made)


def pod(resolved, digest="digest"):
    return workload.deployment(resolved, OPTIONS, digest)["spec"]["template"]


def test_the_runtime_is_restricted_and_holds_no_token():
    spec = pod(samples.resolved("acme"))["spec"]
    assert spec["automountServiceAccountToken"] is False
    accounts = [o for o in everything(samples.resolved("acme")) if o["kind"] == "ServiceAccount"]
    assert [(a["metadata"]["name"], a["automountServiceAccountToken"]) for a in accounts] == [
        (spec["serviceAccountName"], False)
    ]
    assert spec["enableServiceLinks"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 65532
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert (container["image"], container["imagePullPolicy"]) == ("example/runtime:1", "Always")
    for side in ("requests", "limits"):
        assert set(container["resources"][side]) == {"cpu", "memory", "ephemeral-storage"}


def test_no_secret_is_in_the_pods_environment():
    (container,) = pod(samples.resolved("acme"))["spec"]["containers"]
    assert {e["name"] for e in container["env"]} == {"TENANTRY_CREDENTIALS", "TENANTRY_POD"}
    assert container["env"][0]["value"] == "/etc/tenantry/credentials.json"


def test_a_stream_under_way_may_end():
    spec = pod(samples.resolved("acme"))["spec"]
    told = Settings.model_fields
    runtime = draining.MOST_SECONDS + told["grace_seconds"].default + told["drain_seconds"].default
    assert spec["terminationGracePeriodSeconds"] > workload.PRE_STOP_SECONDS + runtime
    assert told["grace_seconds"].default > Provider.model_fields["timeout_seconds"].default


def test_new_credentials_roll_the_pods_and_the_same_do_not():
    tenant = samples.resolved("acme")
    assert pod(tenant, "one") == pod(tenant, "one")
    assert pod(tenant, "one") != pod(tenant, "two")


def test_what_a_person_changes_at_run_time_does_not_roll_the_pods():
    before = samples.resolved("acme", "pro")
    after = samples.resolved("acme", "pro", ai={"temperature": 0.1, "limits": {"tokensPerDay": 5}}, suspended=True)
    assert pod(before) == pod(after)


def test_the_selector_is_the_pods_labels_and_never_changes_with_the_tier():
    for tier in ("free", "enterprise"):
        made = workload.deployment(samples.resolved("acme", tier), OPTIONS, "d")
        selector = made["spec"]["selector"]["matchLabels"]
        assert selector == {"app.kubernetes.io/name": "tenantry-runtime", "tenantry.dev/tenant": "acme"}
        assert selector.items() <= made["spec"]["template"]["metadata"]["labels"].items()


def test_a_field_that_is_no_longer_wanted_shows_in_the_digest():
    region = samples.region(nodeSelector={"disk": "fast"})
    with_, without = samples.resolved(in_region=region), samples.resolved()
    assert pod(with_)["spec"]["nodeSelector"] == {"disk": "fast"}
    digests = {
        workload.deployment(t, OPTIONS, "d")["metadata"]["annotations"][DIGEST_ANNOTATION] for t in (with_, without)
    }
    assert len(digests) == 2


def test_digests_are_of_the_spec_alone():
    obj = {"metadata": {"annotations": {"a": "b"}}, "spec": {"x": 1}}
    assert digested(obj)["metadata"]["annotations"]["a"] == "b"
    assert digested(obj) != digested({**obj, "spec": {"x": 2}})


def test_replicas_spread_and_may_be_evicted_one_at_a_time():
    one, two = samples.resolved("acme"), samples.resolved("acme", runtime={"replicas": {"min": 2}})
    assert workload.disruption_budget(one) is None
    assert pod(one) == pod(two), "another number of replicas restarts none"
    budget = workload.disruption_budget(two)
    assert budget is not None
    assert budget["spec"]["maxUnavailable"] == 1
    assert len(pod(two)["spec"]["topologySpreadConstraints"]) == 2


def test_the_service_shows_the_api_and_no_metrics():
    made = workload.service(samples.resolved("acme"))
    assert made["spec"]["ports"] == [{"name": "http", "protocol": "TCP", "port": 8000, "targetPort": 8000}]
    assert made["spec"]["type"] == "ClusterIP"


def test_uploads_have_room_and_a_bound():
    for tier, megabytes in (("free", 10), ("enterprise", 200)):
        tenant = samples.resolved("acme", tier)
        assert workload.scratch_bytes(tenant) >= 4 * megabytes * 10**6
        (container,) = pod(tenant)["spec"]["containers"]
        assert workload.ephemeral_limit(tenant) > workload.scratch_bytes(tenant)
        assert container["volumeMounts"][1]["mountPath"] == "/tmp"


def test_prometheus_finds_the_pods_by_annotation():
    annotations = pod(samples.resolved("acme"))["metadata"]["annotations"]
    assert annotations["prometheus.io/scrape"] == "true"
    assert annotations["prometheus.io/port"] == "9090"


@pytest.mark.parametrize(("kind", "field"), [("PodMonitor", "podMetricsEndpoints"), ("ServiceMonitor", "endpoints")])
def test_monitors_where_they_are_wanted(kind, field):
    tenant = samples.resolved("acme")
    made = scrape.monitor(tenant, Options("r", monitor=kind))
    assert made is not None
    assert made["kind"] == kind
    assert made["spec"][field][0]["path"] == "/metrics"
    labels = made["spec"]["selector"]["matchLabels"].items()
    target = pod(tenant)["metadata"] if kind == "PodMonitor" else workload.service(tenant)["metadata"]
    assert labels <= target["labels"].items()
    assert scrape.monitor(tenant, OPTIONS) is None
