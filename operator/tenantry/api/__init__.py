"""The kinds of group tenantry.dev as pydantic models: the one source of the CRDs."""

from tenantry.api.accesskey import AccessKey, AccessKeySpec, AccessKeyStatus
from tenantry.api.base import Condition, Meta, Resource
from tenantry.api.conditions import Reason
from tenantry.api.region import DataRegion, DataRegionSpec
from tenantry.api.tenant import Tenant, TenantSpec, TenantStatus
from tenantry.api.tier import TenantTier, TenantTierSpec

__all__ = [
    "AccessKey",
    "AccessKeySpec",
    "AccessKeyStatus",
    "Condition",
    "DataRegion",
    "DataRegionSpec",
    "Meta",
    "Reason",
    "Resource",
    "Tenant",
    "TenantSpec",
    "TenantStatus",
    "TenantTier",
    "TenantTierSpec",
]
