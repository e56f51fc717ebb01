"""What one runtime is told: its configuration row, and its credentials file."""

from decimal import Decimal

from pydantic import SecretStr

from tenantry import names
from tenantry.api import quantity
from tenantry.api.base import seconds
from tenantry.api.tier import SubjectLimits
from tenantry.credentials import Credentials, slot
from tenantry.desired.meta import DesiredError
from tenantry.desired.secrets import postgres_database
from tenantry.desired.vectors import Place
from tenantry.resolve import Resolved
from tenantry_runtime import config

TOKENS = 1_000_000
"""Prices are given for so many."""


def configuration(resolved: Resolved) -> config.Configuration:
    """Raises DesiredError for a price that is no whole number of nano-dollars per token."""
    budget, limits = resolved.budget, resolved.limits
    return config.Configuration(
        tenant=resolved.name,
        tenant_uid=resolved.uid,
        display_name=resolved.display_name,
        tier=resolved.tier,
        region=resolved.region,
        suspended=resolved.suspended,
        default_model=resolved.default_model,
        allowed_models=resolved.allowed_models,
        prices=prices(resolved),
        unit_prices=unit_prices(resolved),
        prices_version=resolved.region_spec.provider.prices_from.isoformat(),
        temperature=resolved.temperature,
        max_tokens_per_request=resolved.max_tokens_per_request,
        prompt=config.Prompt(template=resolved.template, custom_instructions=resolved.custom_instructions),
        retrieval=config.Retrieval(top_k=resolved.retrieval.top_k, min_score=resolved.retrieval.min_score),
        limits=config.Limits(
            requests_per_minute=limits.requests_per_minute,
            tokens_per_minute=limits.tokens_per_minute,
            tokens_per_day=limits.tokens_per_day,
            concurrency=limits.concurrency,
            per_user=_subject(limits.per_user),
            per_key=_subject(limits.per_key),
        ),
        budget=None
        if budget is None
        else config.Budget(
            monthly_nano=config.nano_dollars(budget.monthly),
            time_zone=budget.time_zone or "UTC",
            on_exceeded=budget.on_exceeded or "Block",
            alert_at=tuple(sorted(budget.alert_at or ())),
        ),
        documents=config.Documents(
            max_files=resolved.documents.files,
            max_file_bytes=int(quantity.parse(resolved.documents.max_size)),
        ),
        embedding=config.Embedding.model_validate(
            {
                "model": resolved.vectors.embedding_model,
                "dimension": resolved.vectors.dimension,
                "metric": resolved.vectors.metric,
            }
        ),
        cache=config.Cache(
            mode=resolved.cache.mode, scope=resolved.cache.scope, ttl_seconds=seconds(resolved.cache.ttl)
        ),
        replicas=resolved.replicas,
        leak_guard=config.LeakGuard(
            foreign_tenant=resolved.leak_guard.foreign_tenant, secrets=resolved.leak_guard.secrets
        ),
        compliance=config.Compliance(
            logging_level=resolved.compliance.logging_level,
            audit_retention_days=resolved.compliance.retention_days,
            gdpr="GDPR" in resolved.compliance.certifications,
        ),
        spec=dict(resolved.beside),
        conversations_retention_days=resolved.conversations.retention_days,
    )


def _subject(limits: SubjectLimits | None) -> config.SubjectLimits | None:
    return config.SubjectLimits.model_validate(limits.model_dump()) if limits else None


def unit_prices(resolved: Resolved) -> config.UnitPrices:
    """Amounts have at most nine decimals, so each is a whole number of nano-dollars."""
    own = resolved.region_spec.provider.unit_prices
    return config.UnitPrices(
        database_query_nano=config.nano_dollars(own.database_query),
        vector_search_nano=config.nano_dollars(own.vector_search),
    )


def prices(resolved: Resolved) -> dict[str, config.ModelPrice]:
    """Of the models that this tenant may call; what else the region offers is not its business."""
    wanted = {*resolved.allowed_models, resolved.vectors.embedding_model}
    return {
        offer.name: config.ModelPrice(
            input_nano=_nano_per_token(resolved, offer.name, "inputPerMillion", offer.input_per_million),
            output_nano=_nano_per_token(resolved, offer.name, "outputPerMillion", offer.output_per_million),
            cached_input_nano=None
            if offer.cached_input_per_million is None
            else _nano_per_token(resolved, offer.name, "cachedInputPerMillion", offer.cached_input_per_million),
        )
        for offer in sorted(resolved.region_spec.provider.models, key=lambda offer: offer.name)
        if offer.name in wanted
    }


def _nano_per_token(resolved: Resolved, model: str, field: str, dollars: str) -> int:
    nano = Decimal(dollars) * config.NANO / TOKENS
    if nano != nano.to_integral_value():
        raise DesiredError(
            f"DataRegion {resolved.region!r}: {field} of model {model!r} is {dollars} dollars per million tokens, "
            "which is no whole number of nano-dollars per token; give it at most three decimals"
        )
    return int(nano)


def credentials(
    resolved: Resolved,
    derived: Credentials,
    place: Place,
    login: tuple[str, str],
    provider_api_key: str,
    generation: int = 0,
) -> config.Credentials:
    """`login` is the Milvus user and password that the vector plan gives the runtime; empty where there is none."""
    server = resolved.region_spec.postgres
    schema = names.runtime_schema(resolved.name)
    return config.Credentials(
        postgres=config.Postgres(
            host=server.host,
            port=server.port,
            database=postgres_database(resolved),
            user=f"{schema}_{slot(generation)}",
            password=SecretStr(derived.runtime_postgres(resolved.uid, generation)),
            schema_name=schema,
            sslmode=server.sslmode,
        ),
        milvus=config.Milvus(
            uri=resolved.region_spec.milvus.uri,
            user=login[0],
            password=SecretStr(login[1]),
            database=place.database,
            collection=place.collection,
            partition=place.partition,
            tag=place.tag,
        ),
        provider=config.Provider(
            base_url=resolved.region_spec.provider.base_url,
            api_key=SecretStr(provider_api_key),
        ),
    )
