"""Makes of saved resources what can be applied again: `python -m tenantry.readopt < saved.yaml > again.yaml`.

For resources of group tenantry.dev whose CRDs were deleted, or that a cluster lost.  Reads what
`kubectl get ... -o yaml` (or json) printed; leaves out what the API server sets itself; and lets each Tenant take
over what it had (annotation ``tenantry.dev/adopt-uid``, see docs/restore.md).
"""

import sys
from collections.abc import Iterator
from typing import Any

import yaml

from tenantry import names

Json = dict[str, Any]
_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


def again(saved: Json) -> Json:
    """One resource as it can be applied to a cluster that does not have it."""
    meta = saved["metadata"]
    annotations = {k: v for k, v in (meta.get("annotations") or {}).items() if k != _APPLIED}
    if saved["kind"] == "Tenant":
        adopted = (saved.get("status") or {}).get("adoptedUid")
        if uid := adopted or annotations.get(names.ADOPT_ANNOTATION) or meta.get("uid"):
            annotations[names.ADOPT_ANNOTATION] = uid
    kept = {"name": meta["name"], "namespace": meta.get("namespace"), "labels": meta.get("labels")}
    made = {k: v for k, v in {**kept, "annotations": annotations}.items() if v}
    return {"apiVersion": saved["apiVersion"], "kind": saved["kind"], "metadata": made, "spec": saved["spec"]}


def resources(documents: Iterator[Json | None]) -> Iterator[Json]:
    """Those of our group, out of single documents and lists."""
    for document in documents:
        for item in (document or {}).get("items", [document] if document else []):
            if item.get("apiVersion", "").startswith(f"{names.GROUP}/"):
                yield item


def main() -> int:
    made = [again(item) for item in resources(yaml.safe_load_all(sys.stdin))]
    if not made:
        print("Nothing of group tenantry.dev was on standard input; save with kubectl get -o yaml", file=sys.stderr)
        return 1
    yaml.safe_dump_all(made, sys.stdout, sort_keys=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
