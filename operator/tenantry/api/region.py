"""DataRegion: a jurisdiction, and what serves it."""

from datetime import date
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tenantry.api.base import (
    DECIMAL,
    Amount,
    ApiModel,
    Jurisdiction,
    ModelName,
    Resource,
    SecretReference,
    rule,
    rules,
)

Host = Annotated[str, Field(min_length=1, max_length=253)]
Port = Annotated[int, Field(ge=1, le=65535)]
Cidr = Annotated[str, Field(min_length=1, max_length=49)]
Metric = Literal["COSINE", "IP", "L2"]


class PostgresServer(ApiModel):
    """A PostgreSQL 15 or later (16 for production), with an admin that is no superuser."""

    host: Host = Field(description="Host name or address, as Pods and the operator reach it.")
    port: Port = Field(default=5432, description="TCP port.")
    database: str = Field(
        default="tenantry",
        min_length=1,
        max_length=63,
        description="The application database; the admin owns it.",
    )
    credentials_secret: SecretReference = Field(
        description="Secret with keys username and password of that admin, in the operator's namespace."
    )
    sslmode: Literal["disable", "prefer", "require", "verify-full"] = Field(
        default="prefer",
        description="For operator and runtimes, as libpq has it; require or verify-full across a network.",
    )


class MilvusServer(ApiModel):
    """A Milvus 2.3 or later."""

    uri: str = Field(
        min_length=1,
        max_length=512,
        description="As Pods and the operator reach it, such as http://milvus.data.svc:19530.",
    )
    credentials_secret: SecretReference | None = Field(
        default=None,
        description="Secret with keys username and password of its administrator, in the operator's namespace; unset "
        "only with allowUnauthenticated.",
    )
    allow_unauthenticated: bool = Field(
        default=False,
        description="Accept a Milvus without authentication. "
        "Whoever reaches its port then reads every tenant's vectors.",
    )


class ModelOffer(ApiModel):
    """One model, priced in US dollars per million tokens."""

    name: ModelName = Field(description="As the provider calls it.")
    input_per_million: Amount = Field(description='For input, US dollars, as a decimal string such as "0.15".')
    output_per_million: Amount = Field(default="0", description="For output; 0 for an embedding model.")
    cached_input_per_million: Amount | None = Field(
        default=None,
        description="For input that the provider had in its own cache, where it bills that for less; "
        "inputPerMillion if unset.",
    )


class UnitPrices(ApiModel):
    """What else a tenant pays for, in US dollars each, as decimal strings of at most nine decimals."""

    database_query: Amount = Field(
        default="0", description="For one statement that is run for a request; the ledger's own cost nothing."
    )
    vector_search: Amount = Field(default="0", description="For one search in the tenant's vectors.")


class ModelProvider(ApiModel):
    """An OpenAI-compatible endpoint."""

    base_url: str = Field(min_length=1, max_length=512, description="Of its API, such as https://api.openai.com/v1.")
    credentials_secret: SecretReference = Field(description="Secret with the key api-key, in the operator's namespace.")
    models: tuple[ModelOffer, ...] = Field(
        min_length=1,
        max_length=128,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        description="What it offers, with prices; a model that is not listed is refused.",
    )
    unit_prices: UnitPrices = Field(default=UnitPrices(), description="Prices of database queries and vector searches.")
    prices_from: date = Field(
        description="The day from which these prices are the provider's, for the record: each ledger row names it.",
        json_schema_extra=rules(
            rule(
                "self >= timestamp('2000-01-01T00:00:00Z') && self < timestamp('9999-01-01T00:00:00Z')",
                "must lie between the years 2000 and 9998",
            )
        ),
    )


class EmbeddingModel(ApiModel):
    """The region's default for documents and queries; it must be priced in provider.models."""

    model: ModelName = Field(description="As the provider calls it.")
    dimension: int = Field(ge=2, le=32768, description="Numbers in each of its vectors.")
    metric: Metric = Field(default="COSINE", description="How Milvus compares two vectors.")


class Endpoint(ApiModel):
    """The addresses of one backend; packets elsewhere are dropped."""

    cidrs: tuple[Cidr, ...] = Field(min_length=1, max_length=32, description="Address ranges, such as 203.0.113.0/24.")
    ports: tuple[Port, ...] = Field(min_length=1, max_length=16, description="TCP ports.")


class Egress(ApiModel):
    """Only needed where a backend's host is a name outside the cluster: NetworkPolicies know addresses."""

    postgres: Endpoint | None = None
    milvus: Endpoint | None = None
    provider: Endpoint | None = None


class DataRegionSpec(ApiModel):
    """Where data lies and what serves it."""

    jurisdiction: Jurisdiction = Field(
        description="Whose law the data is under; compliance.dataResidency of a Tenant asks for it."
    )
    default: bool = Field(
        default=False,
        description="Serves Tenants that name neither a region nor a residency; of several, the oldest does.",
    )
    postgres: PostgresServer
    milvus: MilvusServer
    provider: ModelProvider
    embedding: EmbeddingModel
    egress: Egress = Egress()
    node_selector: dict[str, Annotated[str, Field(max_length=63)]] = Field(
        default_factory=dict,
        max_length=16,
        description="Labels of the nodes that runtime Pods run on; any node if empty.",
    )


class DataRegion(Resource):
    """A jurisdiction with the PostgreSQL, Milvus and model provider that serve it."""

    kind_name: ClassVar[str] = "DataRegion"
    plural: ClassVar[str] = "dataregions"
    short_names: ClassVar[tuple[str, ...]] = ("dr",)
    columns: ClassVar[tuple[tuple[str, str, str], ...]] = (
        ("Jurisdiction", "string", ".spec.jurisdiction"),
        ("Default", "boolean", ".spec.default"),
        ("PostgreSQL", "string", ".spec.postgres.host"),
        ("Milvus", "string", ".spec.milvus.uri"),
        ("Age", "date", ".metadata.creationTimestamp"),
    )

    spec: DataRegionSpec = Field(
        json_schema_extra=rules(
            rule(
                "self.provider.models.exists(m, m.name == self.embedding.model)",
                "spec.embedding.model must be listed, with its price, in spec.provider.models",
            ),
            rule(
                "self.provider.models.all(m, !has(m.cachedInputPerMillion) || "
                f"!m.cachedInputPerMillion.matches(r'{DECIMAL}') || !m.inputPerMillion.matches(r'{DECIMAL}') || "
                "double(m.cachedInputPerMillion) <= double(m.inputPerMillion))",
                "spec.provider.models[].cachedInputPerMillion must not be above inputPerMillion, "
                "by which calls are reserved",
            ),
        )
    )
