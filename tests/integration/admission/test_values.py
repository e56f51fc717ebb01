"""The chart's values for admission: off, without pulling, another group, further users."""

from pathlib import Path
from typing import Any

import yaml

from tests.integration.admission.conftest import BREAK_GLASS, OPERATOR, Cluster, copy_of_the_chart, render


def kinds(objects: list[dict[str, Any]]) -> set[str]:
    return {o["kind"] for o in objects}


def conditions(objects: list[dict[str, Any]]) -> str:
    """All expressions that say whom and what the policies are about."""
    return "\n".join(c["expression"] for o in objects for c in o["spec"].get("matchConditions", ()))


def test_all_can_be_switched_off(tmp_path: Path) -> None:
    chart = copy_of_the_chart(tmp_path)
    assert render(chart, "--set", "admission.enabled=false") == []
    assert kinds(render(chart)) == {
        "MutatingAdmissionPolicy",
        "MutatingAdmissionPolicyBinding",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    }


def test_pulling_can_be_left_to_the_owners(tmp_path: Path) -> None:
    chart = copy_of_the_chart(tmp_path)
    without = render(chart, "--set", "admission.alwaysPull=false")
    assert kinds(without) == {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}
    assert len(without) == len(render(chart)) - 2


def test_every_policy_has_its_binding_and_fails_closed(policies: list[dict[str, Any]]) -> None:
    made = {o["metadata"]["name"]: o for o in policies if not o["kind"].endswith("Binding")}
    bound = {o["spec"]["policyName"] for o in policies if o["kind"].endswith("Binding")}
    assert set(made) == bound
    assert len(made) + len(bound) == len(policies), "no name twice"
    assert {o["spec"]["failurePolicy"] for o in made.values()} == {"Fail"}


def test_who_is_exempt(tmp_path: Path) -> None:
    chart = copy_of_the_chart(tmp_path)
    velero = "system:serviceaccount:velero:velero"
    values = ["--set", f"admission.trustedUsers[0]={velero}", "--set", "admission.breakGlassGroup=oncall"]
    text, changed = conditions(render(chart)), conditions(render(chart, *values))
    assert f'"{OPERATOR}"' in text
    assert f'"{BREAK_GLASS}"' in text
    assert velero not in text
    assert f'"{velero}"' in changed
    assert '"oncall"' in changed
    assert BREAK_GLASS not in changed
    assert '"system:masters"' not in text, "administrators pass by the break-glass group, knowingly"


def test_how_pulling_is_brought_about_is_the_api_servers_to_say(cluster: Cluster, tmp_path: Path) -> None:
    """Where Pods can't be changed on admission, those that do not say Always are refused."""
    chart = copy_of_the_chart(tmp_path)
    beta = "admissionregistration.k8s.io/v1beta1/MutatingAdmissionPolicy"
    for options, wanted in (
        (("--kube-version", "1.36.0"), "admissionregistration.k8s.io/v1 MutatingAdmissionPolicy"),
        (("--kube-version", "1.35.2", "-a", beta), "admissionregistration.k8s.io/v1beta1 MutatingAdmissionPolicy"),
        (("--kube-version", "1.35.2"), "admissionregistration.k8s.io/v1 ValidatingAdmissionPolicy"),
        (("--kube-version", "1.30.0"), "admissionregistration.k8s.io/v1 ValidatingAdmissionPolicy"),
    ):
        made = [o for o in render(chart, *options) if o["metadata"]["name"] == "tenantry-always-pull"]
        assert f"{made[0]['apiVersion']} {made[0]['kind']}" == wanted
        assert made[1]["kind"] == made[0]["kind"] + "Binding"
    cluster.plane.kubectl("apply", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump_all(made))
