"""Who may do what in the tenant's namespaces.  The rights themselves are ClusterRoles of the chart."""

from tenantry import names
from tenantry.desired.meta import Json, metadata
from tenantry.desired.options import Options
from tenantry.resolve import Resolved

RBAC = "rbac.authorization.k8s.io"
SECRETS_ROLE = "tenantry-secrets"


def operator_bindings(resolved: Resolved, options: Options) -> list[Json]:
    """The operator may write Secrets in this tenant's namespaces, and so in no other of the cluster."""
    subject = {
        "kind": "ServiceAccount",
        "name": options.operator_service_account,
        "namespace": options.operator_namespace,
    }
    spaces = [*(workload.name for workload in resolved.workloads), resolved.runtime_namespace]
    return [_binding(resolved, space, SECRETS_ROLE, [subject]) for space in spaces]


def owner_bindings(resolved: Resolved) -> list[Json]:
    """The owners manage their workload namespaces, and nothing in the runtime's.

    There is a binding also without owners, so that it loses its subjects when the last one goes.
    """
    subjects = [
        {"kind": owner.kind, "name": owner.name, "namespace": owner.namespace}
        if owner.kind == "ServiceAccount"
        else {"kind": owner.kind, "name": owner.name, "apiGroup": RBAC}
        for owner in resolved.owners
    ]
    return [_binding(resolved, workload.name, names.OWNER_ROLE, subjects) for workload in resolved.workloads]


def _binding(resolved: Resolved, namespace: str, role: str, subjects: list[Json]) -> Json:
    made: Json = {
        "apiVersion": f"{RBAC}/v1",
        "kind": "RoleBinding",
        "metadata": metadata(resolved, role, namespace),
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role},
    }
    if subjects:  # the API server leaves an empty list out
        made["subjects"] = subjects
    return made
