"""All Kubernetes objects of one tenant, in the order in which they are applied."""

from tenantry.desired import namespaces, network, quota, rbac, scrape, workload
from tenantry.desired.meta import Json
from tenantry.desired.options import Options
from tenantry.resolve import Resolved


def namespace_objects(resolved: Resolved, options: Options) -> list[Json]:
    """The namespaces, the operator's right to their Secrets, then quotas, walls and the owners' rights.

    Raises DesiredError where the region's endpoints can't be put into a NetworkPolicy.
    """
    return [
        *namespaces.namespaces(resolved),
        *rbac.operator_bindings(resolved, options),
        *quota.workload_quotas(resolved),
        quota.runtime_quota(resolved),
        *quota.limit_ranges(resolved),
        *network.policies(resolved, options),
        *rbac.owner_bindings(resolved),
    ]


def runtime_objects(resolved: Resolved, options: Options, credentials_digest: str) -> list[Json]:
    """Service, Deployment, and what goes with them.  The Secret `runtime` must be there before (see secrets.py)."""
    optional = (workload.disruption_budget(resolved), scrape.monitor(resolved, options))
    return [
        workload.service(resolved),
        workload.deployment(resolved, options, credentials_digest),
        *(made for made in optional if made is not None),
    ]
