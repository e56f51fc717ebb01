"""Each rule of the CRDs on a real API server: what it refuses, in which words, and its neighbour that passes."""

import copy
from typing import Any

import pytest

from tenantry.api import crd
from tests import samples
from tests.api import Api, Object, ok, refused
from tests.controlplane import ControlPlane

SPECS: dict[str, Object] = {
    "Tenant": {"displayName": "Acme"},
    "TenantTier": samples.tier_manifest("pro")["spec"],
    "DataRegion": samples.REGION,
    "AccessKey": {},
}


@pytest.fixture(scope="session")
def admin(control_plane: ControlPlane) -> Api:
    return Api(control_plane.client())


def manifest(kind: str, name: str = "acme", **spec: Any) -> Object:
    """The kind's sample with `spec` over its fields."""
    namespace = {"namespace": "default"} if kind == "AccessKey" else {}
    return {
        "apiVersion": "tenantry.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, **namespace},
        "spec": {**copy.deepcopy(SPECS[kind]), **spec},
    }


def owner(kind: str, name: str = "x", **more: str) -> Object:
    return {"owners": [{"kind": kind, "name": name, **more}]}


def spaces(*suffixes: str) -> Object:
    return {"namespaces": [{"suffix": suffix} for suffix in suffixes]}


def limit(**limits: Object) -> Object:
    return {"ai": {"limits": limits}}


def days(number: int) -> Object:
    return {"ai": {"conversations": {"retentionDays": number}}}


def own(*identifiers: str) -> Object:
    return {"ai": {"leakGuard": {"identifiers": list(identifiers)}}}


def cached(price: str) -> Object:
    """The sample region with this price for cached input of its first model."""
    first, *others = samples.REGION["provider"]["models"]
    models = [{**first, "cachedInputPerMillion": price}, *others]
    return {"provider": {**samples.REGION["provider"], "models": models}}


EVERYBODY = "spec.owners[].name must not stand for everybody"
SUFFIX = 'spec.namespaces[].suffix must be a DNS label without "--"'
ACCOUNT = "spec.owners[].name and namespace of a ServiceAccount must be names as Kubernetes has them"
HIPAA = "spec.compliance.dataResidency must be US for a tenant with the HIPAA certification"
DECIMAL = 'must be a decimal number such as "12.50"'
QUANTITY = "must be a quantity such as 500m, 2 or 4Gi"
RULES: list[tuple[str, Object, Object, str]] = [
    # kind, what is refused, its neighbour that passes, words
    (
        "Tenant",
        {"compliance": {"certifications": ["HIPAA"], "dataResidency": "EU"}},
        {"compliance": {"certifications": ["HIPAA"], "dataResidency": "US"}},
        HIPAA,
    ),
    (
        "Tenant",
        {"compliance": {"certifications": ["GDPR", "HIPAA"], "dataResidency": "APAC"}},
        {"compliance": {"certifications": ["HIPAA"]}},
        HIPAA,
    ),
    ("Tenant", spaces("dev", "dev"), spaces("dev", "test"), "spec.namespaces must not name a suffix twice"),
    ("Tenant", spaces("a--b"), spaces("a-b"), SUFFIX),
    ("Tenant", spaces("Dev"), spaces("dev"), SUFFIX),
    ("Tenant", spaces("-dev"), spaces("0dev"), SUFFIX),
    ("Tenant", spaces("x" * 15), spaces("x" * 14), "spec.namespaces[0].suffix"),
    ("Tenant", spaces(*map(str, range(17))), spaces(*map(str, range(16))), "spec.namespaces: Too many"),
    ("Tenant", owner("ServiceAccount"), owner("ServiceAccount", namespace="ci"), "spec.owners[].namespace is needed"),
    ("Tenant", owner("User", namespace="ci"), owner("User"), "spec.owners[].namespace is needed"),
    ("Tenant", owner("ServiceAccount", "A b", namespace="ci"), owner("ServiceAccount", "a.b", namespace="ci"), ACCOUNT),
    ("Tenant", owner("ServiceAccount", "a", namespace="C_I"), owner("User", "A b@example.org"), ACCOUNT),
    ("Tenant", owner("Group", "system:authenticated"), owner("Group", "system:serviceaccounts:ci"), EVERYBODY),
    ("Tenant", owner("User", "system:anonymous"), owner("User", "anonymous"), EVERYBODY),
    ("Tenant", owner("Robot"), owner("Group"), "spec.owners[0].kind: Unsupported value"),
    (
        "Tenant",
        {"ai": {"models": {"allowed": ["a"], "default": "b"}}},
        {"ai": {"models": {"allowed": ["a", "b"], "default": "b"}}},
        "spec.ai.models.default must be one of spec.ai.models.allowed",
    ),
    ("Tenant", {"ai": {"budget": {"monthly": "a lot"}}}, {"ai": {"budget": {"monthly": "12.50"}}}, DECIMAL),
    ("Tenant", {"ai": {"budget": {"monthly": "-1"}}}, {"ai": {"budget": {"monthly": "0"}}}, "spec.ai.budget.monthly"),
    ("Tenant", {"ai": {"budget": {"monthly": "1e3"}}}, {"ai": {"budget": {"monthly": "1000"}}}, DECIMAL),
    ("Tenant", {"ai": {"budget": {"monthly": 100}}}, {"ai": {"budget": {"monthly": "100"}}}, "spec.ai.budget.monthly"),
    ("Tenant", own("a b-1"), own("a_b-1"), "spec.ai.leakGuard.identifiers[] must consist of letters, digits"),
    ("Tenant", own("é-1234"), own("E-1234"), "spec.ai.leakGuard.identifiers[] must consist of letters, digits"),
    ("Tenant", own("Target"), own("Target1"), "spec.ai.leakGuard.identifiers[] must hold a digit"),
    ("Tenant", own("a-1"), own("a-12"), "spec.ai.leakGuard.identifiers[0]"),
    ("Tenant", own("x-" + "x" * 63), own("x-" + "x" * 62), "spec.ai.leakGuard.identifiers[0]"),
    ("Tenant", own("ab-1", "ab-1"), own("ab-1", "ab-2"), "spec.ai.leakGuard.identifiers[1]: Duplicate"),
    ("Tenant", own(*(f"id-{n}" for n in range(65))), own(*(f"id-{n}" for n in range(64))), "Too many"),
    ("Tenant", days(0), days(1), "spec.ai.conversations.retentionDays"),
    ("Tenant", {"ai": {"cache": {"ttl": "0s"}}}, {"ai": {"cache": {"ttl": "1s"}}}, "must be a duration"),
    ("Tenant", {"ai": {"cache": {"ttl": "721h"}}}, {"ai": {"cache": {"ttl": "720h"}}}, "spec.ai.cache.ttl"),
    ("Tenant", {"ai": {"cache": {"mode": "Some"}}}, {"ai": {"cache": {"mode": "Off"}}}, "spec.ai.cache.mode"),
    ("Tenant", {"quota": {"cpu": "many"}}, {"quota": {"cpu": "500m"}}, QUANTITY),
    ("Tenant", {"quota": {"memory": "4GiB"}}, {"quota": {"memory": "4Gi"}}, "spec.quota.memory"),
    ("Tenant", {"quota": {"pods": 0}}, {"quota": {"pods": 1}}, "spec.quota.pods"),
    ("Tenant", {"ai": {"temperature": 2.5}}, {"ai": {"temperature": 2}}, "spec.ai.temperature"),
    ("Tenant", {"displayName": ""}, {"displayName": "é"}, "spec.displayName"),
    ("Tenant", {"displayName": "é" * 129}, {"displayName": "é" * 128}, "spec.displayName"),
    ("Tenant", {"vectors": {"isolation": "Shelf"}}, {"vectors": {"isolation": "Partition"}}, "spec.vectors.isolation"),
    ("Tenant", {"compliance": {"certifications": ["SOC2"] * 2}}, {"compliance": {"certifications": ["SOC2"]}}, "Dup"),
    (
        "TenantTier",
        {"models": {"allowed": ["a"], "default": "b"}},
        {"models": {"allowed": ["a", "b"], "default": "b"}},
        "spec.models.default must be one of spec.models.allowed",
    ),
    (
        "DataRegion",
        {"embedding": {"model": "unpriced", "dimension": 8}},
        {"embedding": {"model": "gpt-4o", "dimension": 8}},
        "spec.embedding.model must be listed, with its price, in spec.provider.models",
    ),
    (
        "DataRegion",
        {"provider": {**samples.REGION["provider"], "models": [{"name": "a", "inputPerMillion": "free"}]}},
        {},
        "spec.provider.models[0].inputPerMillion",
    ),
    (
        "DataRegion",
        cached("0.16"),
        cached("0.15"),
        "spec.provider.models[].cachedInputPerMillion must not be above inputPerMillion",
    ),
    ("DataRegion", cached("half"), cached("0"), "spec.provider.models[0].cachedInputPerMillion"),
    ("Tenant", limit(perUser={"concurrency": 0}), limit(perUser={"concurrency": 1}), "spec.ai.limits.perUser.concurr"),
    ("Tenant", limit(perKey={"tokensPerDay": -1}), limit(perKey={}), "spec.ai.limits.perKey.tokensPerDay"),
    (
        "DataRegion",
        {"provider": {**samples.REGION["provider"], "pricesFrom": "0000-01-01"}},
        {},
        "spec.provider.pricesFrom",
    ),
    ("AccessKey", {"user": "a\x00b"}, {"user": "A b\u00e9@example.org"}, "spec.user"),
    ("AccessKey", {"user": "a\n"}, {"user": ""}, "spec.user"),
    ("AccessKey", {"scopes": ["root"]}, {"scopes": ["admin"]}, "spec.scopes[0]: Unsupported value"),
    ("AccessKey", {"scopes": []}, {"scopes": ["chat"]}, "spec.scopes"),
    ("AccessKey", {"overlap": "1d"}, {"overlap": "1h30m"}, "must be a duration of hours, minutes and seconds"),
    ("AccessKey", {"overlap": "9000h"}, {"overlap": "0s"}, "from 0s to 8760h"),
    ("AccessKey", {"rotateAfter": "1m"}, {"rotateAfter": "720h"}, "from 5m to 87600h"),
    (
        "AccessKey",
        {"rotateAfter": "1h"},
        {"rotateAfter": "1h", "overlap": "30m"},
        "spec.overlap must not be longer than spec.rotateAfter",
    ),
    ("AccessKey", {"expiresAt": "tomorrow"}, {"expiresAt": "2030-01-01T00:00:00Z"}, "spec.expiresAt"),
    ("AccessKey", {"expiresAt": "0000-01-01T00:00:00Z"}, {"expiresAt": "2030-01-01T00:00:00+14:00"}, "spec.expiresAt"),
    ("AccessKey", {"expiresAt": "9999-12-31T23:59:59-12:00"}, {"expiresAt": "9998-12-31T23:59:59Z"}, "spec.expiresAt"),
]


@pytest.mark.parametrize(("kind", "bad", "good", "words"), RULES)
def test_rule(admin: Api, kind: str, bad: Object, good: Object, words: str) -> None:
    refused(admin.create(manifest(kind, **bad)), words)
    accepted = ok(admin.create(manifest(kind, **good)))
    next(k for k in crd.KINDS if k.kind_name == kind).model_validate(accepted)


@pytest.mark.parametrize(
    ("kind", "bad", "good", "words"),
    [
        ("Tenant", "a" * 41, "a" * 40, "metadata.name must have at most 40 characters"),
        ("Tenant", "a--b", "a-b", 'metadata.name must not contain "--"'),
        ("Tenant", "a.b", "0", "metadata.name must be a DNS label"),
        ("AccessKey", "a" * 54, "a" * 53, "metadata.name must have at most 53 characters"),
    ],
)
def test_name(admin: Api, kind: str, bad: str, good: str, words: str) -> None:
    refused(admin.create(manifest(kind, bad)), words)
    ok(admin.create(manifest(kind, good)))


FIXED: list[tuple[str, Object, Object]] = [
    ("spec.database.isolation", {"database": {"isolation": "Schema"}}, {"database": {"isolation": "Database"}}),
    ("spec.vectors.isolation", {"vectors": {"isolation": "Partition"}}, {"vectors": {"isolation": "Collection"}}),
    ("spec.vectors.dimension", {"vectors": {"dimension": 256}}, {"vectors": {"dimension": 512}}),
    ("spec.vectors.embeddingModel", {"vectors": {"embeddingModel": "a"}}, {"vectors": {"embeddingModel": "b"}}),
    ("spec.vectors.metric", {"vectors": {"metric": "L2"}}, {"vectors": {"metric": "IP"}}),
    ("spec.region", {"region": "eu"}, {"region": "us"}),
]


@pytest.mark.parametrize(("field", "first", "second"), FIXED)
def test_what_is_fixed_stays(admin: Api, field: str, first: Object, second: Object) -> None:
    """Neither changed, nor set later, nor taken away; everything else may change."""
    words = f"{field} can't be changed: it is fixed when the tenant is made"
    name = field.lower().replace(".", "-")
    for suffix, before, others in (("set", first, (second, {})), ("unset", {}, (first,))):
        there = ok(admin.create(manifest("Tenant", f"{name}-{suffix}", **before), dry=False))
        version = {"resourceVersion": there["metadata"]["resourceVersion"]}
        for spec in (*others, before):
            now = manifest("Tenant", f"{name}-{suffix}", **spec, tier="pro")
            now["metadata"] |= version
            if spec == before:
                ok(admin.replace(now))
            else:
                refused(admin.replace(now), words)


def test_a_tenant_starts_unknown(admin: Api) -> None:
    """So that kstatus (Helm, Argo CD, Flux) waits for the operator's first word."""
    for kind in ("Tenant", "AccessKey"):
        made = ok(admin.create(manifest(kind, "fresh"), dry=False))
        (ready,) = made["status"]["conditions"]
        assert (ready["type"], ready["status"]) == ("Ready", "Unknown")
        assert ok(admin.get(made))["status"] == made["status"]


def test_defaults_show(admin: Api) -> None:
    spec = ok(admin.create(manifest("Tenant")))["spec"]
    assert spec == {
        "displayName": "Acme",
        "tier": "free",
        "suspended": False,
        "deletionProtection": False,
        "ai": {
            "cache": {"mode": "All", "scope": "Tenant", "ttl": "1h"},
            "leakGuard": {"foreignTenant": "Block", "secrets": "Redact"},
            "retrieval": {"topK": 5, "minScore": 0.2},
        },
        "compliance": {"loggingLevel": "Basic"},
        "deletion": {"policy": "Retain"},
    }
    bare = manifest("AccessKey")
    del bare["spec"]
    keys = {"scopes": ["chat", "embeddings", "documents"], "actForUsers": False, "overlap": "24h"}
    assert ok(admin.create(bare))["spec"] == keys


def test_an_unknown_field_is_refused_by_name(admin: Api) -> None:
    answer = admin.create(manifest("Tenant", teir="pro"))
    assert answer.status_code == 400
    assert 'unknown field "spec.teir"' in answer.json()["message"]


def test_what_kubectl_shows(control_plane: ControlPlane, admin: Api) -> None:
    ok(admin.create(manifest("Tenant", "shown", tier="pro"), dry=False))
    patch = {"status": {"region": "eu", "spend": {"month": "2026-11", "amount": "1.25"}, "endpoint": "http://x/v1"}}
    ok(admin.merge(manifest("Tenant", "shown"), patch, "status", dry=False))
    head, line = control_plane.kubectl("get", "tn", "shown").stdout.splitlines()
    assert head.split() == ["NAME", "TIER", "REGION", "READY", "REASON", "SPEND", "ENDPOINT", "AGE"]
    assert line.split()[:7] == ["shown", "pro", "eu", "Unknown", "Pending", "1.25", "http://x/v1"]
    everything = control_plane.kubectl("get", "tenantry", "-A", "-o", "name").stdout
    assert "tenant.tenantry.dev/shown" in everything
    text = control_plane.kubectl("explain", "tenant.spec.vectors.isolation").stdout
    assert "Fixed at first provisioning" in " ".join(text.split())


def test_the_shipped_examples_are_taken(admin: Api) -> None:
    import yaml

    count = 0
    for file in sorted((samples.ROOT / "examples").glob("*/*.yaml")):
        for obj in yaml.safe_load_all(file.read_text()):
            if obj and obj.get("kind") in SPECS:
                ok(admin.create(obj))
                count += 1
    assert count >= 6
