"""A control plane with the chart's admission policies in force, and users that are not exempt."""

import shutil
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.api import Api, Object, ok
from tests.controlplane import KUBE, ROOT, ControlPlane, poll

CHART = ROOT / "charts" / "tenantry"
NAMESPACE = "tenantry-system"
OPERATOR = f"system:serviceaccount:{NAMESPACE}:tenantry"
BREAK_GLASS = "tenantry:break-glass"
CANARY = "tenantry-canary"


@dataclass(frozen=True)
class Cluster:
    """The control plane and who acts on it.  RBAC lets each of them do everything: what refuses is admission."""

    plane: ControlPlane
    operator: Api
    person: Api
    """Nobody special: stands for an owner with more rights than any owner has, and for a platform engineer."""
    rescuer: Api
    """The same person in the break-glass group."""

    def tenant(self, *, external: bool = False) -> "TenantSpaces":
        """The namespaces of a new tenant, as the operator makes them, ready for Pods."""
        tenant = f"t-{uuid.uuid4().hex[:8]}"
        spaces = TenantSpaces(tenant, str(uuid.uuid4()), self)
        for name, role in ((spaces.home, "workload"), (spaces.runtime, "runtime")):
            labels = {"tenantry.dev/role": role, "pod-security.kubernetes.io/enforce": "restricted"}
            if external:
                labels["tenantry.dev/external-services"] = "allowed"
            ok(
                self.operator.create(
                    spaces.ours({"apiVersion": "v1", "kind": "Namespace"}, name, "", labels), dry=False
                )
            )
            account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}}
            poll(lambda wanted=account: self.person.get(wanted).is_success, f"ServiceAccount default in {name}")  # type: ignore[misc]
        return spaces


@dataclass(frozen=True)
class TenantSpaces:
    """One tenant's namespaces."""

    tenant: str
    uid: str
    cluster: Cluster

    @property
    def home(self) -> str:
        return f"tenant-{self.tenant}"

    @property
    def runtime(self) -> str:
        return f"runtime-{self.tenant}"

    def ours(self, body: Object, name: str, namespace: str, labels: dict[str, str] | None = None) -> Object:
        """An object with the operator's marks."""
        meta = {
            "name": name,
            "labels": {
                "tenantry.dev/tenant": self.tenant,
                "app.kubernetes.io/managed-by": "tenantry",
                **(labels or {}),
            },
            "annotations": {"tenantry.dev/tenant-uid": self.uid},
        }
        return {**body, "metadata": {**meta, **({"namespace": namespace} if namespace else {})}}

    def plain(self, body: Object, name: str = "mine", namespace: str = "") -> Object:
        """An object of the tenant's own, in its first namespace unless told otherwise."""
        return {**body, "metadata": {"name": name, "namespace": namespace or self.home}}


@pytest.fixture(scope="session")
def policies(tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    """The chart's admission policies with the chart's own values."""
    return render(copy_of_the_chart(tmp_path_factory.mktemp("chart")))


def copy_of_the_chart(folder: Path) -> Path:
    """The chart without all but its admission policies, for they need no values."""
    shutil.copytree(CHART / "templates" / "admission", folder / "templates" / "admission")
    for part in ("Chart.yaml", "values.yaml", "templates/_helpers.tpl"):
        shutil.copy(CHART / part, folder / part)
    return folder


def render(chart: Path, *options: str) -> list[Object]:
    found = subprocess.run(
        [KUBE, "helm", "template", "tenantry", str(chart), "--namespace", NAMESPACE, *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"HOME": str(chart), "PATH": "/usr/bin:/bin"},
    )
    assert found.returncode == 0, found.stderr
    return [document for document in yaml.safe_load_all(found.stdout) if document]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, policies: list[Object]) -> Iterator[Cluster]:
    with ControlPlane(tmp_path_factory.mktemp("admission"), controllers=True) as plane:
        plane.install_crds()
        everyone = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "everyone"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [
                {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user} for user in (OPERATOR, "dana")
            ],
        }
        ok(Api(plane.client()).create(everyone, dry=False))
        plane.kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(policies))
        person = Api(plane.client("dana"))
        # What is applied last is in force last: its own refusal says that all others are in force too.
        plane.kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(canaries()))
        poll(lambda: _canaries_sing(person), "the admission policies are in force")
        yield Cluster(
            plane,
            operator=Api(plane.client(OPERATOR)),
            person=person,
            rescuer=Api(plane.client("dana", [BREAK_GLASS, "system:authenticated"])),
        )


def canaries() -> list[Object]:
    """A mutating policy that labels a ConfigMap, a validating one that refuses a name; bindings last."""
    group = "admissionregistration.k8s.io"
    match = {
        "resourceRules": [
            {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"], "operations": ["CREATE"]}
        ],
    }
    only = [{"name": "canary", "expression": f"object.metadata.name == '{CANARY}'"}]
    mutation = {
        "patchType": "ApplyConfiguration",
        "applyConfiguration": {
            "expression": 'Object{metadata: Object.metadata{labels: {"canary": "sings"}}}',
        },
    }
    refusal = {"expression": "!('canary' in object.metadata.?labels.orValue({}))", "message": "the canary sings"}
    head = {"apiVersion": f"{group}/v1", "metadata": {"name": CANARY}}
    common = {"failurePolicy": "Fail", "matchConstraints": match, "matchConditions": only}
    mutating = {**common, "reinvocationPolicy": "Never", "mutations": [mutation]}
    return [
        {**head, "kind": "MutatingAdmissionPolicy", "spec": mutating},
        {**head, "kind": "ValidatingAdmissionPolicy", "spec": {**common, "validations": [refusal]}},
        {**head, "kind": "MutatingAdmissionPolicyBinding", "spec": {"policyName": CANARY}},
        {
            **head,
            "kind": "ValidatingAdmissionPolicyBinding",
            "spec": {"policyName": CANARY, "validationActions": ["Deny"]},
        },
    ]


def _canaries_sing(person: Api) -> bool:
    bird = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": CANARY, "namespace": "default"}}
    return "the canary sings" in person.create(bird).text


@pytest.fixture(scope="module")
def acme(cluster: Cluster) -> TenantSpaces:
    """A tenant without external services."""
    return cluster.tenant()


@pytest.fixture(scope="module")
def umbrella(cluster: Cluster) -> TenantSpaces:
    """A tenant whose tier has external services."""
    return cluster.tenant(external=True)
