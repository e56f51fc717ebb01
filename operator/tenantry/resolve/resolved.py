"""What a tenant comes down to, and what is said of one that comes down to nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tenantry import names
from tenantry.api.conditions import Reason
from tenantry.api.region import DataRegionSpec
from tenantry.api.tenant import Cache, Compliance, Conversations, LeakGuard, Owner, Pinned, Retrieval
from tenantry.api.tier import (
    Budget,
    DatabaseIsolation,
    Documents,
    Features,
    Limits,
    Quota,
    ResourceAmounts,
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
    cache: Cache
    conversations: Conversations
    leak_guard: LeakGuard
    limits: Limits
    budget: Budget | None
    documents: Documents
    compliance: Compliance
    replicas: int
    resources: ResourceAmounts
    beside: Mapping[str, Any] = field(default_factory=dict)
    """What the Tenant's spec says and the runtime's configuration does not, as on the wire: for the audit."""
    notes: tuple[str, ...] = field(default=())
    """Sentences for the status: what differs from the tier, and why."""

    @property
    def runtime_namespace(self) -> str:
        return names.runtime_namespace(self.name)

    @property
    def pins(self) -> Pinned:
        """What a later change of tier leaves as it is."""
        return Pinned(
            region=self.region,
            database_isolation=self.database_isolation,
            vector_isolation=self.vectors.isolation,
            embedding_model=self.vectors.embedding_model,
            dimension=self.vectors.dimension,
            metric=self.vectors.metric,
            collection=self.collection,
        )

    @property
    def home(self) -> str:
        """The first workload namespace."""
        return self.workloads[0].name
