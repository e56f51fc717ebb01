"""Which models a tenant may call, for chat and for embeddings: what its tier offers and its region has a price for."""

from tenantry.api.conditions import Reason
from tenantry.api.region import DataRegion
from tenantry.api.tenant import Tenant
from tenantry.api.tier import TenantTier
from tenantry.resolve.resolved import Problem, VectorChoice


def allowed(tenant: Tenant, tier: TenantTier) -> tuple[str, ...]:
    return tenant.spec.ai.models.allowed or tier.spec.models.allowed


def default(tenant: Tenant, tier: TenantTier) -> str:
    """The tenant's own, else the tier's where it is allowed, else the first that is."""
    if own := tenant.spec.ai.models.default:
        return own
    names = allowed(tenant, tier)
    return tier.spec.models.default if tier.spec.models.default in names else names[0]


def vectors(tenant: Tenant, tier: TenantTier, region: DataRegion) -> VectorChoice:
    """What was pinned, else the tenant's own, else the tier's and the region's."""
    if pinned := tenant.pinned:
        return VectorChoice(pinned.vector_isolation, pinned.embedding_model, pinned.dimension, pinned.metric)
    own, usual = tenant.spec.vectors, region.spec.embedding
    return VectorChoice(
        own.isolation or tier.spec.vector_isolation,
        own.embedding_model or usual.model,
        own.dimension or usual.dimension,
        own.metric or usual.metric,
    )


def problems(tenant: Tenant, tier: TenantTier, region: DataRegion) -> list[Problem]:
    """Models that the tier does not offer, or that have no price."""
    names, offered = allowed(tenant, tier), tier.spec.models.allowed
    found = [
        Problem(
            Reason.MODEL_NOT_ALLOWED,
            f"spec.ai.models.allowed names {name!r}, which tier {tier.name!r} does not offer "
            f"(it offers: {', '.join(offered)})",
        )
        for name in names
        if name not in offered
    ]
    if default(tenant, tier) not in names:
        found.append(
            Problem(
                Reason.MODEL_NOT_ALLOWED,
                f"spec.ai.models.default {tenant.spec.ai.models.default!r} is not among the allowed models",
            )
        )
    priced = {model.name for model in region.spec.provider.models}
    found += [
        Problem(
            Reason.MODEL_WITHOUT_PRICE,
            f"Model {name!r} has no price in DataRegion {region.name!r}; add it to spec.provider.models there",
        )
        for name in names
        if name in offered and name not in priced
    ]
    embedding = vectors(tenant, tier, region).embedding_model
    if embedding not in priced:
        found.append(
            Problem(
                Reason.MODEL_WITHOUT_PRICE,
                f"spec.vectors.embeddingModel {embedding!r} has no price in DataRegion {region.name!r}",
            )
        )
    return found
