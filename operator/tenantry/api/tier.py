"""TenantTier: what a tenant gets when it says nothing, and how far it may go."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tenantry.api import quantity
from tenantry.api.base import Amount, ApiModel, ModelName, Resource, rule, rules

Quantity = Annotated[
    str,
    Field(
        max_length=32,
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": f"self.matches(r'{quantity.PATTERN}')",
                    "message": "must be a quantity such as 500m, 2 or 4Gi",
                }
            ]
        },
    ),
]
Template = Annotated[
    str,
    Field(
        min_length=1,
        max_length=16384,
        description="The system prompt: Jinja2, sandboxed; variables tenantName, tenantTier, customInstructions. The "
        "guard's own lines always follow it.",
    ),
]
DatabaseIsolation = Literal["Schema", "Database"]
VectorIsolation = Literal["Partition", "Collection", "Database"]


class Quota(ApiModel):
    """A tenant's total over all of its workload namespaces."""

    cpu: Quantity = Field(description="Cores, such as 4 or 500m: the sum of all requests, and of all limits.")
    memory: Quantity = Field(description="Bytes, such as 16Gi: the sum of all requests, and of all limits.")
    pods: int = Field(ge=1, le=100000, description="Pods that have not ended.")
    storage: Quantity = Field(description="Bytes that all PersistentVolumeClaims ask for.")
    ephemeral_storage: Quantity = Field(default="10Gi", description="Bytes of local ephemeral storage.")


class QuotaOverride(ApiModel):
    """A part of a quota; what is unset stays as the tier has it."""

    cpu: Quantity | None = Field(
        default=None, description="Cores, such as 4 or 500m: the sum of all requests, and of all limits."
    )
    memory: Quantity | None = Field(
        default=None, description="Bytes, such as 16Gi: the sum of all requests, and of all limits."
    )
    pods: int | None = Field(default=None, ge=1, le=100000, description="Pods that have not ended.")
    storage: Quantity | None = Field(default=None, description="Bytes that all PersistentVolumeClaims ask for.")
    ephemeral_storage: Quantity | None = Field(default=None, description="Bytes of local ephemeral storage.")


class SubjectLimits(ApiModel):
    """What one user, or one key, may take of its tenant's limits.  Unset means the tier's, and in a tier: no limit."""

    requests_per_minute: int | None = Field(
        default=None,
        ge=1,
        le=10_000_000,
        description="Requests a minute: a bucket of so many, refilled continuously.",
    )
    tokens_per_minute: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000_000,
        description="Tokens a minute, of prompts and answers: a bucket of so many, refilled continuously.",
    )
    tokens_per_day: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000_000_000,
        description="Tokens of one calendar day, in the budget's time zone (UTC without one).",
    )
    concurrency: int | None = Field(
        default=None, ge=1, le=100_000, description="Calls of models that run at a time, over all replicas."
    )


class Limits(SubjectLimits):
    """What a tenant may use of the model.  Unset means the tier's, and in a tier: no limit."""

    per_user: SubjectLimits | None = Field(
        default=None, description="What each user may take; all together no more than the tenant."
    )
    per_key: SubjectLimits | None = Field(
        default=None, description="What each key may take; all together no more than the tenant."
    )


Percent = Annotated[int, Field(ge=1, le=1000)]


class Budget(ApiModel):
    """Money for a calendar month."""

    monthly: Amount = Field(description='US dollars for each month, as a decimal string: "100" or "0.15".')
    time_zone: str | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="Where its days and months begin: an IANA name, such as Europe/Berlin; UTC if unset.",
    )
    on_exceeded: Literal["Block", "AlertOnly"] | None = Field(
        default=None,
        description="Block (the default) refuses calls of models that the budget can't pay; reads go on. "
        "AlertOnly only tells.",
    )
    alert_at: tuple[Percent, ...] | None = Field(
        default=None,
        max_length=10,
        json_schema_extra={"x-kubernetes-list-type": "set"},
        description="Percents of the budget at which an Event on the Tenant and its condition WithinBudget say so, "
        "once a month each; none if unset.",
    )


class Models(ApiModel):
    """Which of the region's models."""

    allowed: tuple[ModelName, ...] = Field(
        min_length=1,
        max_length=64,
        json_schema_extra={"x-kubernetes-list-type": "set"},
        description="What its tenants may use; each needs a price in the region.",
    )
    default: ModelName = Field(description="For calls that name no model, where the tenant has no default of its own.")


class Features(ApiModel):
    """What a tier sells beyond amounts."""

    own_prompt_template: bool = Field(
        default=False, description="The tenant may replace the tier's system prompt template."
    )
    external_services: bool = Field(
        default=False, description="The tenant may have Services of type LoadBalancer and NodePort."
    )


class Documents(ApiModel):
    """How many files a tenant may keep, and how large each may be."""

    files: int = Field(ge=0, le=100_000_000, description="Files at most.")
    max_size: Quantity = Field(description="Bytes of one file at most, such as 10M.")


class ResourceAmounts(ApiModel):
    """Of each runtime Pod: requests and limits."""

    cpu_request: Quantity = Field(default="50m", description="Cores set aside, such as 50m.")
    cpu_limit: Quantity = Field(default="1", description="Cores at most.")
    memory_request: Quantity = Field(default="160Mi", description="Bytes set aside, such as 160Mi.")
    memory_limit: Quantity = Field(default="512Mi", description="Bytes at most.")


class RuntimeDefaults(ApiModel):
    """The tenant's runtime Deployment."""

    replicas: int = Field(
        default=1, ge=1, le=50, description="Pods of the runtime; two or more survive the loss of a node."
    )
    resources: ResourceAmounts = ResourceAmounts()


class TenantTierSpec(ApiModel):
    """Defaults and ceilings of one tier."""

    description: str = Field(default="", max_length=256, description="One line for people.")
    quota: Quota = Field(description="The total over a tenant's workload namespaces.")
    quota_ceiling: Quota | None = Field(
        default=None, description="How far a Tenant's own spec.quota may go; no further than quota if unset."
    )
    database_isolation: DatabaseIsolation = Field(
        default="Schema",
        description="What a new tenant gets in PostgreSQL: a Schema of the region's database, or a Database. A tenant "
        "that is there keeps what it has.",
    )
    vector_isolation: VectorIsolation = Field(
        default="Partition",
        description="What a new tenant gets in Milvus: a Partition of a shared collection (no wall of Milvus' own), a "
        "Collection or a Database. A tenant that is there keeps what it has.",
    )
    models: Models
    temperature: float = Field(
        default=0.7,
        ge=0,
        le=2,
        description="Of tenants that set none: what a call gets that names none, and the most that it may ask for.",
    )
    max_tokens_per_request: int = Field(
        default=500, ge=1, le=1_000_000, description="Tokens of one answer at most; a tenant may set less."
    )
    limits: Limits = Field(default=Limits(), description="For tenants that set none; a tenant may set less, not more.")
    budget: Budget | None = Field(
        default=None,
        description="For tenants that set none; a tenant may set less, not more. Without any, spending has no limit.",
    )
    features: Features = Features()
    documents: Documents
    system_prompt_template: Template
    runtime: RuntimeDefaults = RuntimeDefaults()


class TenantTier(Resource):
    """Defaults and ceilings for the tenants that name it."""

    kind_name: ClassVar[str] = "TenantTier"
    plural: ClassVar[str] = "tenanttiers"
    short_names: ClassVar[tuple[str, ...]] = ("tt",)
    columns: ClassVar[tuple[tuple[str, str, str], ...]] = (
        ("Default model", "string", ".spec.models.default"),
        ("Vectors", "string", ".spec.vectorIsolation"),
        ("CPU", "string", ".spec.quota.cpu"),
        ("Memory", "string", ".spec.quota.memory"),
        ("Budget", "string", ".spec.budget.monthly"),
        ("Age", "date", ".metadata.creationTimestamp"),
    )

    spec: TenantTierSpec = Field(
        json_schema_extra=rules(
            rule(
                "self.models.default in self.models.allowed",
                "spec.models.default must be one of spec.models.allowed",
            )
        )
    )
