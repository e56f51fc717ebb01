"""Tenant: one customer."""

from datetime import datetime
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationError

from tenantry import names
from tenantry.api.base import (
    DNS_LABEL,
    DNS_SUBDOMAIN,
    UNSEEN,
    ApiModel,
    Condition,
    Jurisdiction,
    ModelName,
    Resource,
    condition_list,
    duration_rules,
    rule,
    rules,
)
from tenantry.api.conditions import Type
from tenantry.api.region import Metric
from tenantry.api.tier import (
    Budget,
    DatabaseIsolation,
    Limits,
    Percent,
    Quantity,
    QuotaOverride,
    Template,
    VectorIsolation,
)

Name253 = Annotated[str, Field(min_length=1, max_length=253)]
TierName = Annotated[str, Field(min_length=1, max_length=63)]


class Owner(ApiModel):
    """Who manages the tenant's workloads."""

    kind: Literal["User", "Group", "ServiceAccount"] = Field(
        description="What the name is of, as in a RoleBinding's subjects."
    )
    name: Name253 = Field(description="As the API server knows whoever it is.")
    namespace: str = Field(default="", max_length=63, description="Where the ServiceAccount is; only for one.")


class ExtraNamespace(ApiModel):
    """An extra workload namespace, tenant-NAME--SUFFIX."""

    suffix: str = Field(
        min_length=1,
        max_length=names.LONGEST_SUFFIX,
        description="The namespace is tenant-NAME--SUFFIX: a DNS label of at most 14 characters.",
    )
    weight: int = Field(
        default=1,
        ge=1,
        le=100,
        description="Its share of the tenant's quota beside the others'; the first namespace, tenant-NAME, weighs 1.",
    )


class Database(ApiModel):
    """The tenant's part of the region's PostgreSQL."""

    isolation: DatabaseIsolation | None = Field(
        default=None,
        description="A Schema of the region's database, or a Database of its own; the tier's if unset. Fixed at first "
        "provisioning.",
    )


class Vectors(ApiModel):
    """The tenant's part of the region's Milvus, and what its vectors are made with."""

    isolation: VectorIsolation | None = Field(
        default=None,
        description="A Partition of a shared collection (no wall of Milvus' own), a Collection or a Database; the "
        "tier's if unset. Fixed at first provisioning.",
    )
    embedding_model: ModelName | None = Field(
        default=None,
        description="What documents and queries are embedded with; the region's if unset. Fixed at first provisioning.",
    )
    dimension: int | None = Field(
        default=None,
        ge=2,
        le=32768,
        description="Numbers in each of its vectors; the region's if unset. Fixed at first provisioning.",
    )
    metric: Metric | None = Field(
        default=None,
        description="How two vectors are compared; the region's if unset. Fixed at first provisioning.",
    )


class TenantModels(ApiModel):
    """Which of the tier's models."""

    allowed: tuple[ModelName, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        json_schema_extra={"x-kubernetes-list-type": "set"},
        description="The models that may be called, all of them the tier's; all of the tier's if unset.",
    )
    default: ModelName | None = Field(default=None, description="For calls that name no model; the tier's if unset.")


class SystemPrompt(ApiModel):
    """A template of the tenant's own."""

    template: Template


class Retrieval(ApiModel):
    """How documents are searched for an answer."""

    top_k: int = Field(default=5, ge=1, le=50, description="Passages given to the model at most.")
    min_score: float = Field(
        default=0.2, ge=-1, le=1, description="Passages that score lower are left out; the scale is the metric's."
    )


class Cache(ApiModel):
    """Which answers may be given a second time without asking the model."""

    mode: Literal["All", "Deterministic", "Off"] = Field(
        default="All",
        description="All: to the same request. Deterministic: only where its temperature is 0. Off: none. Never in "
        "conversations and with tools.",
    )
    scope: Literal["Tenant", "User"] = Field(
        default="Tenant",
        description="Who may be given an answer again: everybody of the tenant, or only the user that it was made for.",
    )
    ttl: str = Field(
        default="1h",
        max_length=18,
        description="How long an answer is kept, such as 1h.",
        json_schema_extra=duration_rules("1s", "720h"),
    )


Identifier = Annotated[str, Field(min_length=4, max_length=64)]


class LeakGuard(ApiModel):
    """What happens to what must not be in a prompt, a retrieved text or an answer."""

    foreign_tenant: Literal["Block", "Redact", "Warn"] = Field(
        default="Block", description="What happens where a text names another tenant."
    )
    secrets: Literal["Redact", "Block", "Warn"] = Field(
        default="Redact", description="What happens where a text holds an API key, a password or a card number."
    )
    identifiers: tuple[Identifier, ...] = Field(
        default=(),
        max_length=64,
        json_schema_extra={"x-kubernetes-list-type": "set"},
        description="Of this tenant's own, such as project-x7: no other tenant of its region may be shown them. "
        "Letters, digits, hyphens and underscores; no bare word, which might be everybody's.",
    )


class Conversations(ApiModel):
    """Conversations that the runtime keeps for the tenant's users."""

    retention_days: int | None = Field(
        default=None,
        ge=1,
        le=3650,
        description="Days after its last item that a conversation is deleted; kept until somebody does if unset.",
    )


class Ai(ApiModel):
    """What the tenant's runtime does and may spend."""

    models: TenantModels = TenantModels()
    temperature: float | None = Field(
        default=None,
        ge=0,
        le=2,
        description="What a call gets that names none, and the most that it may ask for; the tier's if unset.",
    )
    max_tokens_per_request: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Tokens of one answer at most: a call may ask for less. At most the tier's, which holds if unset.",
    )
    system_prompt: SystemPrompt | None = Field(
        default=None, description="Replaces the tier's template, where the tier has that feature."
    )
    custom_instructions: str = Field(
        default="", max_length=8192, description="Added to the system prompt, as the template has it."
    )
    retrieval: Retrieval = Retrieval()
    cache: Cache = Cache()
    conversations: Conversations = Conversations()
    leak_guard: LeakGuard = LeakGuard()
    limits: Limits = Field(default=Limits(), description="Each at most the tier's, which holds where unset.")
    budget: Budget | None = Field(default=None, description="At most the tier's, which holds if unset.")


AUDIT_RETENTION_DAYS = 365


class Compliance(ApiModel):
    """Rules that the tenant is under."""

    data_residency: Jurisdiction | None = Field(
        default=None, description="The jurisdiction that the data must stay in: the region must be of it."
    )
    certifications: tuple[Literal["HIPAA", "GDPR", "SOC2", "PCI-DSS"], ...] = Field(
        default=(),
        max_length=4,
        json_schema_extra={"x-kubernetes-list-type": "set"},
        description="HIPAA demands a region in the US. With any of them the audit outlives a deleted tenant.",
    )
    logging_level: Literal["Basic", "Detailed", "Full"] = Field(
        default="Basic",
        description="What an audit row has beside who did what, to what and with which outcome. Detailed: parameters, "
        "ids, tokens, and the values of changed settings. Full: also bodies, with secrets redacted.",
    )
    audit_retention_days: int | None = Field(
        default=None,
        ge=1,
        le=3650,
        description="Days that audit rows are kept, 365 if unset. Where set, the audit outlives a deleted tenant.",
    )

    @property
    def retention_days(self) -> int:
        """How long an audit row is kept."""
        return self.audit_retention_days or AUDIT_RETENTION_DAYS

    @property
    def archives_audit(self) -> bool:
        """Whether the audit goes to the archive when the tenant is deleted: somebody must be able to show it."""
        return bool(self.certifications) or self.audit_retention_days is not None


class Replicas(ApiModel):
    """How many runtime Pods."""

    min: int = Field(ge=1, le=50, description="How many at least.")


class RuntimeResources(ApiModel):
    """For each runtime Pod; what is unset stays as the tier has it."""

    cpu_request: Quantity | None = Field(default=None, description="Cores set aside.")
    cpu_limit: Quantity | None = Field(default=None, description="Cores at most.")
    memory_request: Quantity | None = Field(default=None, description="Bytes set aside.")
    memory_limit: Quantity | None = Field(default=None, description="Bytes at most.")


class Runtime(ApiModel):
    """The tenant's runtime Deployment."""

    replicas: Replicas | None = Field(default=None, description="The tier's if unset.")
    resources: RuntimeResources = RuntimeResources()


class Deletion(ApiModel):
    """What a deletion leaves."""

    policy: Literal["Retain", "Delete"] = Field(
        default="Retain",
        description="What becomes of the data when the Tenant is deleted. Retain: it stays, out of everybody's reach "
        "but the region's admin's. Delete: it is removed.",
    )


def _fixed(path: str) -> dict[str, str]:
    parts = path.split(".")
    parent = ".".join(["self", *parts[:-1]])
    old = ".".join(["oldSelf", *parts[:-1]])
    leaf = parts[-1]
    new_has, old_has = f"has({parent}.{leaf})", f"has({old}.{leaf})"
    if len(parts) > 1:
        new_has, old_has = f"has({parent}) && {new_has}", f"has({old}) && {old_has}"
    return rule(
        f"(({new_has}) == ({old_has})) && (!({new_has}) || {parent}.{leaf} == {old}.{leaf})",
        f"spec.{path} can't be changed: it is fixed when the tenant is made",
    )


class TenantSpec(ApiModel):
    """What the customer gets; most of it has a default in the tier."""

    display_name: str = Field(
        min_length=1, max_length=128, description="The customer's name, as its system prompt says it."
    )
    tier: TierName = Field(default="free", description="The TenantTier that gives defaults and ceilings.")
    region: TierName | None = Field(
        default=None,
        description="The DataRegion that serves it; if unset, one of compliance.dataResidency's jurisdiction, else the "
        "default one. Fixed when the Tenant is made.",
    )
    owners: tuple[Owner, ...] = Field(
        default=(), max_length=64, description="Who manages the tenant's workload namespaces."
    )
    suspended: bool = Field(default=False, description="While true, the runtime refuses every call; nothing is lost.")
    namespaces: tuple[ExtraNamespace, ...] = Field(
        default=(),
        max_length=16,
        description="Workload namespaces besides tenant-NAME, with which they share the quota.",
    )
    quota: QuotaOverride = Field(
        default=QuotaOverride(), description="What differs from the tier's quota, within the tier's ceiling."
    )
    database: Database = Database()
    vectors: Vectors = Vectors()
    ai: Ai = Ai()
    compliance: Compliance = Compliance()
    runtime: Runtime = Runtime()
    deletion: Deletion = Deletion()
    deletion_protection: bool = Field(default=False, description="Deleting the Tenant is refused while this is true.")


class Pinned(ApiModel):
    """What resolved at first provisioning; a change of tier keeps it."""

    region: str = Field(max_length=63, description="The DataRegion that holds the data.")
    database_isolation: DatabaseIsolation = Field(description="Level of the database.")
    vector_isolation: VectorIsolation = Field(description="Level of the vectors.")
    embedding_model: str = Field(max_length=128, description="Documents and queries use it.")
    dimension: int = Field(description="Numbers in each vector.")
    metric: Metric = Field(description="How two vectors are compared.")
    collection: str = Field(default="", max_length=255, description="Physical collection.")


class Spend(ApiModel):
    """What the month has cost so far."""

    month: str = Field(max_length=7, description="YYYY-MM in the budget's time zone.")
    amount: str = Field(max_length=32, description="US dollars, settled.")
    alerted: tuple[Percent, ...] = Field(
        default=(), max_length=1000, description="Percents of the budget of which an Event has told this month."
    )


class RolledBack(ApiModel):
    """A first provisioning that failed for good: what it had made is removed until it can succeed."""

    state: Literal["Removing", "Removed", "Trying"] = Field(
        description="Trying: what failed is made first, and the rest once that holds."
    )
    failed: tuple[Annotated[str, Field(max_length=64)], ...] = Field(
        default=(), max_length=8, description="The conditions that failed for good; none where the spec did."
    )


UNKNOWN = -1
"""In place of a number that was forgotten."""


class RotatedCredentials(ApiModel):
    """Whose turn it is among the tenant's rotated logins; never a login itself."""

    generation: int = Field(
        default=0, ge=0, le=999_999_999, description="How often the runtime's logins were replaced so far."
    )
    rotated_at: datetime | None = Field(default=None, description="When the last replacement began.")
    requested: str = Field(
        default="", max_length=128, description="The annotation tenantry.dev/rotate that was last heard."
    )
    rolled_out_at: datetime | None = Field(
        default=None, description="When every replica of the runtime was seen to use this generation."
    )
    previous_until: datetime | None = Field(
        default=None,
        description="While it is there, the generation before is still accepted, and at the longest until then.",
    )
    shared_user: int = Field(
        default=0,
        ge=UNKNOWN,
        le=999_999_999,
        description="Which Milvus user of its shared collection this generation goes with, counted from 0; "
        "-1 while that is not known.",
    )

    @property
    def rolling(self) -> bool:
        """Not yet seen to be used by every replica."""
        return self.generation > 0 and self.rolled_out_at is None

    @property
    def draining(self) -> bool:
        """Used by every replica, and the generation before may still be accepted."""
        return self.rolled_out_at is not None and self.previous_until is not None


class TenantStatus(ApiModel):
    """What the operator saw to hold; never a secret."""

    observed_generation: int | None = Field(
        default=None, description="The metadata.generation that the operator last acted on."
    )
    conditions: tuple[Condition, ...] = condition_list(32)
    tier: str = Field(default="", max_length=63, description="The tier in force.")
    region: str = Field(default="", max_length=63, description="The region in force.")
    endpoint: str = Field(default="", max_length=255, description="Base URL for the official openai SDK.")
    namespaces: tuple[Annotated[str, Field(max_length=63)], ...] = Field(
        default=(), max_length=32, description="Workload and runtime namespaces."
    )
    database: str = Field(default="", max_length=255, description="Database and schema.")
    vectors: str = Field(default="", max_length=512, description="Database, collection and partition.")
    secrets: tuple[Annotated[str, Field(max_length=320)], ...] = Field(
        default=(), max_length=32, description="NAMESPACE/NAME of the tenant's own Secrets."
    )
    pinned: Pinned | None = None
    spend: Spend | None = None
    first_ready_at: datetime | None = Field(
        default=None, description="When it was Ready for the first time; what was made is never rolled back since."
    )
    adopted_uid: str = Field(
        default="",
        max_length=36,
        description="The UID that its things carry, where that is another Tenant's before it, as "
        "the annotation tenantry.dev/adopt-uid asked for.",
    )
    rolled_back: RolledBack | None = None
    credentials: RotatedCredentials | None = None


class Tenant(Resource):
    """One customer: isolated namespaces, database, vectors and an AI runtime of its own."""

    kind_name: ClassVar[str] = "Tenant"
    plural: ClassVar[str] = "tenants"
    short_names: ClassVar[tuple[str, ...]] = ("tn",)
    columns: ClassVar[tuple[tuple[str, str, str], ...]] = (
        ("Tier", "string", ".spec.tier"),
        ("Region", "string", ".status.region"),
        ("Ready", "string", ".status.conditions[?(@.type=='Ready')].status"),
        ("Reason", "string", ".status.conditions[?(@.type=='Ready')].reason"),
        ("Spend", "string", ".status.spend.amount"),
        ("Endpoint", "string", ".status.endpoint"),
        ("Age", "date", ".metadata.creationTimestamp"),
    )
    root_rules: ClassVar[tuple[dict[str, str], ...]] = (
        rule(
            f"self.metadata.name.size() <= {names.LONGEST_TENANT}",
            f"metadata.name must have at most {names.LONGEST_TENANT} characters",
        ),
        rule("!self.metadata.name.contains('--')", 'metadata.name must not contain "--"'),
        rule(
            "self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
            "metadata.name must be a DNS label: lower-case letters, digits and hyphens",
        ),
    )
    default_status: ClassVar[dict[str, Any] | None] = UNSEEN

    spec: TenantSpec = Field(
        json_schema_extra=rules(
            rule(
                "!has(self.compliance) || !has(self.compliance.certifications) || "
                "!('HIPAA' in self.compliance.certifications) || !has(self.compliance.dataResidency) || "
                "self.compliance.dataResidency == 'US'",
                "spec.compliance.dataResidency must be US for a tenant with the HIPAA certification",
            ),
            rule(
                "!has(self.namespaces) || self.namespaces.all(a, self.namespaces.exists_one(b, b.suffix == a.suffix))",
                "spec.namespaces must not name a suffix twice",
            ),
            rule(
                "!has(self.namespaces) || self.namespaces.all(n, n.suffix.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')"
                " && !n.suffix.contains('--'))",
                'spec.namespaces[].suffix must be a DNS label without "--"',
            ),
            rule(
                "!has(self.owners) || self.owners.all(o, (o.kind == 'ServiceAccount') == (has(o.__namespace__) && "
                "o.__namespace__ != ''))",
                "spec.owners[].namespace is needed for a ServiceAccount and only there",
            ),
            rule(
                "!has(self.owners) || self.owners.all(o, o.kind != 'ServiceAccount' || ("
                f"o.name.matches('{DNS_SUBDOMAIN}') && has(o.__namespace__) && "
                f"o.__namespace__.matches('{DNS_LABEL}')))",
                "spec.owners[].name and namespace of a ServiceAccount must be names as Kubernetes has them",
            ),
            rule(
                "!has(self.owners) || self.owners.all(o, !(o.name in ['system:anonymous', 'system:authenticated', "
                "'system:unauthenticated', 'system:serviceaccounts']))",
                "spec.owners[].name must not stand for everybody",
            ),
            rule(
                "!has(self.ai) || !has(self.ai.models) || !has(self.ai.models.allowed) || "
                "!has(self.ai.models.default) || self.ai.models.default in self.ai.models.allowed",
                "spec.ai.models.default must be one of spec.ai.models.allowed",
            ),
            rule(
                "!has(self.ai) || !has(self.ai.leakGuard) || !has(self.ai.leakGuard.identifiers) || "
                "self.ai.leakGuard.identifiers.all(i, i.matches('^[A-Za-z0-9_-]*$'))",
                "spec.ai.leakGuard.identifiers[] must consist of letters, digits, hyphens and underscores",
            ),
            rule(
                "!has(self.ai) || !has(self.ai.leakGuard) || !has(self.ai.leakGuard.identifiers) || "
                "self.ai.leakGuard.identifiers.all(i, i.matches('[0-9_-]'))",
                "spec.ai.leakGuard.identifiers[] must hold a digit, a hyphen or an underscore: a bare word may be "
                "everybody's",
            ),
            _fixed("database.isolation"),
            _fixed("vectors.isolation"),
            _fixed("vectors.dimension"),
            _fixed("vectors.embeddingModel"),
            _fixed("vectors.metric"),
            _fixed("region"),
        )
    )
    status: TenantStatus | None = None

    @property
    def identity(self) -> str:
        """The UID that everything made for this Tenant carries: the one it has adopted, else its own.

        Writes to the Tenant itself use `uid`.
        """
        return (self.status.adopted_uid if self.status else "") or self.uid

    @property
    def asks_for(self) -> str:
        """The UID that it asks to adopt and has not; empty where there is none."""
        asked = self.metadata.annotations.get(names.ADOPT_ANNOTATION, "").strip()
        return asked if asked != self.identity else ""

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """As its status has them."""
        return self.status.conditions if self.status else ()

    def holds(self, condition: Type) -> bool:
        """Whether the status says that it is True."""
        return any(c.type == condition and c.status == "True" for c in self.conditions)

    @property
    def rolled_back(self) -> RolledBack | None:
        """What its status says of a first provisioning that failed for good."""
        return self.status.rolled_back if self.status else None

    @property
    def was_ready(self) -> bool:
        """Whether it ever served: then nothing of it is removed but by its deletion.

        A tenant that an older operator made shows it by its runtime's condition.  What is older than the Tenant
        itself was restored from a backup, and tells of another one.
        """
        if self.first_ready:
            return True
        said = (c.last_transition_time for c in self.conditions if c.type in _SERVES and c.status == "True")
        return any(when and self._of_this_one(when) for when in said)

    @property
    def first_ready(self) -> datetime | None:
        """When it was first Ready."""
        when = self.status.first_ready_at if self.status else None
        return when if when and self._of_this_one(when) else None

    def _of_this_one(self, when: datetime) -> bool:
        return self.metadata.creation_timestamp is None or when >= self.metadata.creation_timestamp

    @cached_property
    def noted(self) -> Pinned | None:
        """The pins as the annotation has them; None where it is missing or not understood."""
        try:
            return Pinned.model_validate_json(self.metadata.annotations.get(names.PINNED_ANNOTATION, ""))
        except ValidationError:
            return None

    @property
    def pinned(self) -> Pinned | None:
        """What first provisioning fixed: by the annotation, else by the status.

        Nothing is fixed while nothing is there of a first provisioning that failed.
        """
        if self.rolled_back and self.rolled_back.state == "Removed" and not self.asks_for:
            return None
        return self.noted or (self.status.pinned if self.status else None)


_SERVES = (Type.READY, Type.RUNTIME)
