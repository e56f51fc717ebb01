"""The demo's pure parts."""

from __future__ import annotations

from decimal import Decimal

import pytest
import yaml

from dev import checks
from dev.cluster import info, paths
from dev.demo import ask, install, kube, pull
from dev.demo.story import ACTORS, neighbour
from tenantry.api.region import DataRegionSpec
from tenantry.api.tenant import TenantSpec


def test_each_fact_is_in_its_own_tenants_document_only() -> None:
    for actor in ACTORS:
        assert [other.name for other in ACTORS if actor.fact in other.document] == [actor.name]
        assert actor.fact not in actor.question
    assert {neighbour(actor).name for actor in ACTORS} == {actor.name for actor in ACTORS}
    assert all(neighbour(actor) is not actor for actor in ACTORS)


def test_the_tenants_values_are_what_a_tenant_takes() -> None:
    for actor in ACTORS:
        spec = actor.values()["spec"]
        assert TenantSpec.model_validate(spec).model_dump(by_alias=True, exclude_unset=True) is not None
        assert set(spec) <= {field.alias for field in TenantSpec.model_fields.values()}


@pytest.mark.parametrize("key", ["", "sk-of-the-users-own"])
def test_the_region_uses_the_stand_in_or_the_real_provider(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    values = install.chart_values(info.describe())
    provider = values["region"]["provider"]["baseUrl"]
    assert (provider == install.OPENAI) == bool(key)
    assert key not in yaml.safe_dump(values) or not key, "a key is in a Secret, never in a values file"
    with (paths.ROOT / install.CHART / "values.yaml").open() as file:
        defaults = yaml.safe_load(file)["region"]
    region = {**defaults, **values["region"], "provider": {**defaults["provider"], **values["region"]["provider"]}}
    for part in ("postgres", "milvus"):
        region[part] = {**defaults[part], **values["region"][part]}
    spec = DataRegionSpec.model_validate(region)
    assert spec.embedding.model in {offer.name for offer in spec.provider.models}


def test_prices_are_dollars_per_million_tokens() -> None:
    models = [{"name": "m", "inputPerMillion": "2.50", "outputPerMillion": "10"}, {"name": "e", "inputPerMillion": "1"}]
    assert ask.prices({"spec": {"provider": {"models": models}}}) == {
        "m": (Decimal("2.50"), Decimal(10)),
        "e": (Decimal(1), Decimal(0)),
    }


def test_the_shown_policy_touches_dry_runs_only() -> None:
    rendered = yaml.safe_dump_all(
        [
            {"kind": "MutatingAdmissionPolicy", "metadata": {"name": "p", "labels": {"a": "b"}}, "spec": {}},
            {"kind": "MutatingAdmissionPolicyBinding", "metadata": {"name": "p"}, "spec": {"policyName": "p"}},
        ]
    )
    policy, binding = pull.for_dry_runs(rendered)
    assert policy["metadata"] == {"name": "tenantry-demo-p"}
    assert "dryRun" in policy["spec"]["matchConditions"][-1]["expression"]
    assert binding["spec"]["policyName"] == "tenantry-demo-p"


def test_a_condition_of_an_older_generation_does_not_count() -> None:
    ready = {"type": "Ready", "status": "True", "reason": "Ready", "message": "", "observedGeneration": 1}
    tenant = {"metadata": {"generation": 1}, "status": {"conditions": [ready]}}
    assert kube.current(tenant)["status"] == "True"
    tenant["metadata"]["generation"] = 2  # type: ignore[index]
    assert kube.current(tenant)["status"] == "Unknown"
    assert kube.condition(None)["status"] == "Unknown"


def test_waiting_ends_with_what_was_waited_for() -> None:
    assert kube.wait(lambda: "there", "it", 1) == "there"
    with pytest.raises(kube.TooLate, match="the moon"):
        kube.wait(lambda: None, "the moon", 0.1, 0.01)


def test_checks_say_which_parts_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        checks.main(["no-such-part"])
    assert "integration" in capsys.readouterr().err
    assert not checks.run(["false"])
    assert checks.run(["true"])
