"""Which DataRegion serves a tenant and holds its data."""

from datetime import datetime

from tenantry.api.conditions import Reason
from tenantry.api.region import DataRegion
from tenantry.api.tenant import Tenant
from tenantry.resolve.resolved import Problem


def choose_region(tenant: Tenant, regions: dict[str, DataRegion]) -> DataRegion | Problem:
    """The pinned region, else spec.region, else by residency, else the default; two defaults: the older one."""
    pinned = tenant.pinned
    wanted = pinned.region if pinned else tenant.spec.region
    residency = tenant.spec.compliance.data_residency
    if wanted:
        region = regions.get(wanted)
        if region is None:
            what = (
                f"DataRegion {wanted!r}, which holds this tenant's data, does not exist; create it again. Nothing is "
                "removed, and what runs goes on as it was"
                if pinned
                else f"DataRegion {wanted!r} does not exist; create it or change spec.region"
            )
            return Problem(Reason.UNKNOWN_REGION, what)
    else:
        fitting = [r for r in regions.values() if residency in (None, r.spec.jurisdiction)]
        if residency is None:
            fitting = [r for r in fitting if r.spec.default]
        if not fitting:
            what = f"of jurisdiction {residency}" if residency else "with spec.default: true"
            return Problem(Reason.UNKNOWN_REGION, f"There is no DataRegion {what}; create one or set spec.region")
        never = datetime.max
        region = min(
            fitting,
            key=lambda r: (
                not r.spec.default,
                (r.metadata.creation_timestamp or never).replace(tzinfo=None),
                r.name,
            ),
        )
    if residency and region.spec.jurisdiction != residency:
        return Problem(
            Reason.RESIDENCY_VIOLATED,
            f"spec.compliance.dataResidency is {residency}, but DataRegion {region.name!r} is in "
            f"{region.spec.jurisdiction}; set spec.region to one in {residency}",
        )
    if "HIPAA" in tenant.spec.compliance.certifications and region.spec.jurisdiction != "US":
        return Problem(
            Reason.RESIDENCY_VIOLATED,
            f"A HIPAA tenant must be served from the US, but DataRegion {region.name!r} is in "
            f"{region.spec.jurisdiction}; set spec.region to one in the US",
        )
    return region


def region_name(tenant: Tenant, regions: dict[str, DataRegion]) -> str:
    """Where its data is or would be; empty if that can't be said."""
    found = choose_region(tenant, regions)
    return found.name if isinstance(found, DataRegion) else ""
