"""Junk over the CRDs' schemas: the API server refuses it in words, or the operator can read it.  Never a crash."""

from collections import Counter

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tenantry.api import AccessKey, Resource, Tenant, crd
from tests import strategies
from tests.api import Api, Object, ok, path
from tests.controlplane import ControlPlane
from tests.integration.admission.test_crds import SPECS

# The same examples in every run, and no shrinking: each is a call.
SEEDED = settings(
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="session")
def admin(control_plane: ControlPlane) -> Api:
    return Api(control_plane.client())


@pytest.mark.parametrize("kind", crd.KINDS, ids=lambda kind: str(kind.kind_name))
def test_junk_is_refused_or_readable(admin: Api, kind: type[Resource]) -> None:
    schema = crd.schema_of(kind)["properties"]["spec"]
    seen: Counter[str] = Counter()
    good = SPECS[kind.kind_name]

    @settings(SEEDED, max_examples=60 if kind is Tenant else 30)
    @given(strategies.junk(schema) if kind in (Tenant, AccessKey) else strategies.spoiled(good, schema))
    def each(spec: object) -> None:
        body: Object = {
            "apiVersion": "tenantry.dev/v1alpha1",
            "kind": kind.kind_name,
            "metadata": {"name": "junk", **({"namespace": "default"} if kind.namespaced else {})},
            "spec": spec,
        }
        answer = admin.client.post(path(body), json=body, params={"dryRun": "All", "fieldValidation": "Ignore"})
        assert answer.status_code in (201, 400, 422), answer.text
        if answer.status_code == 201:
            kind.model_validate(answer.json())
            seen["taken"] += 1
        else:
            assert "spec" in answer.json()["message"], answer.text
            seen["refused"] += 1

    each()
    assert seen["taken"] >= 2, seen
    assert seen["refused"] >= 2, seen


def test_tenants_of_the_strategy_are_taken(admin: Api) -> None:
    """What the other tests take for Tenants is what the API server takes for Tenants."""

    @settings(SEEDED, max_examples=40)
    @given(strategies.tenant_manifests())
    def each(manifest: Object) -> None:
        ok(admin.create(manifest))

    each()
