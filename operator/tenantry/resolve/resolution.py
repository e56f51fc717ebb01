"""Everything about a tenant at once."""

from collections.abc import Mapping
from typing import Any

from tenantry import names
from tenantry.api.conditions import Reason
from tenantry.api.region import DataRegion
from tenantry.api.tenant import Pinned, Tenant, TenantSpec
from tenantry.api.tier import TenantTier
from tenantry.resolve import models, overrides
from tenantry.resolve.placement import choose_region
from tenantry.resolve.resolved import Problem, Resolved, Workload

_TOLD: Mapping[str, Any] = {
    **dict.fromkeys(("display_name", "tier", "region", "suspended", "ai"), True),
    "compliance": {"logging_level"},
}
"""Fields of a Tenant's spec that its runtime's configuration has."""


def resolve(
    tenant: Tenant, tiers: dict[str, TenantTier], regions: dict[str, DataRegion]
) -> Resolved | tuple[Problem, ...]:
    """Everything at once, so that a person can mend it in one go; problems come in a fixed order."""
    spec = tenant.spec
    problems: list[Problem] = []
    region = choose_region(tenant, regions)
    if isinstance(region, Problem):
        problems.append(region)
    tier = tiers.get(spec.tier)
    if tier is None:
        known = ", ".join(sorted(tiers)) or "none"
        problems.append(Problem(Reason.UNKNOWN_TIER, f"TenantTier {spec.tier!r} does not exist (there are: {known})"))
    if tier is None or isinstance(region, Problem):
        return tuple(problems)

    quota, wrong_quota = overrides.quota(tenant, tier)
    limits, wrong_limits = overrides.limits(tenant, tier)
    budget, wrong_budget = overrides.budget(tenant, tier)
    resources, wrong_resources = overrides.resources(tenant, tier)
    template, wrong_template = overrides.template(tenant, tier)
    max_tokens, wrong_tokens = overrides.max_tokens(tenant, tier)
    problems = [
        *(*wrong_quota, *wrong_limits, *wrong_budget, *wrong_resources),
        *models.problems(tenant, tier, region),
        *(*wrong_template, *wrong_tokens),
    ]
    if problems:
        return tuple(problems)

    ai, pinned = spec.ai, tenant.pinned
    return Resolved(
        name=tenant.name,
        uid=tenant.identity,
        display_name=spec.display_name,
        tier=tier.name,
        region=region.name,
        region_spec=region.spec,
        owners=spec.owners,
        suspended=spec.suspended,
        workloads=(
            Workload(names.workload_namespace(tenant.name), 1),
            *(Workload(names.workload_namespace(tenant.name, n.suffix), n.weight) for n in spec.namespaces),
        ),
        quota=quota,
        features=tier.spec.features,
        database_isolation=pinned.database_isolation
        if pinned
        else spec.database.isolation or tier.spec.database_isolation,
        vectors=models.vectors(tenant, tier, region),
        collection=pinned.collection if pinned else "",
        allowed_models=models.allowed(tenant, tier),
        default_model=models.default(tenant, tier),
        temperature=ai.temperature if ai.temperature is not None else tier.spec.temperature,
        max_tokens_per_request=max_tokens,
        template=template,
        custom_instructions=ai.custom_instructions,
        retrieval=ai.retrieval,
        cache=ai.cache,
        conversations=ai.conversations,
        leak_guard=ai.leak_guard,
        limits=limits,
        budget=budget,
        documents=tier.spec.documents,
        compliance=spec.compliance,
        replicas=spec.runtime.replicas.min if spec.runtime.replicas else tier.spec.runtime.replicas,
        resources=resources,
        beside=_beside(spec),
        notes=_notes(tier, pinned),
    )


def _beside(spec: TenantSpec) -> Mapping[str, Any]:
    said = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude=dict(_TOLD))
    if own := spec.ai.leak_guard.identifiers:
        said["ai"] = {"leakGuard": {"identifiers": list(own)}}
    return {name: value for name, value in said.items() if value != {}}


def _notes(tier: TenantTier, pinned: Pinned | None) -> tuple[str, ...]:
    """What stays as it was made, whatever the tier says now."""
    if pinned is None:
        return ()
    kept = []
    if pinned.vector_isolation != tier.spec.vector_isolation:
        kept.append(f"vectors stay at level {pinned.vector_isolation}")
    if pinned.database_isolation != tier.spec.database_isolation:
        kept.append(f"database stays at level {pinned.database_isolation}")
    if not kept:
        return ()
    return (f"Fixed at first provisioning: {' and '.join(kept)}, tier {tier.name} notwithstanding",)
