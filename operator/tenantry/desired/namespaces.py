"""The tenant's namespaces: where its owners work, and the one of its runtime, which they can't enter."""

from tenantry import names
from tenantry.desired.meta import RUNTIME, WORKLOAD, Json, metadata
from tenantry.resolve import Resolved

POD_SECURITY = "pod-security.kubernetes.io"


def namespaces(resolved: Resolved) -> list[Json]:
    """The workload namespaces, the first one first, then the runtime's."""
    return [
        *(_namespace(resolved, workload.name, WORKLOAD) for workload in resolved.workloads),
        _namespace(resolved, resolved.runtime_namespace, RUNTIME),
    ]


def _namespace(resolved: Resolved, name: str, role: str) -> Json:
    labels = {names.ROLE_LABEL: role}
    for mode in ("enforce", "audit", "warn"):
        labels[f"{POD_SECURITY}/{mode}"] = "restricted"
        labels[f"{POD_SECURITY}/{mode}-version"] = "latest"
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata(resolved, name, labels=labels)}
