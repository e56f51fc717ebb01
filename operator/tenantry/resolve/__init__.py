"""Tenant + TenantTier + DataRegion -> one resolved tenant, or every reason why not.  Pure."""

from tenantry.resolve.placement import choose_region, region_name
from tenantry.resolve.resolution import resolve
from tenantry.resolve.resolved import Problem, Resolved, VectorChoice, Workload

__all__ = ["Problem", "Resolved", "VectorChoice", "Workload", "choose_region", "region_name", "resolve"]
