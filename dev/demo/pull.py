"""The chart's policy that sets imagePullPolicy Always, shown where it is off.

The development cluster's images are imported, not pulled, so the policy would keep every Pod of a tenant from
starting.  Here it is put in force for dry runs only, asked, and taken away again.
"""

from __future__ import annotations

from typing import Any

import yaml

from dev.demo.kube import Json, Kube, kind_at, wait

PREFIX = "tenantry-demo-"


def for_dry_runs(rendered: str) -> list[Json]:
    """The chart's policy and its binding, under other names, and only for requests that change nothing."""
    found: list[Json] = [obj for obj in yaml.safe_load_all(rendered) if obj]
    for obj in found:
        obj["metadata"] = {"name": PREFIX + obj["metadata"]["name"]}
        if obj["kind"].endswith("Binding"):
            obj["spec"]["policyName"] = PREFIX + obj["spec"]["policyName"]
        else:
            only = {"name": "dry-runs-only", "expression": "request.?dryRun.orValue(false)"}
            obj["spec"].setdefault("matchConditions", []).append(only)
    return found


def pod(namespace: str) -> Json:
    """One that Pod Security `restricted` takes, and that says IfNotPresent."""
    container: dict[str, Any] = {
        "name": "app",
        "image": "registry.example/app:1",
        "imagePullPolicy": "IfNotPresent",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "demo-pull-policy", "namespace": namespace},
        "spec": {"containers": [container]},
    }


def asked(kube: Kube, namespace: str) -> str:
    """The policy that the API server gives the Pod in a server-side dry run."""
    made = kube.create(pod(namespace), dry_run=True)
    return str(made["spec"]["containers"][0]["imagePullPolicy"])


def show(kube: Kube, namespace: str, rendered: str) -> tuple[str, str]:
    """imagePullPolicy without and with the chart's policy.  Raises TooLate if it never comes into force."""
    before = asked(kube, namespace)
    objects = for_dry_runs(rendered)
    try:
        for obj in objects:
            kube.apply(obj)
        wait(lambda: asked(kube, namespace) == "Always", "the policy sets imagePullPolicy: Always in a dry run", 30)
        return before, asked(kube, namespace)
    finally:
        for obj in reversed(objects):
            kube.delete(kind_at(obj), obj["metadata"]["name"])
