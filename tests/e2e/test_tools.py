"""Other tools write Tenants: kubectl on both sides, GitOps controllers, Helm.  The operator's fields outlast them."""

from __future__ import annotations

import json
import time
from typing import Any

from dev.demo.kube import wait
from tenantry import names
from tenantry.backends import kinds
from tests.e2e.world import World

ARGO = {
    "labels": {"app.kubernetes.io/managed-by": "argocd", "app.kubernetes.io/instance": "customers"},
    "annotations": {
        "argocd.argoproj.io/tracking-id": "customers:tenantry.dev/Tenant:/x",
        "argocd.argoproj.io/sync-wave": "2",
    },
}
HELM = {
    "labels": {"app.kubernetes.io/managed-by": "Helm"},
    "annotations": {"meta.helm.sh/release-name": "customers", "meta.helm.sh/release-namespace": "default"},
}


def test_what_other_tools_write_costs_a_tenant_nothing(world: World, two: str) -> None:
    seen = world.tenant(two)
    pinned, uid = seen["metadata"]["annotations"][names.PINNED_ANNOTATION], seen["metadata"]["uid"]
    before = world.runtimes(two)
    spec = {key: seen["spec"][key] for key in ("displayName", "tier", "owners", "deletion")}
    plain: dict[str, Any] = {
        "apiVersion": names.API_VERSION, "kind": "Tenant", "metadata": {"name": two}, "spec": spec,
    }  # fmt: skip

    def manifest(**metadata: Any) -> str:
        return json.dumps({**plain, "metadata": {"name": two, **metadata}})

    def kept(what: str) -> None:
        """The finalizer and what is pinned are there, or come back, and then all is still."""

        def look() -> bool:
            meta = world.tenant(two)["metadata"]
            same = (meta.get("annotations") or {}).get(names.PINNED_ANNOTATION) == pinned
            return same and names.FINALIZER in meta.get("finalizers", ())

        wait(look, f"finalizer and pins after {what}", 60)
        world.ready(two)
        assert world.tenant(two)["metadata"]["uid"] == uid

    world.target.kubectl("apply", "-f", "-", stdin=manifest(**HELM))
    kept("a client-side apply")
    apply = ("apply", "--server-side", "--force-conflicts", "--field-manager=argocd-controller", "-f", "-")
    world.target.kubectl(*apply, stdin=manifest(**ARGO))
    kept("another manager's server-side apply")
    assert world.tenant(two)["metadata"]["labels"].items() >= ARGO["labels"].items(), "the tool's labels are its own"
    world.target.kubectl("replace", "-f", "-", stdin=manifest())
    kept("a replace, which drops what its manifest does not have")
    world.target.kubectl(*apply, stdin=manifest(**ARGO))
    kept("a second apply")

    def written() -> list[Any]:
        """Who wrote it when, status apart."""
        return [m for m in world.tenant(two)["metadata"]["managedFields"] if m.get("subresource") != "status"]

    still = written()
    time.sleep(5)
    assert written() == still, "nobody writes it any more"
    assert world.runtimes(two) == before
    world.kube.merge(
        kinds.TENANT,
        two,
        {"metadata": {"labels": dict.fromkeys(ARGO["labels"]), "annotations": dict.fromkeys(ARGO["annotations"])}},
    )
