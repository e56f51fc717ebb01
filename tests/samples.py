"""Sample resources for every test: the shipped tiers, one region, and tenants of any shape.

    resolved = samples.resolved("acme", tier="pro", namespaces=[{"suffix": "dev", "weight": 2}])

What a test says about a resource is written as on the wire (camelCase), and replaces the sample's field.
"""

import copy
import uuid
from pathlib import Path
from typing import Any

import yaml

from tenantry import names
from tenantry.api.accesskey import AccessKey
from tenantry.api.region import DataRegion
from tenantry.api.tenant import Tenant
from tenantry.api.tier import TenantTier
from tenantry.credentials import Credentials
from tenantry.resolve import Resolved, resolve

ROOT = Path(__file__).resolve().parent.parent

REGION: dict[str, Any] = {
    "jurisdiction": "EU",
    "default": True,
    "postgres": {
        "host": "10.96.7.1",
        "port": 5432,
        "database": "tenantry",
        "credentialsSecret": {"name": "tenantry-postgres"},
    },
    "milvus": {"uri": "http://milvus.data.svc:19530", "credentialsSecret": {"name": "tenantry-milvus"}},
    "provider": {
        "baseUrl": "https://api.openai.com/v1",
        "credentialsSecret": {"name": "tenantry-provider"},
        "models": [
            {"name": "gpt-4o-mini", "inputPerMillion": "0.15", "outputPerMillion": "0.60"},
            {"name": "gpt-4o", "inputPerMillion": "2.50", "outputPerMillion": "10.00"},
            {"name": "text-embedding-3-small", "inputPerMillion": "0.02"},
        ],
        "pricesFrom": "2026-11-01",
    },
    "embedding": {"model": "text-embedding-3-small", "dimension": 1536, "metric": "COSINE"},
}
"""The spec of the sample DataRegion."""


def uid(name: str) -> str:
    """The same name has the same UID in every run."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, name))


def tier_manifest(name: str) -> dict[str, Any]:
    """A shipped tier (free, pro or enterprise) as its manifest has it."""
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "examples" / "tiers" / f"{name}.yaml").read_text())
    return loaded


def tier(name: str = "free", **spec: Any) -> TenantTier:
    manifest = tier_manifest(name)
    return TenantTier.model_validate(
        {"metadata": {"name": name, "uid": uid(f"tier/{name}")}, "spec": {**manifest["spec"], **spec}}
    )


def tiers() -> dict[str, TenantTier]:
    return {name: tier(name) for name in ("free", "pro", "enterprise")}


def region(name: str = "main", **spec: Any) -> DataRegion:
    return DataRegion.model_validate(
        {
            "metadata": {"name": name, "uid": uid(f"region/{name}")},
            "spec": {**copy.deepcopy(REGION), **spec},
        }
    )


def manifest(name: str = "acme", tier: str = "free", **spec: Any) -> dict[str, Any]:
    """A Tenant as one would apply it."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": "Tenant",
        "metadata": {"name": name},
        "spec": {"displayName": name.title(), "tier": tier, **spec},
    }


def tenant(name: str = "acme", tier: str = "free", *, status: dict[str, Any] | None = None, **spec: Any) -> Tenant:
    """A Tenant as the API server would return it."""
    made = manifest(name, tier, **spec)
    made["metadata"] |= {
        "uid": uid(f"tenant/{name}"),
        "generation": 1,
        "creationTimestamp": "2026-11-01T08:00:00Z",
    }
    return Tenant.model_validate({**made, "status": status} if status else made)


def resolved(
    name: str = "acme",
    tier: str = "free",
    *,
    in_region: DataRegion | None = None,
    tiers_by_name: dict[str, TenantTier] | None = None,
    **spec: Any,
) -> Resolved:
    """A resolved tenant; fails with the problems where it does not resolve."""
    home = in_region or region()
    found = resolve(tenant(name, tier, **spec), tiers_by_name or tiers(), {home.name: home})
    assert isinstance(found, Resolved), found
    return found


def access_key(name: str = "default", namespace: str = "tenant-acme", **spec: Any) -> AccessKey:
    return AccessKey.model_validate(
        {
            "metadata": {"name": name, "namespace": namespace, "uid": uid(f"key/{namespace}/{name}"), "generation": 1},
            "spec": spec,
        }
    )


def credentials() -> Credentials:
    """Derives the same passwords in every run."""
    return Credentials(bytes(range(32)))
