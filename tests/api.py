"""Plain calls to an API server, as one user, for tests that look at what it answers."""

from __future__ import annotations

from typing import Any

import httpx

Object = dict[str, Any]

PLURALS = {
    "AccessKey": "accesskeys",
    "ClusterRoleBinding": "clusterrolebindings",
    "ConfigMap": "configmaps",
    "DataRegion": "dataregions",
    "Deployment": "deployments",
    "Endpoints": "endpoints",
    "EndpointSlice": "endpointslices",
    "HorizontalPodAutoscaler": "horizontalpodautoscalers",
    "Job": "jobs",
    "LimitRange": "limitranges",
    "Namespace": "namespaces",
    "NetworkPolicy": "networkpolicies",
    "Pod": "pods",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "ReplicaSet": "replicasets",
    "ResourceQuota": "resourcequotas",
    "Role": "roles",
    "RoleBinding": "rolebindings",
    "Secret": "secrets",
    "Service": "services",
    "ServiceAccount": "serviceaccounts",
    "Tenant": "tenants",
    "TenantTier": "tenanttiers",
}


def path(obj: Object, name: str = "", subresource: str = "") -> str:
    """Where objects of this kind and namespace are, or one of them."""
    version = obj["apiVersion"]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    namespace = obj["metadata"].get("namespace")
    parts = [root, *(["namespaces", namespace] if namespace else []), PLURALS[obj["kind"]], name, subresource]
    return "/".join(part for part in parts if part)


class Api:
    """Writes are dry runs unless told otherwise: admission answers the same, and nothing is left behind."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client

    def get(self, obj: Object) -> httpx.Response:
        """The object as it is now."""
        return self.client.get(path(obj, obj["metadata"]["name"]))

    def create(self, obj: Object, *, dry: bool = True) -> httpx.Response:
        return self.client.post(path(obj), json=obj, params=_params(dry))

    def replace(self, obj: Object, subresource: str = "", *, dry: bool = True) -> httpx.Response:
        return self.client.put(path(obj, obj["metadata"]["name"], subresource), json=obj, params=_params(dry))

    def merge(self, obj: Object, patch: Object, subresource: str = "", *, dry: bool = True) -> httpx.Response:
        """A JSON merge patch of `obj`."""
        return self.client.patch(
            path(obj, obj["metadata"]["name"], subresource),
            json=patch,
            params=_params(dry),
            headers={"Content-Type": "application/merge-patch+json"},
        )

    def apply(self, obj: Object, *, dry: bool = False) -> httpx.Response:
        """Server-side apply, forced."""
        return self.client.patch(
            path(obj, obj["metadata"]["name"]),
            json=obj,
            params={**_params(dry), "fieldManager": "tests", "force": "true"},
            headers={"Content-Type": "application/apply-patch+yaml"},
        )

    def delete(self, obj: Object, *, dry: bool = True) -> httpx.Response:
        return self.client.request(
            "DELETE", path(obj, obj["metadata"]["name"]), params={"dryRun": "All"} if dry else {}
        )


def _params(dry: bool) -> dict[str, str]:
    return {"fieldValidation": "Strict", **({"dryRun": "All"} if dry else {})}


def ok(answer: httpx.Response) -> Object:
    """The object that came back; AssertionError with the server's words when it refused."""
    assert answer.is_success, f"{answer.status_code}: {answer.text}"
    body: Object = answer.json()
    return body


def refused(answer: httpx.Response, *words: str) -> None:
    """It was refused by a rule or a policy (not by RBAC, not by accident), and the sentence holds `words`."""
    assert answer.status_code in (403, 422), f"{answer.status_code}: {answer.text[:400]}"
    message = answer.json()["message"]
    assert "cannot" not in message or "denied request" in message, f"refused by RBAC: {message}"
    for word in words:
        assert word in message, f"{word!r} is not in: {message}"
