"""Where the API server keeps each kind that the operator reads or writes."""

from dataclasses import dataclass
from urllib.parse import quote

from tenantry import names


@dataclass(frozen=True)
class Kind:
    api_version: str
    kind: str
    plural: str
    namespaced: bool = True
    exact: bool = False
    """What others add to its spec is taken out again."""
    watched: bool = True
    page: int = 250
    """How many in one answer of a list: some 2 MB once they are read, for what is read at once leaves holes among
    what stays.
    """

    @property
    def group(self) -> str:
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        return self.api_version.rpartition("/")[2]

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        root = f"/apis/{self.api_version}" if self.group else f"/api/{self.api_version}"
        if self.namespaced and namespace:
            root += f"/namespaces/{quote(namespace)}"
        root += f"/{self.plural}"
        if name:
            root += f"/{quote(name)}"
        return root + (f"/{subresource}" if subresource else "")


OWN_PAGE = 50
TENANT = Kind(names.API_VERSION, "Tenant", "tenants", namespaced=False, page=OWN_PAGE)
TIER = Kind(names.API_VERSION, "TenantTier", "tenanttiers", namespaced=False, page=OWN_PAGE)
REGION = Kind(names.API_VERSION, "DataRegion", "dataregions", namespaced=False, page=OWN_PAGE)
ACCESS_KEY = Kind(names.API_VERSION, "AccessKey", "accesskeys", page=OWN_PAGE)
NAMESPACE = Kind("v1", "Namespace", "namespaces", namespaced=False)
SECRET = Kind("v1", "Secret", "secrets", watched=False)
EVENT = Kind("v1", "Event", "events", watched=False)
LEASE = Kind("coordination.k8s.io/v1", "Lease", "leases", watched=False)
CRD = Kind(
    "apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions", namespaced=False, watched=False
)
DEPLOYMENT = Kind("apps/v1", "Deployment", "deployments", page=100)

OWN = (TENANT, TIER, REGION, ACCESS_KEY)
"""The kinds of our group."""

CHILDREN = (
    NAMESPACE,
    Kind("v1", "ResourceQuota", "resourcequotas", exact=True),
    Kind("v1", "LimitRange", "limitranges", exact=True),
    Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", exact=True),
    Kind("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings", exact=True),
    Kind("v1", "ServiceAccount", "serviceaccounts"),
    Kind("v1", "Service", "services"),
    DEPLOYMENT,
    Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
)
"""The kinds that are made for a tenant and watched."""

OPTIONAL = (
    Kind("monitoring.coreos.com/v1", "PodMonitor", "podmonitors", watched=False),
    Kind("monitoring.coreos.com/v1", "ServiceMonitor", "servicemonitors", watched=False),
)

_BY_NAME = {(k.api_version, k.kind): k for k in (*OWN, *CHILDREN, *OPTIONAL, SECRET, EVENT, LEASE, CRD)}


def of(obj: dict[str, object]) -> Kind:
    """The kind of an object; KeyError for one that the operator never writes."""
    return _BY_NAME[str(obj["apiVersion"]), str(obj["kind"])]


_WATCHED = {k.kind: k for k in CHILDREN}


def of_key(key: tuple[str, str, str]) -> Kind:
    """The kind of a watched object."""
    return _WATCHED[key[0]]
