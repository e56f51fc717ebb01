"""The tenant's namespaces: where its owners work, and the one of its runtime, which they can't enter."""

from tenantry import names
from tenantry.desired.meta import RUNTIME, WORKLOAD, Json, metadata
from tenantry.resolve import Resolved

POD_SECURITY = "pod-security.kubernetes.io"
EXTERNAL_SERVICES = f"{names.GROUP}/external-services"
"""Read by the chart's admission policies.  Always set: a label that goes missing is not seen as a change."""


def namespaces(resolved: Resolved) -> list[Json]:
    """The workload namespaces, the first one first, then the runtime's."""
    return [
        *(_namespace(resolved, workload.name, WORKLOAD) for workload in resolved.workloads),
        _namespace(resolved, resolved.runtime_namespace, RUNTIME),
    ]


def _namespace(resolved: Resolved, name: str, role: str) -> Json:
    external = role == WORKLOAD and resolved.features.external_services
    labels = {names.ROLE_LABEL: role, EXTERNAL_SERVICES: "allowed" if external else "refused"}
    for mode in ("enforce", "audit", "warn"):
        labels[f"{POD_SECURITY}/{mode}"] = "restricted"
        labels[f"{POD_SECURITY}/{mode}-version"] = "latest"
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata(resolved, name, labels=labels)}
