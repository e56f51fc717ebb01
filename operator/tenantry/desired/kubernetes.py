"""All Kubernetes objects of one tenant.  What is applied after what is the backend's to know."""

from tenantry.desired import namespaces, network, quota, rbac, scrape, workload
from tenantry.desired.meta import Json
from tenantry.desired.options import Options
from tenantry.resolve import Resolved


def namespace_objects(resolved: Resolved, options: Options) -> list[Json]:
    """The namespaces, the operator's right to their Secrets, quotas, walls, the owners' rights, the runtime's identity.

    Raises DesiredError where the region's endpoints can't be put into a NetworkPolicy.
    """
    return [
        *namespaces.namespaces(resolved),
        *rbac.operator_bindings(resolved, options),
        *quota.workload_quotas(resolved),
        *quota.limit_ranges(resolved),
        *network.policies(resolved, options),
        workload.service_account(resolved),
        *rbac.owner_bindings(resolved),
    ]


def runtime_objects(resolved: Resolved, options: Options, credentials_digest: str) -> list[Json]:
    """Service, Deployment, and what goes with them.  The Secret `runtime` must be there before (see secrets.py)."""
    optional = (workload.disruption_budget(resolved), scrape.monitor(resolved, options))
    return [
        workload.service(resolved),
        workload.deployment(resolved, options, credentials_digest),
        quota.runtime_quota(resolved),
        *(made for made in optional if made is not None),
    ]
