"""Resolution: what a tenant gets when it says nothing, how far it may go, and what it is told when it goes too far."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given

from tenantry.api import DataRegion, Tenant, TenantTier, quantity
from tenantry.api.conditions import STALLING, Reason
from tenantry.resolve import Problem, Resolved, resolve
from tests import samples, strategies

TIERS = samples.tiers()
REGIONS = {"main": samples.region()}
PINNED: dict[str, Any] = {
    "region": "main",
    "databaseIsolation": "Database",
    "vectorIsolation": "Collection",
    "embeddingModel": "text-embedding-3-small",
    "dimension": 256,
    "metric": "L2",
    "collection": "t_1",
}


def problems(
    tenant: Tenant, tiers: dict[str, TenantTier] | None = None, regions: dict[str, DataRegion] | None = None
) -> tuple[Problem, ...]:
    found = resolve(tenant, TIERS if tiers is None else tiers, REGIONS if regions is None else regions)
    assert isinstance(found, tuple), "it resolved"
    return found


def only(tenant: Tenant, **more: Any) -> tuple[Reason, str]:
    (problem,) = problems(tenant, **more)
    return problem.reason, problem.message


# -- what a tenant gets -----------------------------------------------------------------------------------------------


def test_the_least_tenant_is_its_tiers_and_the_default_regions() -> None:
    tier = TIERS["free"].spec
    found = samples.resolved("acme", "free")
    assert (found.name, found.uid, found.display_name) == ("acme", samples.uid("tenant/acme"), "Acme")
    assert (found.tier, found.region, found.region_spec) == ("free", "main", REGIONS["main"].spec)
    assert [(w.name, w.weight) for w in found.workloads] == [("tenant-acme", 1)]
    assert (found.home, found.runtime_namespace) == ("tenant-acme", "runtime-acme")
    assert (found.quota, found.limits, found.budget) == (tier.quota, tier.limits, tier.budget)
    assert (found.allowed_models, found.default_model) == (("gpt-4o-mini",), "gpt-4o-mini")
    assert (found.temperature, found.max_tokens_per_request) == (0.7, 500)
    assert found.template == tier.system_prompt_template
    assert (found.database_isolation, found.vectors.isolation) == ("Schema", "Partition")
    vectors = found.vectors
    assert (vectors.embedding_model, vectors.dimension, vectors.metric) == ("text-embedding-3-small", 1536, "COSINE")
    assert (found.collection, found.notes, found.suspended) == ("", (), False)
    assert (found.replicas, found.resources) == (tier.runtime.replicas, tier.runtime.resources)


def test_what_a_tenant_says_goes_before_the_tier() -> None:
    found = samples.resolved(
        "acme",
        "pro",
        namespaces=[{"suffix": "dev", "weight": 3}],
        quota={"cpu": "500m", "pods": 5},
        database={"isolation": "Database"},
        vectors={"isolation": "Collection", "dimension": 256, "metric": "IP"},
        suspended=True,
        ai={
            "models": {"allowed": ["gpt-4o"], "default": "gpt-4o"},
            "temperature": 0,
            "maxTokensPerRequest": 100,
            "systemPrompt": {"template": "Hi {{ tenantName }}"},
            "limits": {"tokensPerDay": 5},
            "budget": {"monthly": "50", "timeZone": "Europe/Berlin"},
        },
        runtime={"replicas": {"min": 4}, "resources": {"cpuLimit": "2"}},
    )
    assert [(w.name, w.weight) for w in found.workloads] == [("tenant-acme", 1), ("tenant-acme--dev", 3)]
    assert (found.quota.cpu, found.quota.pods, found.quota.memory) == ("500m", 5, "16Gi")
    assert (found.database_isolation, found.vectors.isolation) == ("Database", "Collection")
    assert (found.vectors.dimension, found.vectors.metric) == (256, "IP")
    assert found.temperature == 0, "zero is a temperature, not silence"
    assert (found.template, found.max_tokens_per_request) == ("Hi {{ tenantName }}", 100)
    assert (found.limits.tokens_per_day, found.limits.concurrency) == (5, 10)
    assert found.budget is not None
    assert (found.budget.monthly, found.budget.time_zone, found.budget.on_exceeded) == ("50", "Europe/Berlin", "Block")
    assert (found.suspended, found.replicas) == (True, 4)
    assert (found.resources.cpu_limit, found.resources.cpu_request) == ("2", "50m")


def test_the_default_model_is_always_an_allowed_one() -> None:
    assert samples.resolved(ai={"models": {"allowed": ["gpt-4o-mini"]}}, tier="pro").default_model == "gpt-4o-mini"
    assert samples.resolved(ai={"models": {"default": "gpt-4o-mini"}}, tier="pro").default_model == "gpt-4o-mini"


# -- what was fixed at first provisioning -----------------------------------------------------------------------------


def test_what_is_pinned_stays_and_says_so() -> None:
    tenant = samples.tenant("acme", "free", status={"pinned": PINNED})
    found = resolve(tenant, TIERS, REGIONS)
    assert isinstance(found, Resolved)
    assert (found.database_isolation, found.vectors.isolation) == ("Database", "Collection")
    assert (found.vectors.dimension, found.vectors.metric, found.collection) == (256, "L2", "t_1")
    (note,) = found.notes
    assert "vectors stay at level Collection" in note
    assert "database stays at level Database" in note


def test_nothing_is_said_where_pinned_and_tier_agree() -> None:
    pinned = {**PINNED, "databaseIsolation": "Schema", "vectorIsolation": "Partition"}
    found = resolve(samples.tenant(status={"pinned": pinned}), TIERS, REGIONS)
    assert isinstance(found, Resolved)
    assert found.notes == ()


# -- how far a tenant may go ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tier", "spec", "reason", "words"),
    [
        ("gold", {}, Reason.UNKNOWN_TIER, "TenantTier 'gold' does not exist (there are: enterprise, free, pro)"),
        ("free", {"quota": {"cpu": "1001m"}}, Reason.QUOTA_ABOVE_CEILING, "spec.quota.cpu is 1001m, tier 'free'"),
        ("free", {"quota": {"memory": "2049Mi"}}, Reason.QUOTA_ABOVE_CEILING, "spec.quota.memory is 2049Mi"),
        ("free", {"quota": {"pods": 11}}, Reason.QUOTA_ABOVE_CEILING, "spec.quota.pods is 11"),
        (
            "free",
            {"quota": {"ephemeralStorage": "1Ti"}},
            Reason.QUOTA_ABOVE_CEILING,
            "spec.quota.ephemeralStorage is 1Ti",
        ),
        (
            "free",
            {"ai": {"limits": {"tokensPerMinute": 1001}}},
            Reason.QUOTA_ABOVE_CEILING,
            "spec.ai.limits.tokensPerMinute is 1001, tier 'free' allows at most 1000",
        ),
        (
            "free",
            {"ai": {"limits": {"perUser": {"tokensPerMinute": 1001}}}},
            Reason.QUOTA_ABOVE_CEILING,
            "spec.ai.limits.perUser.tokensPerMinute is 1001, tier 'free' allows at most 1000",
        ),
        (
            "free",
            {"ai": {"budget": {"monthly": "1.01"}}},
            Reason.QUOTA_ABOVE_CEILING,
            "spec.ai.budget.monthly is 1.01, tier 'free' allows at most 1",
        ),
        (
            "free",
            {"ai": {"budget": {"monthly": "1", "onExceeded": "AlertOnly"}}},
            Reason.FEATURE_NOT_IN_TIER,
            "spec.ai.budget.onExceeded",
        ),
        (
            "free",
            {"ai": {"budget": {"monthly": "1", "timeZone": "Mars/Olympus"}}},
            Reason.INVALID_SPEC,
            "spec.ai.budget.timeZone 'Mars/Olympus' is no IANA time zone",
        ),
        (
            "free",
            {"ai": {"budget": {"monthly": "1", "timeZone": "localtime"}}},
            Reason.INVALID_SPEC,
            "spec.ai.budget.timeZone 'localtime' is no IANA time zone",
        ),
        (
            "free",
            {"ai": {"maxTokensPerRequest": 501}},
            Reason.QUOTA_ABOVE_CEILING,
            "spec.ai.maxTokensPerRequest is 501, tier 'free' allows 500",
        ),
        (
            "free",
            {"ai": {"systemPrompt": {"template": "x"}}},
            Reason.FEATURE_NOT_IN_TIER,
            "spec.ai.systemPrompt: tier 'free'",
        ),
        (
            "free",
            {"ai": {"models": {"allowed": ["gpt-4o-mini", "gpt-4o"]}}},
            Reason.MODEL_NOT_ALLOWED,
            "spec.ai.models.allowed names 'gpt-4o', which tier 'free' does not offer",
        ),
        (
            "free",
            {"ai": {"models": {"default": "gpt-4o"}}},
            Reason.MODEL_NOT_ALLOWED,
            "spec.ai.models.default 'gpt-4o' is not among the allowed models",
        ),
        (
            "free",
            {"vectors": {"embeddingModel": "unpriced"}},
            Reason.MODEL_WITHOUT_PRICE,
            "spec.vectors.embeddingModel 'unpriced' has no price in DataRegion 'main'",
        ),
        (
            "free",
            {"runtime": {"resources": {"cpuLimit": "10m"}}},
            Reason.INVALID_SPEC,
            "spec.runtime.resources: cpuRequest is 50m, above cpuLimit, which is 10m",
        ),
        (
            "free",
            {"runtime": {"resources": {"memoryRequest": "1Gi"}}},
            Reason.INVALID_SPEC,
            "spec.runtime.resources: memoryRequest is 1Gi, above memoryLimit, which is 512Mi",
        ),
    ],
)
def test_too_far(tier: str, spec: dict[str, Any], reason: Reason, words: str) -> None:
    found_reason, message = only(samples.tenant("acme", tier, **spec))
    assert found_reason == reason
    assert words in message
    assert found_reason in STALLING


@pytest.mark.parametrize(
    "spec",
    [
        {"quota": {"cpu": "1000m", "memory": "2048Mi", "pods": 10}},
        {"ai": {"limits": {"tokensPerMinute": 1000}, "maxTokensPerRequest": 500}},
        {"ai": {"budget": {"monthly": "1.00", "timeZone": "Pacific/Chatham"}}},
        {"ai": {"models": {"allowed": ["gpt-4o-mini"], "default": "gpt-4o-mini"}}},
        {"runtime": {"resources": {"cpuRequest": "1", "cpuLimit": "1000m"}}},
    ],
)
def test_as_far_as_the_tier_goes(spec: dict[str, Any]) -> None:
    samples.resolved("acme", "free", **spec)


def test_limits_of_one_user_are_the_tenants_own_over_the_tiers() -> None:
    one = {"requestsPerMinute": 10, "concurrency": 2}
    tiers = {"free": samples.tier("free", limits={"tokensPerDay": 900, "perUser": one})}
    assert samples.resolved(tiers_by_name=tiers).limits == tiers["free"].spec.limits
    found = samples.resolved(tiers_by_name=tiers, ai={"limits": {"perUser": {"concurrency": 1}}}).limits
    assert found.per_user is not None
    assert (found.per_user.requests_per_minute, found.per_user.concurrency, found.per_key) == (10, 1, None)
    reason, message = only(samples.tenant(ai={"limits": {"perUser": {"concurrency": 3}}}), tiers=tiers)
    assert reason is Reason.QUOTA_ABOVE_CEILING
    assert "spec.ai.limits.perUser.concurrency is 3, tier 'free' allows at most 2" in message
    assert (
        "perKey.tokensPerDay" in only(samples.tenant(ai={"limits": {"perKey": {"tokensPerDay": 901}}}), tiers=tiers)[1]
    )


def test_a_ceiling_above_the_quota() -> None:
    ceiling = samples.tier("free", quotaCeiling={"cpu": "4", "memory": "8Gi", "pods": 40, "storage": "50Gi"})
    tiers = {"free": ceiling}
    assert samples.resolved(tiers_by_name=tiers).quota.cpu == "1"
    assert samples.resolved(tiers_by_name=tiers, quota={"cpu": "4"}).quota.cpu == "4"
    assert only(samples.tenant(quota={"cpu": "4001m"}), tiers=tiers)[0] == Reason.QUOTA_ABOVE_CEILING


def test_a_tiers_model_needs_a_price_in_the_region() -> None:
    tiers = {"free": samples.tier("free", models={"allowed": ["gpt-4o-mini", "new"], "default": "new"})}
    reason, message = only(samples.tenant(), tiers=tiers)
    assert reason == Reason.MODEL_WITHOUT_PRICE
    assert "Model 'new' has no price in DataRegion 'main'" in message


def test_a_tiers_time_zone_is_looked_at_too() -> None:
    tiers = {"free": samples.tier("free", budget={"monthly": "1", "timeZone": "Mars/Olympus"})}
    reason, message = only(samples.tenant(), tiers=tiers)
    assert reason == Reason.INVALID_SPEC
    assert "spec.budget.timeZone 'Mars/Olympus' of tier 'free'" in message


def test_without_a_budget_in_the_tier_the_tenants_own_holds() -> None:
    tiers = {"free": samples.tier("free", budget=None)}
    assert samples.resolved(tiers_by_name=tiers).budget is None
    own = samples.resolved(tiers_by_name=tiers, ai={"budget": {"monthly": "7", "onExceeded": "AlertOnly"}}).budget
    assert own is not None
    assert (own.monthly, own.on_exceeded) == ("7", "AlertOnly")


def test_everything_that_is_wrong_is_said_at_once() -> None:
    spec: dict[str, Any] = {
        "quota": {"cpu": "99", "pods": 99},
        "ai": {"maxTokensPerRequest": 9999, "limits": {"concurrency": 99}},
    }
    found = problems(samples.tenant(**spec))
    assert len(found) == 4
    assert problems(samples.tenant(**spec)) == found, "in a fixed order"
    both = problems(samples.tenant(tier="gold", region="mars"))
    assert [p.reason for p in both] == [Reason.UNKNOWN_REGION, Reason.UNKNOWN_TIER]


# -- for any tenant that the API server takes -------------------------------------------------------------------------


@given(strategies.tenants())
def test_any_tenant_resolves_within_its_tier_or_is_told_why(tenant: Tenant) -> None:
    found = resolve(tenant, TIERS, REGIONS)
    if isinstance(found, tuple):
        assert found
        assert all(p.reason in STALLING and p.message for p in found)
        return
    tier = TIERS[tenant.spec.tier].spec
    for key in ("cpu", "memory", "pods", "storage", "ephemeral_storage"):
        assert quantity.parse(getattr(found.quota, key)) <= quantity.parse(getattr(tier.quota, key))
    for limits in (found.limits, found.limits.per_user, found.limits.per_key):
        for key in ("requests_per_minute", "tokens_per_minute", "tokens_per_day", "concurrency"):
            assert limits is None or (getattr(limits, key) or 0) <= getattr(tier.limits, key)
    assert found.budget is not None
    assert tier.budget is not None
    assert Decimal(found.budget.monthly) <= Decimal(tier.budget.monthly)
    assert found.default_model in found.allowed_models
    assert set(found.allowed_models) <= set(tier.models.allowed)
    assert found.max_tokens_per_request <= tier.max_tokens_per_request
    assert len({w.name for w in found.workloads}) == len(tenant.spec.namespaces) + 1
    assert resolve(tenant, TIERS, REGIONS) == found, "it is pure"
