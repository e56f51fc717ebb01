"""Tiers, examples and the charts' schemas: what ships is what the design says, and what the models take."""

import json
from typing import Any

import pytest
import yaml

from tenantry.api import Tenant, TenantSpec, TenantTier
from tenantry.api.region import DataRegionSpec
from tenantry.resolve import Resolved, resolve
from tenantry_runtime import prompt
from tests import samples
from tests.helm import CHARTS, TIERS, helm_needed, loaded, render

EXAMPLES = samples.ROOT / "examples"

# -- tiers, as the design's table has them -------------------------------------------------

TABLE = {
    "default model": ("gpt-4o-mini", "gpt-4o", "gpt-4o"),
    "allowed models": (("gpt-4o-mini",), ("gpt-4o-mini", "gpt-4o"), ("gpt-4o-mini", "gpt-4o")),
    "max tokens": (500, 2000, 4000),
    "temperature": (0.7, 0.7, 0.3),
    "tokens per minute": (1_000, 10_000, 100_000),
    "tokens per day": (50_000, 500_000, 5_000_000),
    "requests per minute": (20, 60, 100),
    "budget": ("1", "100", "10000"),
    "own template": (False, True, True),
    "cpu": ("1", "8", "32"),
    "memory": ("2Gi", "16Gi", "128Gi"),
    "pods": (10, 50, 200),
    "storage": ("5Gi", "100Gi", "1Ti"),
    "files": (100, 10_000, 1_000_000),
    "file size": ("10M", "50M", "200M"),
    "concurrency": (2, 10, 50),
    "vectors": ("Partition", "Partition", "Collection"),
}


@pytest.mark.parametrize("number", range(3), ids=TIERS)
def test_the_tiers_are_the_designs(number):
    tier = loaded(samples.tier_manifest(TIERS[number]))
    assert isinstance(tier, TenantTier)
    spec = tier.spec
    assert spec.budget is not None
    assert {
        "default model": spec.models.default,
        "allowed models": spec.models.allowed,
        "max tokens": spec.max_tokens_per_request,
        "temperature": spec.temperature,
        "tokens per minute": spec.limits.tokens_per_minute,
        "tokens per day": spec.limits.tokens_per_day,
        "requests per minute": spec.limits.requests_per_minute,
        "budget": spec.budget.monthly,
        "own template": spec.features.own_prompt_template,
        "cpu": spec.quota.cpu,
        "memory": spec.quota.memory,
        "pods": spec.quota.pods,
        "storage": spec.quota.storage,
        "files": spec.documents.files,
        "file size": spec.documents.max_size,
        "concurrency": spec.limits.concurrency,
        "vectors": spec.vector_isolation,
    } == {key: column[number] for key, column in TABLE.items()}


@pytest.mark.parametrize("name", TIERS)
def test_the_charts_tiers_are_the_examples(name):
    values = yaml.safe_load((CHARTS / "tenantry" / "values.yaml").read_text())
    assert values["tiers"][name] == samples.tier_manifest(name)["spec"]


@pytest.mark.parametrize("name", TIERS)
def test_the_runtime_takes_the_tiers_templates(name):
    template = samples.tier_manifest(name)["spec"]["systemPromptTemplate"]
    prompt.check(template)
    told = {"tenantName": "Acme Corp", "tenantTier": name, "customInstructions": "Answer in French."}
    text = prompt.render(template, told)
    assert all(value in text for value in told.values())


# -- examples and schemas --------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("tenants/*.yaml")), ids=lambda p: p.name)
def test_example_tenants_resolve(path):
    tenant = loaded(yaml.safe_load(path.read_text()))
    assert isinstance(tenant, Tenant)
    region = samples.region(jurisdiction="US")
    found = resolve(tenant, samples.tiers(), {region.name: region})
    assert isinstance(found, Resolved), found
    prompt.check(found.template)


@pytest.mark.parametrize("name", ["region.yaml", "accesskey.yaml"])
def test_examples_are_what_the_models_take(name):
    loaded(yaml.safe_load((EXAMPLES / name).read_text()))


@helm_needed
@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("gitops/*.yaml")), ids=lambda p: p.name)
def test_git_examples_give_the_chart_values_that_it_takes(path, tmp_path):
    found = []
    for document in yaml.safe_load_all(path.read_text()):
        spec = document["spec"]
        values = spec.get("values") or spec.get("source", {}).get("helm", {}).get("valuesObject")
        if values:
            found += render("tenants", values, tmp_path)
    assert [o["metadata"]["name"] for o in found] == ["acme", "globex"]
    for tenant in found:
        loaded(tenant)


def aliases(model: type[Any]) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


def schema(chart: str) -> dict[str, Any]:
    made: dict[str, Any] = json.loads((CHARTS / chart / "values.schema.json").read_text())
    return made


def test_the_schemas_know_every_field_of_a_region():
    made = schema("tenantry")["properties"]["region"]["properties"]
    assert set(made) == aliases(DataRegionSpec) | {"create", "name"}
    for part in ("postgres", "milvus", "provider", "embedding", "egress"):
        annotation = DataRegionSpec.model_fields[part].annotation
        assert annotation is not None
        assert set(made[part]["properties"]) == aliases(annotation), part


def test_the_schemas_know_every_field_of_a_tenant():
    item = schema("tenants")["properties"]["tenants"]["items"]
    assert set(item["properties"]["spec"]["properties"]) == aliases(TenantSpec)


def test_the_schema_knows_every_value():
    values = yaml.safe_load((CHARTS / "tenantry" / "values.yaml").read_text())
    made = schema("tenantry")["properties"]
    assert set(values) == set(made) - {"global"}
    for part in ("images", "operator", "metrics", "admission", "region"):
        assert set(values[part]) == set(made[part]["properties"]), part


def test_the_charts_crds_are_the_generated_ones():
    ours, theirs = samples.ROOT / "crds", CHARTS / "tenantry" / "crds"
    assert {p.name: p.read_text() for p in ours.iterdir()} == {p.name: p.read_text() for p in theirs.iterdir()}
