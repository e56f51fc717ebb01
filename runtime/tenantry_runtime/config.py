"""What one runtime is told: the contract between the operator, which writes it, and the service, which reads it.

Two parts, because they change at different speeds:

- `Credentials` is one JSON file, mounted from a Secret of the runtime namespace.  It holds what must not be
  in a database: how to reach the stores and the model provider.
- `Configuration` is one row of the tenant's runtime schema (table ``configuration``).  It holds what a
  tenant may change: prompts, models, limits, budget.  A change is announced by NOTIFY without a payload.

A field that is added must have a default, and the service ignores those that it does not know: an operator that was
upgraded goes on with the image that is there, and the other way round.
"""

import hashlib
import hmac
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

NANO = 1_000_000_000
"""Nano-dollars in a dollar: money is counted in integers of this unit."""

CREDENTIALS_VARIABLE = "TENANTRY_CREDENTIALS"
"""The environment variable that names the file of `Credentials`."""


class Model(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Postgres(Model):
    """A login of the runtime's own; its search_path is set on the role."""

    host: str
    port: int = 5432
    database: str
    user: str
    password: SecretStr
    schema_name: str = Field(description="The runtime's schema, such as tenant_acme__runtime.")
    sslmode: Literal["disable", "prefer", "require", "verify-full"] = "prefer"


class Milvus(Model):
    """Where the tenant's vectors are, and a user that may read and write them."""

    uri: str
    user: str = ""
    password: SecretStr = SecretStr("")
    database: str = "default"
    collection: str
    partition: str | None = Field(
        default=None, description="Set where the collection is shared; every call then names it."
    )
    tag: str = Field(description="The Tenant's UID without dashes: carried by every chunk, checked on every hit.")


class Provider(Model):
    """An OpenAI-compatible endpoint, such as https://api.openai.com/v1."""

    base_url: str
    api_key: SecretStr
    timeout_seconds: float = 120


class Credentials(Model):
    """The mounted file.  `generation` lets a reader tell two versions apart in logs without their secrets."""

    postgres: Postgres
    milvus: Milvus
    provider: Provider

    def to_json(self) -> str:
        """The file's text, with the secrets in the clear: only ever written into a Secret."""

        def reveal(value: object) -> object:
            if isinstance(value, SecretStr):
                return value.get_secret_value()
            if isinstance(value, dict):
                return {key: reveal(item) for key, item in value.items()}
            return value

        import json

        return json.dumps(reveal(self.model_dump()), sort_keys=True)


class ModelPrice(Model):
    """Nano-dollars per token."""

    input_nano: int = Field(ge=0)
    output_nano: int = Field(ge=0)
    cached_input_nano: int | None = Field(
        default=None, ge=0, description="For input that the provider had cached; None: as all other input."
    )

    @property
    def cached_nano(self) -> int:
        return self.input_nano if self.cached_input_nano is None else self.cached_input_nano

    @property
    def told(self) -> dict[str, int]:
        """As the audit keeps it."""
        return {"input": self.input_nano, "cached": self.cached_nano, "output": self.output_nano}


class UnitPrices(Model):
    """Nano-dollars for one statement that a request ran, and for one vector search."""

    database_query_nano: int = Field(default=0, ge=0)
    vector_search_nano: int = Field(default=0, ge=0)


class SubjectLimits(Model):
    """What one user, or one key, may take of its tenant's limits.  None means without a limit of its own."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    concurrency: int | None = None


class Limits(SubjectLimits):
    """The tenant's own limits, and those of each of its users and keys."""

    per_user: SubjectLimits | None = None
    per_key: SubjectLimits | None = None


class Budget(Model):
    monthly_nano: int = Field(ge=0, description="Nano-dollars a calendar month in `time_zone`.")
    time_zone: str = "UTC"
    on_exceeded: Literal["Block", "AlertOnly"] = "Block"
    alert_at: tuple[int, ...] = Field(default=(), description="Percents of the budget, rising.")


class Cache(Model):
    """Which answers may be given a second time, to whom, and for how long."""

    mode: Literal["All", "Deterministic", "Off"] = Field(
        default="All", description="Deterministic: only requests at temperature 0."
    )
    scope: Literal["Tenant", "User"] = "Tenant"
    ttl_seconds: int = Field(default=3600, ge=1)


class LeakGuard(Model):
    """What happens to what the guard finds, by kind."""

    foreign_tenant: Literal["Block", "Redact", "Warn"] = "Block"
    secrets: Literal["Redact", "Block", "Warn"] = "Redact"


class Compliance(Model):
    logging_level: Literal["Basic", "Detailed", "Full"] = "Basic"
    audit_retention_days: int = Field(default=365, ge=1)
    gdpr: bool = Field(default=False, description="Each read of personal data is an audit event too.")


class Retrieval(Model):
    top_k: int = Field(default=5, ge=1, le=50)
    min_score: float = Field(default=0.2, ge=-1, le=1)


class Documents(Model):
    max_files: int = Field(ge=0)
    max_file_bytes: int = Field(ge=0)


class Embedding(Model):
    model: str
    dimension: int
    metric: Literal["COSINE", "IP", "L2"] = "COSINE"


class Prompt(Model):
    template: str
    custom_instructions: str = ""


class Configuration(Model):
    """Everything the service needs to know of its tenant that is no secret."""

    tenant: str
    tenant_uid: str
    display_name: str
    tier: str
    region: str
    suspended: bool = False
    default_model: str
    allowed_models: tuple[str, ...]
    prices: dict[str, ModelPrice] = Field(description="By model, embedding models included; no price, no call.")
    prices_version: str = Field(default="", description="Date of the price list that applies (ISO).")
    unit_prices: UnitPrices = UnitPrices()
    temperature: float = 0.7
    max_tokens_per_request: int = 500
    prompt: Prompt
    retrieval: Retrieval = Retrieval()
    limits: Limits = Limits()
    budget: Budget | None = None
    documents: Documents
    embedding: Embedding
    cache: Cache = Cache()
    replicas: int = Field(
        default=1,
        ge=1,
        description="Processes of this service as a rule.  Where there are several, they share calls in flight.",
    )
    leak_guard: LeakGuard = LeakGuard()
    compliance: Compliance = Compliance()
    spec: dict[str, Any] = Field(
        default_factory=dict,
        description="What else the Tenant's spec says, as on the wire.  The service has no use for it; it is here so "
        "that each change of the Tenant is a change of this row, which is audited in the same transaction.",
    )
    conversations_retention_days: int | None = Field(
        default=None, ge=1, description="Days after the last item of a conversation; None: kept until it is deleted."
    )

    def canonical(self) -> str:
        """The row's JSON text; equal configurations have equal text."""
        return self.model_dump_json()

    def digest(self) -> str:
        """SHA-256 (hex) of `canonical()`."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()


Scope = Literal["chat", "embeddings", "documents", "conversations", "usage", "audit", "admin"]


class AccessKeyRow(Model):
    """One row of table ``access_keys``: what the runtime knows of a key is its SHA-256, never the key."""

    uid: str = Field(description="The AccessKey's UID in Kubernetes; while the key is rotated, two rows have it.")
    name: str
    namespace: str
    key_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="The primary key.")]
    user_name: str = ""
    scopes: tuple[Scope, ...]
    act_for_users: bool = False
    expires_at: float | None = Field(default=None, description="Unix seconds.")
    generation: int = Field(default=0, ge=0, description="How often the key had been replaced when this one came.")


def key_sha256(key: str) -> str:
    """The hash under which a key is stored.  Keys hold 256 random bits, so one fast round is enough."""
    return hashlib.sha256(key.encode()).hexdigest()


LEAK_HASH_BYTES = 16


def leak_hash(key: bytes, identifier: str) -> bytes:
    """An identifier as the region's leak list has it (``tenantry_shared.leak_identifiers``): LEAK_HASH_BYTES.

    `key` is the region's, from ``tenantry_shared.leak_settings``.  Upper and lower case are one.
    """
    return hmac.digest(key, identifier.lower().encode(), hashlib.sha256)[:LEAK_HASH_BYTES]


def channel(tenant_uid: str) -> str:
    """The NOTIFY channel (without a payload) that says: read the configuration again."""
    return "tenantry_" + tenant_uid.replace("-", "")


LEAKS_CHANNEL = "tenantry_leaks"
"""The NOTIFY channel (without a payload) that says: the leak list of this database has changed.

Anybody in the database may say so: it asks for a look at the list's version, no more.
"""


def nano_dollars(amount: Decimal | str) -> int:
    """Dollars to nano-dollars; raises ValueError for what has more than nine decimals."""
    scaled = Decimal(amount) * NANO
    if scaled != scaled.to_integral_value():
        raise ValueError(f"{amount} dollars is finer than a nano-dollar")
    return int(scaled)
