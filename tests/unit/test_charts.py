"""The charts, as Helm renders them."""

import subprocess

import pytest

from tenantry import names
from tenantry.api import DataRegion, TenantTier
from tenantry.backends import kinds
from tenantry.desired import rbac
from tenantry.settings import Settings
from tests import samples
from tests.helm import CHARTS, HELM, REGION, TIERS, helm, helm_needed, loaded, one, render


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """The chart with nothing but what must be given."""
    return render("tenantry", {"region": REGION}, tmp_path_factory.mktemp("helm"))


@helm_needed
@pytest.mark.parametrize("chart", ["tenantry", "tenants"])
def test_helm_finds_nothing_to_say_against_a_chart(chart):
    done = subprocess.run(
        [str(HELM), "lint", "--strict", "--quiet", str(CHARTS / chart)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@helm_needed
def test_what_must_be_given_is_asked_for_by_name(tmp_path):
    for part, field in (("postgres", "host"), ("milvus", "uri"), ("provider", "baseUrl")):
        done = helm("tenantry", {"region": {k: v for k, v in REGION.items() if k != part}}, tmp_path)
        assert done.returncode != 0
        assert f"region.{part}.{field}: say " in done.stderr


@helm_needed
@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"operator": {"replica": 2}}, "/operator"),
        ({"metrics": {"monitor": "Pod"}}, "/metrics/monitor"),
        ({"region": {"postgres": {"hostname": "x"}}}, "/region/postgres"),
        ({"region": {"provider": {"models": [{"name": "m", "inputPerMillion": "0.0375"}]}}}, "inputPerMillion"),
        ({"tiers": {"Bad_Name": None}}, "Bad_Name"),
        ({"tires": {}}, "tires"),
    ],
)
def test_what_the_chart_does_not_know_is_refused(values, named, tmp_path):
    done = helm("tenantry", values, tmp_path)
    assert done.returncode != 0
    assert named in done.stderr


@helm_needed
def test_the_chart_makes_each_thing_once_and_all_of_its_own_kinds_are_valid(rendered):
    keys = [(o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) for o in rendered]
    assert len(set(keys)) == len(keys)
    own = [o for o in rendered if o["apiVersion"].startswith("tenantry.dev/")]
    assert {(o["kind"], o["metadata"]["name"]) for o in own} == {
        ("DataRegion", "main"),
        *(("TenantTier", name) for name in TIERS),
    }
    for obj in own:
        loaded(obj)


@helm_needed
def test_a_tenant_of_the_charts_tiers_and_region_resolves(rendered):
    made = {o["metadata"]["name"]: loaded(o) for o in rendered if o["apiVersion"].startswith("tenantry.dev/")}
    region = made.pop("main")
    assert isinstance(region, DataRegion)
    tiers = {name: tier for name, tier in made.items() if isinstance(tier, TenantTier)}
    for name in TIERS:
        samples.resolved("acme", name, in_region=region, tiers_by_name=tiers)


@helm_needed
def test_the_operator_is_restricted(rendered):
    made = one(rendered, "Deployment", "tenantry")
    template = made["spec"]["template"]
    assert template["metadata"]["labels"]["app.kubernetes.io/name"] == "tenantry"
    assert template["metadata"]["annotations"]["prometheus.io/port"] == "9090"
    pod = template["spec"]
    (container,) = pod["containers"]
    assert made["spec"]["replicas"] == 1
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"]["limits"]["memory"] == "256Mi"


@helm_needed
def test_the_operator_is_told_settings_that_it_has(rendered):
    (container,) = one(rendered, "Deployment", "tenantry")["spec"]["template"]["spec"]["containers"]
    known = {f"TENANTRY_{name.upper()}" for name in Settings.model_fields}
    told = {e["name"]: e.get("value") for e in container["env"]}
    assert set(told) <= known
    assert told["TENANTRY_RUNTIME_IMAGE"] == "tenantry-runtime:0.1.0"
    assert all(isinstance(e.get("value", ""), str) for e in container["env"])
    plain = {n.removeprefix("TENANTRY_").lower(): v for n, v in told.items() if v is not None}
    assert Settings(**plain).resync_seconds == 300


@helm_needed
def test_images_from_a_registry(tmp_path):
    values = {"region": REGION, "images": {"registry": "registry.example.com/team/", "operator": {"tag": "x1"}}}
    made = one(render("tenantry", values, tmp_path), "Deployment", "tenantry")
    (container,) = made["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example.com/team/tenantry-operator:x1"
    env = {e["name"]: e.get("value") for e in container["env"]}
    assert env["TENANTRY_RUNTIME_IMAGE"] == "registry.example.com/team/tenantry-runtime:0.1.0"


def rules(objects, kind, name):
    return one(objects, kind, name)["rules"]


@helm_needed
def test_no_role_has_a_wildcard_and_the_operator_no_secrets_of_the_cluster(rendered):
    for role in (o for o in rendered if o["kind"] in ("ClusterRole", "Role")):
        for rule in role["rules"]:
            assert "*" not in rule["apiGroups"] + rule["resources"] + rule["verbs"], role["metadata"]["name"]
    for binding in (o for o in rendered if o["kind"] == "ClusterRoleBinding"):
        for rule in rules(rendered, "ClusterRole", binding["roleRef"]["name"]):
            assert "secrets" not in rule["resources"]
            assert not {"escalate", "impersonate"} & set(rule["verbs"])
            if "bind" in rule["verbs"]:
                assert rule["resourceNames"] == [names.OWNER_ROLE, rbac.SECRETS_ROLE]


@helm_needed
def test_the_operator_may_do_what_it_does(rendered):
    held = rules(rendered, "ClusterRole", "tenantry-operator")

    def may(kind: kinds.Kind, *verbs: str) -> bool:
        return any(
            kind.group in rule["apiGroups"] and kind.plural in rule["resources"] and set(verbs) <= set(rule["verbs"])
            for rule in held
            if "resourceNames" not in rule
        )

    for kind in kinds.CHILDREN:
        assert may(kind, "get", "list", "watch", "create", "patch", "delete"), kind.plural
    for kind in kinds.OWN:
        assert may(kind, "get", "list", "watch"), kind.plural
    assert may(kinds.EVENT, "create")
    assert may(kinds.CRD, "get", "list", "watch")


@helm_needed
def test_the_operator_reads_only_its_own_and_the_regions_secrets(tmp_path):
    spec = {**samples.REGION, "postgres": {"host": "h", "credentialsSecret": {"name": "eu-pg"}}}
    values = {"region": REGION, "regions": {"eu": spec}, "operator": {"extraSecrets": ["more"]}}
    made = rules(render("tenantry", values, tmp_path), "Role", "tenantry-operator")
    reads = [r for r in made if r["resources"] == ["secrets"] and "get" in r["verbs"]]
    names = ["eu-pg", "more", "tenantry-milvus", "tenantry-postgres", "tenantry-provider"]
    assert [r["resourceNames"] for r in reads] == [["tenantry-master", *names]]


@helm_needed
def test_owners_may_not_touch_quotas_namespaces_or_daemonsets(rendered):
    held: dict[str, set[str]] = {}
    for rule in rules(rendered, "ClusterRole", names.OWNER_ROLE):
        for resource in rule["resources"]:
            held.setdefault(resource, set()).update(rule["verbs"])
    changes = {"create", "update", "patch", "delete", "deletecollection", "bind", "escalate", "impersonate"}
    for resource in ("resourcequotas", "limitranges", "namespaces", "endpoints", "endpointslices"):
        assert not held.get(resource, set()) & changes, resource
    assert not {"daemonsets", "clusterroles", "tenants", "nodes", "persistentvolumes"} & set(held)
    manage = {"get", "list", "watch", "create", "update", "patch", "delete"}
    for resource in (
        "deployments", "configmaps", "secrets", "services", "persistentvolumeclaims", "jobs", "ingresses",
        "horizontalpodautoscalers", "poddisruptionbudgets", "networkpolicies", "roles", "rolebindings", "accesskeys",
    ):  # fmt: skip
        assert manage <= held[resource], resource


@helm_needed
def test_monitors_are_made_where_the_cluster_has_the_kind(rendered, tmp_path):
    def told(objects):
        (container,) = one(objects, "Deployment", "tenantry")["spec"]["template"]["spec"]["containers"]
        return {e["name"]: e.get("value") for e in container["env"]}["TENANTRY_MONITOR"]

    assert told(rendered) == ""
    assert not [o for o in rendered if o["kind"] == "PodMonitor"]
    there = render("tenantry", {"region": REGION}, tmp_path, "--api-versions", "monitoring.coreos.com/v1/PodMonitor")
    assert told(there) == "PodMonitor"
    assert [o for o in there if o["kind"] == "PodMonitor"]
    groups = {g for r in rules(there, "ClusterRole", "tenantry-operator") for g in r["apiGroups"]}
    assert "monitoring.coreos.com" in groups


@helm_needed
def test_tiers_may_be_changed_added_and_taken_away(tmp_path):
    values = {
        "region": {**REGION, "create": False},
        "tiers": {"pro": None, "free": {"quota": {"pods": 3}}, "mini": samples.tier_manifest("free")["spec"]},
    }
    made = render("tenantry", values, tmp_path)
    tiers = {o["metadata"]["name"]: o["spec"] for o in made if o["kind"] == "TenantTier"}
    assert set(tiers) == {"free", "mini", "enterprise"}
    assert (tiers["free"]["quota"]["pods"], tiers["free"]["quota"]["cpu"]) == (3, "1")
    assert not [o for o in made if o["kind"] == "DataRegion"]


@helm_needed
def test_a_milvus_without_authentication(tmp_path):
    milvus = {"uri": "http://m.data.svc:19530", "credentialsSecret": None, "allowUnauthenticated": True}
    made = render("tenantry", {"region": {**REGION, "milvus": milvus}}, tmp_path)
    region = loaded(one(made, "DataRegion", "main"))
    assert isinstance(region, DataRegion)
    assert region.spec.milvus.credentials_secret is None
    names = next(r["resourceNames"] for r in rules(made, "Role", "tenantry-operator") if r["verbs"] == ["get"])
    assert "tenantry-milvus" not in names


@helm_needed
def test_the_tenants_chart(tmp_path):
    values = {
        "tenants": [
            {"name": "acme", "spec": {"displayName": "Acme"}},
            {"name": "globex", "labels": {"team": "north"}, "spec": {"displayName": "Globex", "tier": "pro"}},
        ]
    }
    acme, globex = render("tenants", values, tmp_path)
    assert loaded(acme).name == "acme"
    assert globex["metadata"]["labels"]["team"] == "north"
    assert "annotations" not in globex["metadata"]
    kept = render("tenants", {**values, "deleteWithRelease": False}, tmp_path)
    assert all(o["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"} for o in kept)


@helm_needed
@pytest.mark.parametrize(
    ("tenants", "named"),
    [
        ([{"name": "a--b", "spec": {"displayName": "x"}}], "/tenants/0/name"),
        ([{"name": "a" * 41, "spec": {"displayName": "x"}}], "/tenants/0/name"),
        ([{"name": "acme", "spec": {}}], "displayName"),
        ([{"name": "acme", "spec": {"displayName": "x", "teir": "pro"}}], "teir"),
        ([{"name": "acme", "spec": {"displayName": "x"}}] * 2, "acme is there twice"),
    ],
)
def test_bad_tenants_are_refused_before_they_are_sent(tenants, named, tmp_path):
    done = helm("tenants", {"tenants": tenants}, tmp_path)
    assert done.returncode != 0
    assert named in done.stderr
