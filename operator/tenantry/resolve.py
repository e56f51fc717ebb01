"""Tenant + TenantTier + DataRegion -> one resolved tenant, or every reason why not.  Pure."""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import cache
from zoneinfo import available_timezones

from tenantry import names
from tenantry.api import quantity
from tenantry.api.conditions import Reason
from tenantry.api.region import DataRegion, DataRegionSpec
from tenantry.api.tenant import Owner, Pinned, Retrieval, Tenant
from tenantry.api.tier import (
    Budget,
    DatabaseIsolation,
    Documents,
    Features,
    Limits,
    Quota,
    ResourceAmounts,
    TenantTier,
    VectorIsolation,
)


@dataclass(frozen=True)
class Problem:
    """Why a tenant can't be what it asks for; `message` names the field and says what to do."""

    reason: Reason
    message: str


@dataclass(frozen=True)
class Workload:
    """One workload namespace and its weight in the tenant's quota."""

    name: str
    weight: int


@dataclass(frozen=True)
class VectorChoice:
    isolation: VectorIsolation
    embedding_model: str
    dimension: int
    metric: str


@dataclass(frozen=True)
class Resolved:
    """One tenant with nothing left open: what every builder in `desired` starts from."""

    name: str
    uid: str
    display_name: str
    tier: str
    region: str
    region_spec: DataRegionSpec
    owners: tuple[Owner, ...]
    suspended: bool
    workloads: tuple[Workload, ...]
    """The first is ``tenant-NAME``."""
    quota: Quota
    features: Features
    database_isolation: DatabaseIsolation
    vectors: VectorChoice
    collection: str
    """The physical collection chosen earlier; empty at first provisioning."""
    allowed_models: tuple[str, ...]
    default_model: str
    temperature: float
    max_tokens_per_request: int
    template: str
    custom_instructions: str
    retrieval: Retrieval
    limits: Limits
    budget: Budget | None
    documents: Documents
    audit_retention_days: int
    replicas: int
    resources: ResourceAmounts
    notes: tuple[str, ...] = field(default=())
    """Sentences for the status: what differs from the tier, and why."""

    @property
    def runtime_namespace(self) -> str:
        return names.runtime_namespace(self.name)

    @property
    def home(self) -> str:
        """The first workload namespace."""
        return self.workloads[0].name


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

    pinned = tenant.pinned
    quota, over = _quota(tenant, tier)
    problems += over
    limits, budget, over = _money(tenant, tier)
    problems += over
    resources, over = _runtime(tenant, tier)
    problems += over
    problems += _models(tenant, tier, region)
    vectors = _vectors(tenant, tier, region, pinned)
    if vectors.embedding_model not in {m.name for m in region.spec.provider.models}:
        problems.append(
            Problem(
                Reason.MODEL_WITHOUT_PRICE,
                f"spec.vectors.embeddingModel {vectors.embedding_model!r} has no price in DataRegion {region.name!r}",
            )
        )
    ai = spec.ai
    if ai.system_prompt and not tier.spec.features.own_prompt_template:
        problems.append(
            Problem(
                Reason.FEATURE_NOT_IN_TIER,
                f"spec.ai.systemPrompt: tier {tier.name!r} has no prompt template of the tenant's own; "
                "remove it or move to a tier with that feature (spec.ai.customInstructions is always possible)",
            )
        )
    wanted_tokens = ai.max_tokens_per_request or tier.spec.max_tokens_per_request
    if wanted_tokens > tier.spec.max_tokens_per_request:
        problems.append(
            Problem(
                Reason.QUOTA_ABOVE_CEILING,
                f"spec.ai.maxTokensPerRequest is {wanted_tokens}, tier {tier.name!r} allows "
                f"{tier.spec.max_tokens_per_request}",
            )
        )
    if problems:
        return tuple(problems)

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
        vectors=vectors,
        collection=pinned.collection if pinned else "",
        allowed_models=ai.models.allowed or tier.spec.models.allowed,
        default_model=_default_model(tenant, tier),
        temperature=ai.temperature if ai.temperature is not None else tier.spec.temperature,
        max_tokens_per_request=wanted_tokens,
        template=ai.system_prompt.template if ai.system_prompt else tier.spec.system_prompt_template,
        custom_instructions=ai.custom_instructions,
        retrieval=ai.retrieval,
        limits=limits,
        budget=budget,
        documents=tier.spec.documents,
        audit_retention_days=spec.compliance.retention_days,
        replicas=spec.runtime.replicas.min if spec.runtime.replicas else tier.spec.runtime.replicas,
        resources=resources,
        notes=_notes(tier, pinned),
    )


def _default_model(tenant: Tenant, tier: TenantTier) -> str:
    own = tenant.spec.ai.models
    allowed = own.allowed or tier.spec.models.allowed
    if own.default:
        return own.default
    return tier.spec.models.default if tier.spec.models.default in allowed else allowed[0]


def _models(tenant: Tenant, tier: TenantTier, region: DataRegion) -> list[Problem]:
    own = tenant.spec.ai.models
    allowed = own.allowed or tier.spec.models.allowed
    found = [
        Problem(
            Reason.MODEL_NOT_ALLOWED,
            f"spec.ai.models.allowed names {model!r}, which tier {tier.name!r} does not offer "
            f"(it offers: {', '.join(tier.spec.models.allowed)})",
        )
        for model in allowed
        if model not in tier.spec.models.allowed
    ]
    if _default_model(tenant, tier) not in allowed:
        found.append(
            Problem(
                Reason.MODEL_NOT_ALLOWED,
                f"spec.ai.models.default {own.default!r} is not among the allowed models",
            )
        )
    priced = {m.name for m in region.spec.provider.models}
    found += [
        Problem(
            Reason.MODEL_WITHOUT_PRICE,
            f"Model {model!r} has no price in DataRegion {region.name!r}; add it to spec.provider.models there",
        )
        for model in allowed
        if model in tier.spec.models.allowed and model not in priced
    ]
    return found


def _vectors(tenant: Tenant, tier: TenantTier, region: DataRegion, pinned: Pinned | None) -> VectorChoice:
    if pinned:
        return VectorChoice(pinned.vector_isolation, pinned.embedding_model, pinned.dimension, pinned.metric)
    own, default = tenant.spec.vectors, region.spec.embedding
    return VectorChoice(
        own.isolation or tier.spec.vector_isolation,
        own.embedding_model or default.model,
        own.dimension or default.dimension,
        own.metric or default.metric,
    )


def _quota(tenant: Tenant, tier: TenantTier) -> tuple[Quota, list[Problem]]:
    ceiling = tier.spec.quota_ceiling or tier.spec.quota
    override = {k: v for k, v in tenant.spec.quota.model_dump().items() if v is not None}
    problems = [
        Problem(
            Reason.QUOTA_ABOVE_CEILING,
            f"spec.quota.{_camel(key)} is {value}, tier {tier.name!r} allows at most {getattr(ceiling, key)}",
        )
        for key, value in override.items()
        if quantity.parse(value) > quantity.parse(getattr(ceiling, key))
    ]
    return tier.spec.quota.model_copy(update=override), problems


def _money(tenant: Tenant, tier: TenantTier) -> tuple[Limits, Budget | None, list[Problem]]:
    problems: list[Problem] = []
    override = {k: v for k, v in tenant.spec.ai.limits.model_dump().items() if v is not None}
    for key, value in override.items():
        most = getattr(tier.spec.limits, key)
        if most is not None and value > most:
            problems.append(
                Problem(
                    Reason.QUOTA_ABOVE_CEILING,
                    f"spec.ai.limits.{_camel(key)} is {value}, tier {tier.name!r} allows at most {most}",
                )
            )
    limits = tier.spec.limits.model_copy(update=override)
    own, default = tenant.spec.ai.budget, tier.spec.budget
    if own is None:
        if default and default.time_zone and default.time_zone not in _time_zones():
            problems.append(
                Problem(
                    Reason.INVALID_SPEC,
                    f"spec.budget.timeZone {default.time_zone!r} of tier {tier.name!r} is no IANA time zone such as "
                    "Europe/Berlin; correct the TenantTier",
                )
            )
        return limits, default, problems
    if default and Decimal(own.monthly) > Decimal(default.monthly):
        problems.append(
            Problem(
                Reason.QUOTA_ABOVE_CEILING,
                f"spec.ai.budget.monthly is {own.monthly}, tier {tier.name!r} allows at most {default.monthly}",
            )
        )
    if default and default.on_exceeded != "AlertOnly" and own.on_exceeded == "AlertOnly":
        problems.append(
            Problem(
                Reason.FEATURE_NOT_IN_TIER,
                f"spec.ai.budget.onExceeded: tier {tier.name!r} blocks calls over budget; remove AlertOnly",
            )
        )
    if own.time_zone and own.time_zone not in _time_zones():
        problems.append(
            Problem(
                Reason.INVALID_SPEC,
                f"spec.ai.budget.timeZone {own.time_zone!r} is no IANA time zone such as Europe/Berlin",
            )
        )
    base = default.model_dump() if default else {}
    return (
        limits,
        Budget(**{**base, **{k: v for k, v in own.model_dump().items() if v is not None}}),
        problems,
    )


def _notes(tier: TenantTier, pinned: Pinned | None) -> tuple[str, ...]:
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


def _runtime(tenant: Tenant, tier: TenantTier) -> tuple[ResourceAmounts, list[Problem]]:
    override = {k: v for k, v in tenant.spec.runtime.resources.model_dump().items() if v is not None}
    resources = tier.spec.runtime.resources.model_copy(update=override)
    problems = [
        Problem(
            Reason.INVALID_SPEC,
            f"spec.runtime.resources: {what}Request is {request}, above {what}Limit, which is {limit}",
        )
        for what, request, limit in (
            ("cpu", resources.cpu_request, resources.cpu_limit),
            ("memory", resources.memory_request, resources.memory_limit),
        )
        if quantity.parse(request) > quantity.parse(limit)
    ]
    return resources, problems


@cache
def _time_zones() -> frozenset[str]:
    """Looking them up reads a folder with hundreds of files."""
    return frozenset(available_timezones())


def _camel(key: str) -> str:
    head, *rest = key.split("_")
    return head + "".join(part.capitalize() for part in rest)
