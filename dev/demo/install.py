"""The operator by its Helm chart and the tenants by theirs, as a user does it, with progress shown."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import yaml

from dev.cluster import info, paths
from dev.cluster.info import ClusterInfo
from dev.demo import helm
from dev.demo.helm import NAMESPACE
from dev.demo.kube import Json, Kube, condition
from dev.demo.show import Show
from dev.demo.story import Actor
from dev.demo.target import Target, run_module
from dev.provider import DIMENSION, EMBEDDING_MODEL, NAME
from tenantry import names
from tenantry.backends import kinds

REGION = "local"
STATE = paths.DEV / "demo"
CHART, TENANTS_CHART = "charts/tenantry", "charts/tenants"
OPENAI = "https://api.openai.com/v1"
IMAGES_ANNOTATION = "demo.tenantry.dev/images"
ALWAYS_PULL = "templates/admission/always-pull.yaml"


class Unexpected(Exception):
    """Something came out otherwise than it must."""


# -- which cluster -------------------------------------------------------------------


def find_cluster(show: Show) -> Target:
    """KUBECONFIG's cluster, or ours, which is started where it does not run."""
    given = os.environ.get("KUBECONFIG", "")
    if given and Path(given).resolve() != paths.KUBECONFIG.resolve():
        show.step(f"The cluster of KUBECONFIG={given}")
        if not os.environ.get("TENANTRY_VALUES"):
            raise Unexpected(
                "Set TENANTRY_VALUES to a values file for charts/tenantry with your images and a region "
                "(PostgreSQL, Milvus, provider); README.md says what it needs."
            )
        target = Target(Path(given), ours=False, prometheus=os.environ.get("TENANTRY_PROMETHEUS_URL", ""))
        show.line(
            f"Installed on it: the chart tenantry in namespace {NAMESPACE} with {os.environ['TENANTRY_VALUES']}, its "
            "CRDs and cluster roles, and three Tenants (acme, globex, initech)."
        )
        return target
    show.step("The development cluster")
    show.line("What follows is started on this machine, and three tenants are made on it; `make cluster-down` ends it.")
    if run_module(["dev.cluster", "up"]):
        raise Unexpected("The cluster did not start: see above.")
    return ours()


def ours() -> Target:
    """The development cluster, which must be up."""
    found = info.load()
    if not found.pods:
        raise Unexpected(
            "This needs Pods, and the development cluster runs them only on Linux as root; here its control plane runs "
            "alone. Use a cluster that you have: set KUBECONFIG and TENANTRY_VALUES (README.md)."
        )
    return Target(Path(found.kubeconfig), ours=True, prometheus=found.prometheus.url)


# -- the operator ----------------------------------------------------------------------


def operator(target: Target, show: Show | None = None) -> None:
    """Secrets, values and `helm upgrade --install --wait`; fine where it is installed already."""
    if show:
        show.step(f"The operator, by its chart, in namespace {NAMESPACE}")
    if target.ours:
        values = STATE / "values.yaml"
        found = info.load()
        secrets(target.kube, found)
        STATE.mkdir(parents=True, exist_ok=True)
        values.write_text(yaml.safe_dump(chart_values(found), sort_keys=False))
    else:
        values = Path(os.environ["TENANTRY_VALUES"]).absolute()
        namespace(target.kube)
    # Helm installs CRDs with a chart's first release and never changes them after that.
    if "tenantry" in target.run("helm", "list", "-n", NAMESPACE, "-q").split():
        target.kubectl("apply", "--server-side", "--force-conflicts", "-f", f"{CHART}/crds")
    if show:
        show.line(f"$ helm upgrade --install tenantry {CHART} -n {NAMESPACE} -f {_short(values)} --wait")
        if target.ours:
            region = chart_values(info.load())["region"]
            postgres = region["postgres"]
            show.line(f"PostgreSQL {postgres['host']}:{postgres['port']}, Milvus {region['milvus']['uri']}")
            provider = region["provider"]["baseUrl"]
            kind = "the real OpenAI API" if provider == OPENAI else f"{NAME}, no language model: set OPENAI_API_KEY"
            show.line(f"Model provider {provider} ({kind})")
    helm.upgrade(target, "tenantry", CHART, str(values), helm.pods_of(target, show))
    if target.ours:
        restart(target)


def restart(target: Target) -> None:
    """Start Pods anew whose image was built again: its name is the same, so nobody else notices."""
    stamps = sorted((paths.STATE / "images").glob("*"))
    built = hashlib.sha256("".join(stamp.name + stamp.read_text() for stamp in stamps).encode()).hexdigest()[:16]
    seen = target.kube.get(kinds.NAMESPACE, NAMESPACE)
    before = ((seen or {"metadata": {}})["metadata"].get("annotations") or {}).get(IMAGES_ANNOTATION)
    if before != built and before is not None:
        target.kubectl("-n", NAMESPACE, "rollout", "restart", "deployment/tenantry")
        for tenant in target.kube.list(kinds.TENANT):
            target.kubectl("-n", names.runtime_namespace(tenant["metadata"]["name"]), "delete", "pods", "--all")
        target.kubectl("-n", NAMESPACE, "rollout", "status", "deployment/tenantry", "--timeout=120s")
    target.kube.merge(kinds.NAMESPACE, NAMESPACE, {"metadata": {"annotations": {IMAGES_ANNOTATION: built}}})


def namespace(kube: Kube) -> None:
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}, manager="tenantry-demo")


def secrets(kube: Kube, found: ClusterInfo) -> None:
    """What the region needs, beside the operator: the chart makes no Secrets."""
    namespace(kube)
    provider = os.environ.get("OPENAI_API_KEY") or Path(found.provider.api_key_file).read_text().strip()
    for name, values in {
        "tenantry-postgres": {
            "username": found.postgres.admin_user,
            "password": Path(found.postgres.admin_password_file).read_text().strip(),
        },
        "tenantry-milvus": {
            "username": "root",
            "password": Path(found.milvus.root_password_file).read_text().strip(),
        },
        "tenantry-provider": {"api-key": provider},
    }.items():
        kube.apply(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": name, "namespace": NAMESPACE},
                "stringData": values,
            },
            manager="tenantry-demo",
        )


def chart_values(found: ClusterInfo) -> Json:
    """The chart's values for the development cluster; with OPENAI_API_KEY its region uses the real API."""
    region: Json = {
        "name": REGION,
        "postgres": {"host": found.postgres.host, "port": found.postgres.port, "database": found.postgres.database},
        "milvus": {"uri": found.milvus.uri},
        "provider": {"baseUrl": OPENAI},
    }
    if not os.environ.get("OPENAI_API_KEY"):
        region["provider"] = {
            "baseUrl": found.provider.base_url,
            "unitPrices": {"databaseQuery": "0.0000001", "vectorSearch": "0.000001"},
            "models": [
                {"name": "gpt-4o-mini", "inputPerMillion": "0.15", "outputPerMillion": "0.60"},
                {"name": "gpt-4o", "inputPerMillion": "2.50", "outputPerMillion": "10.00"},
                {"name": EMBEDDING_MODEL, "inputPerMillion": "0.02", "outputPerMillion": "0"},
            ],
        }
        region["embedding"] = {"model": EMBEDDING_MODEL, "dimension": DIMENSION, "metric": "COSINE"}
    return {
        "images": {
            "operator": _image(found.images.operator),
            "runtime": _image(found.images.runtime),
            "pullPolicy": "Never",
        },
        "metrics": {"prometheus": {"cidrs": [f"{found.host}/32"]}},
        "admission": {"alwaysPull": False},
        "region": region,
    }


def _short(path: Path) -> str:
    """As it is written from the checkout."""
    return str(path.relative_to(paths.ROOT)) if path.is_relative_to(paths.ROOT) else str(path)


def _image(reference: str) -> dict[str, str]:
    repository, _, tag = reference.rpartition(":")
    return {"repository": repository, "tag": tag}


def always_pull_policy(target: Target) -> str:
    """The chart's policy as it would be with admission.alwaysPull."""
    return target.run(
        "helm", "template", "tenantry", CHART, "-n", NAMESPACE, "-f", str(STATE / "values.yaml"),
        "--set", "admission.alwaysPull=true", "--show-only", ALWAYS_PULL,
        "--api-versions", "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy",
    )  # fmt: skip


# -- the tenants -------------------------------------------------------------------------


def tenants(target: Target, show: Show, actors: Sequence[Actor]) -> None:
    """The three by charts/tenants, with `--wait`: Helm reads their status as any kstatus reader does."""
    show.step("Three Tenants of three tiers, by charts/tenants")
    same_provider(target.kube, actors)
    STATE.mkdir(parents=True, exist_ok=True)
    values = STATE / "tenants.yaml"
    values.write_text(yaml.safe_dump({"tenants": [actor.values() for actor in actors]}, sort_keys=False))
    show.line(f"$ helm upgrade --install tenants {TENANTS_CHART} -n {NAMESPACE} -f {_short(values)} --wait")
    helm.upgrade(target, "tenants", TENANTS_CHART, str(values), helm.tenants_of(target, show, [a.name for a in actors]))
    for actor in actors:
        ready = condition(target.kube.get(kinds.TENANT, actor.name))
        if ready["status"] != "True":
            raise Unexpected(f"Helm waited, but {actor.name} is not Ready: {ready['reason']}: {ready['message']}")
    show.line("$ kubectl get tenants")
    show.raw(target.kubectl("get", "tenants"), 4)


def same_provider(kube: Kube, actors: Sequence[Actor]) -> None:
    """Documents and questions use one embedding model for good: a tenant can't move between providers' models."""
    for actor in actors:
        seen = kube.get(kinds.TENANT, actor.name)
        pinned = ((seen or {}).get("status") or {}).get("pinned")
        if not pinned:
            continue
        region = kube.get(kinds.REGION, pinned["region"])
        if region and region["spec"]["embedding"]["model"] != pinned["embeddingModel"]:
            raise Unexpected(
                f"Tenant {actor.name} was made with the embedding model {pinned['embeddingModel']}, and the region now "
                f"has {region['spec']['embedding']['model']}. Run `make cluster-down` first, or set OPENAI_API_KEY as "
                "it was then."
            )
