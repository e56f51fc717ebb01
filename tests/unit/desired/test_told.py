"""What the runtime and the tenant are told: configuration, credentials, Secrets."""

import base64
import json
from urllib.parse import unquote, urlsplit

import pytest

from tenantry.desired import configuration, secrets
from tenantry.desired.meta import DesiredError
from tenantry.desired.vectors import Place
from tenantry_runtime import config
from tests import samples

SHARED = Place("default", "shared_x_1536_cosine_1", "t_1", "tag1")
OWN = Place("default", "t_1", None, "tag1")
LOGIN = ("user", "milvus-password")


def values(secret):
    return {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}


def provider(**models):
    offers = [
        {**offer, **models.get(offer["name"].replace("-", "_"), {})} for offer in samples.REGION["provider"]["models"]
    ]
    return {**samples.REGION["provider"], "models": offers}


def test_prices_are_nano_dollars_per_token():
    made = configuration.configuration(samples.resolved("acme", "pro"))
    assert made.prices == {
        "gpt-4o": config.ModelPrice(input_nano=2500, output_nano=10_000),
        "gpt-4o-mini": config.ModelPrice(input_nano=150, output_nano=600),
        "text-embedding-3-small": config.ModelPrice(input_nano=20, output_nano=0),
    }
    assert made.prices_version == "2026-11-01"


def test_a_tenant_is_told_no_prices_of_models_that_are_not_its():
    made = configuration.configuration(samples.resolved("acme", "free"))
    assert set(made.prices) == {"gpt-4o-mini", "text-embedding-3-small"}


def test_a_cached_price_is_told_where_there_is_one():
    region = samples.region(provider=provider(gpt_4o_mini={"cachedInputPerMillion": "0.075"}))
    found = configuration.configuration(samples.resolved(in_region=region)).prices
    assert found["gpt-4o-mini"].cached_input_nano == 75
    assert found["text-embedding-3-small"].cached_input_nano is None


def test_limits_of_users_and_keys_are_told_where_there_are_any():
    limits = {"perUser": {"requestsPerMinute": 5}, "perKey": {"tokensPerDay": 7, "concurrency": 1}}
    found = configuration.configuration(samples.resolved("acme", "pro", ai={"limits": limits})).limits
    assert found.per_user == config.SubjectLimits(requests_per_minute=5)
    assert found.per_key == config.SubjectLimits(tokens_per_day=7, concurrency=1)
    plain = configuration.configuration(samples.resolved("acme", "pro")).limits
    assert (plain.per_user, plain.per_key) == (None, None)


def test_a_price_finer_than_the_unit_is_refused_rather_than_rounded():
    region = samples.region(provider=provider(gpt_4o_mini={"inputPerMillion": "0.0375"}))
    with pytest.raises(DesiredError, match=r"inputPerMillion of model 'gpt-4o-mini' is 0\.0375 .* three decimals"):
        configuration.configuration(samples.resolved(in_region=region))


def test_the_configuration_is_the_resolved_tenant():
    made = configuration.configuration(
        samples.resolved(
            "acme", "pro", ai={"temperature": 0.2, "customInstructions": "Be brief.", "retrieval": {"topK": 3}}
        )
    )
    assert (made.tenant, made.tier, made.region) == ("acme", "pro", "main")
    assert made.default_model == "gpt-4o"
    assert made.temperature == 0.2
    assert made.max_tokens_per_request == 2000
    assert made.prompt.custom_instructions == "Be brief."
    assert made.retrieval == config.Retrieval(top_k=3, min_score=0.2)
    assert made.limits == config.Limits(
        requests_per_minute=60, tokens_per_minute=10_000, tokens_per_day=500_000, concurrency=10
    )
    assert made.budget == config.Budget(
        monthly_nano=100 * config.NANO, time_zone="UTC", on_exceeded="Block", alert_at=(80, 100)
    )
    assert made.documents == config.Documents(max_files=10_000, max_file_bytes=50_000_000)
    assert made.embedding == config.Embedding(model="text-embedding-3-small", dimension=1536, metric="COSINE")
    assert config.Configuration.model_validate_json(made.canonical()) == made


def test_the_cache_is_the_tenants():
    assert configuration.configuration(samples.resolved("acme")).cache == config.Cache()
    asked = {"mode": "Deterministic", "scope": "User", "ttl": "1h30m"}
    made = configuration.configuration(samples.resolved("acme", ai={"cache": asked})).cache
    assert made == config.Cache(mode="Deterministic", scope="User", ttl_seconds=5400)


def test_the_runtime_knows_whether_it_is_alone():
    assert configuration.configuration(samples.resolved("acme")).replicas == 1
    asked = samples.resolved("acme", runtime={"replicas": {"min": 3}})
    assert configuration.configuration(asked).replicas == 3


def test_conversations_are_kept_until_deleted_unless_said_otherwise():
    assert configuration.configuration(samples.resolved("acme")).conversations_retention_days is None
    asked = samples.resolved("acme", ai={"conversations": {"retentionDays": 30}})
    assert configuration.configuration(asked).conversations_retention_days == 30


def test_the_leak_guard_is_the_tenants():
    assert configuration.configuration(samples.resolved("acme")).leak_guard == config.LeakGuard()
    asked = {"foreignTenant": "Warn", "secrets": "Block", "identifiers": ["project-x7"]}
    made = configuration.configuration(samples.resolved("acme", ai={"leakGuard": asked}))
    assert made.leak_guard == config.LeakGuard(foreign_tenant="Warn", secrets="Block")
    assert made.spec == {"ai": {"leakGuard": {"identifiers": ["project-x7"]}}}


def test_the_audit_follows_the_tenants_compliance():
    def made(**spec):
        return configuration.configuration(samples.resolved("acme", **spec)).compliance

    assert made() == config.Compliance(logging_level="Basic", audit_retention_days=365, gdpr=False)
    asked = {"loggingLevel": "Full", "auditRetentionDays": 30, "certifications": ["SOC2", "GDPR"]}
    assert made(compliance=asked) == config.Compliance(logging_level="Full", audit_retention_days=30, gdpr=True)


def test_each_change_of_a_tenant_is_a_change_of_its_configuration():
    """Also of what the runtime has no use for, which is in the document for the audit."""
    plain = configuration.configuration(samples.resolved("acme"))
    assert plain.spec == {}
    changes = {
        "owners": [{"kind": "User", "name": "eve", "namespace": ""}],
        "namespaces": [{"suffix": "dev", "weight": 1}],
        "quota": {"cpu": "500m"},
        "runtime": {"replicas": {"min": 1}},
        "deletion": {"policy": "Delete"},
        "deletionProtection": True,
        "compliance": {"certifications": ["SOC2"]},
    }
    for name, value in changes.items():
        assert set(configuration.configuration(samples.resolved("acme", **{name: value})).spec) == {name}
    told = configuration.configuration(samples.resolved("acme", compliance={"loggingLevel": "Full"}))
    assert told.spec == {}
    assert told.digest() != plain.digest()


def test_equal_tenants_have_equal_digests():
    one, same, other = (samples.resolved("acme"), samples.resolved("acme"), samples.resolved("acme", suspended=True))
    assert configuration.configuration(one).digest() == configuration.configuration(same).digest()
    assert configuration.configuration(one).digest() != configuration.configuration(other).digest()


def credentials(tenant, place=SHARED, **more):
    return configuration.credentials(tenant, samples.credentials(), place, LOGIN, "sk-provider", **more)


def test_the_runtimes_credentials_are_its_own():
    tenant = samples.resolved("acme-corp")
    made = credentials(tenant)
    assert made.postgres.user == "tenant_acme_corp__runtime_a"
    assert made.postgres.schema_name == "tenant_acme_corp__runtime"
    assert made.postgres.database == "tenantry"
    assert made.postgres.password.get_secret_value() == samples.credentials().runtime_postgres(tenant.uid)
    assert made.milvus.partition == "t_1"
    assert made.milvus.password.get_secret_value() == "milvus-password"
    assert made.provider.api_key.get_secret_value() == "sk-provider"
    assert "sk-provider" not in repr(made)


def test_the_two_logins_differ():
    tenant = samples.resolved("acme")
    first, second, third = (credentials(tenant, generation=n).postgres for n in range(3))
    assert [one.user[-2:] for one in (first, second, third)] == ["_a", "_b", "_a"]
    assert len({one.password.get_secret_value() for one in (first, second, third)}) == 3


def test_a_database_of_its_own():
    tenant = samples.resolved("acme", database={"isolation": "Database"})
    assert credentials(tenant).postgres.database == "tenant_acme"
    assert values(secrets.postgres(tenant, samples.credentials()))["database"] == "tenant_acme"


def test_the_runtimes_secret_holds_the_file_that_the_runtime_reads():
    made = secrets.runtime(samples.resolved("acme"), credentials(samples.resolved("acme")))
    assert (made["metadata"]["namespace"], made["metadata"]["name"]) == ("runtime-acme", "runtime")
    text = values(made)["credentials.json"]
    assert config.Credentials.model_validate_json(text).provider.api_key.get_secret_value() == "sk-provider"
    assert json.loads(text)["milvus"]["tag"] == "tag1"


def test_the_digest_says_that_a_secret_changed_and_not_what_it_holds():
    tenant = samples.resolved("acme")
    one, two = secrets.runtime(tenant, credentials(tenant)), secrets.runtime(tenant, credentials(tenant, generation=1))
    assert secrets.digest(one) == secrets.digest(secrets.runtime(tenant, credentials(tenant)))
    assert secrets.digest(one) != secrets.digest(two)
    assert len(secrets.digest(one)) == 64


def test_the_tenants_own_database_login():
    tenant = samples.resolved("acme-corp")
    made = secrets.postgres(tenant, samples.credentials())
    assert (made["metadata"]["namespace"], made["metadata"]["name"]) == ("tenant-acme-corp", "postgres")
    told = values(made)
    assert told["username"] == told["schema"] == "tenant_acme_corp"
    uri = urlsplit(told["uri"])
    assert unquote(uri.password or "") == told["password"] == samples.credentials().tenant_postgres(tenant.uid)
    assert (uri.hostname, uri.port, uri.path) == ("10.96.7.1", 5432, "/tenantry")


def test_an_ipv6_database_has_a_uri_too():
    region = samples.region(postgres={**samples.REGION["postgres"], "host": "2001:db8::1"})
    told = values(secrets.postgres(samples.resolved(in_region=region), samples.credentials()))
    assert told["host"] == "2001:db8::1"
    assert urlsplit(told["uri"]).hostname == "2001:db8::1"


def test_only_levels_with_a_user_get_a_milvus_secret():
    assert secrets.milvus(samples.resolved("acme", "free"), SHARED, LOGIN) is None
    assert secrets.milvus(samples.resolved("acme", "enterprise"), OWN, ("", "")) is None
    made = secrets.milvus(samples.resolved("acme", "enterprise"), OWN, LOGIN)
    assert made is not None
    assert (made["metadata"]["namespace"], made["metadata"]["name"]) == ("tenant-acme", "milvus")
    assert values(made)["username"] == "user"


def test_an_access_keys_secret_lies_beside_it_and_goes_with_it():
    key = samples.access_key("app", "tenant-acme--dev")
    made = secrets.access_key(samples.resolved("acme"), key, "tk-1", "http://runtime.runtime-acme.svc:8000/v1")
    assert (made["metadata"]["namespace"], made["metadata"]["name"]) == ("tenant-acme--dev", "accesskey-app")
    assert values(made) == {"api-key": "tk-1", "base-url": "http://runtime.runtime-acme.svc:8000/v1"}
    (owner,) = made["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("AccessKey", key.uid)


def test_queries_and_searches_have_prices_of_their_own():
    provider = {**samples.REGION["provider"], "unitPrices": {"databaseQuery": "0.000000001", "vectorSearch": "0.00002"}}
    made = configuration.configuration(samples.resolved(in_region=samples.region(provider=provider)))
    assert made.unit_prices == config.UnitPrices(database_query_nano=1, vector_search_nano=20_000)
