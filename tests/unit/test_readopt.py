"""Saved resources that are applied again."""

from tenantry import readopt
from tests import samples


def saved(**more) -> dict:
    tenant = samples.manifest("acme", "pro")
    tenant["metadata"] |= {
        "uid": "0d9c1f6e-0000-4000-8000-000000000001",
        "resourceVersion": "7",
        "finalizers": ["tenantry.dev/cleanup"],
        "deletionTimestamp": "2026-11-22T12:00:00Z",
        "annotations": {
            "kubectl.kubernetes.io/last-applied-configuration": "{}",
            "tenantry.dev/pinned": "{}",
            **more.pop("annotations", {}),
        },
    }
    return tenant | more


def test_a_tenant_takes_over_what_it_had():
    made = readopt.again(saved())
    assert made["metadata"] == {
        "name": "acme",
        "annotations": {
            "tenantry.dev/pinned": "{}",
            "tenantry.dev/adopt-uid": "0d9c1f6e-0000-4000-8000-000000000001",
        },
    }
    assert made["spec"] == saved()["spec"]
    assert "status" not in made


def test_what_was_adopted_before_is_adopted_again():
    older = "0d9c1f6e-0000-4000-8000-000000000000"
    for tenant in (saved(status={"adoptedUid": older}), saved(annotations={"tenantry.dev/adopt-uid": older})):
        assert readopt.again(tenant)["metadata"]["annotations"]["tenantry.dev/adopt-uid"] == older


def test_lists_and_documents_of_our_group_are_read():
    key = {"apiVersion": "tenantry.dev/v1alpha1", "kind": "AccessKey", "spec": {}}
    key["metadata"] = {"name": "ci", "namespace": "tenant-acme", "uid": "x", "labels": {"a": "b"}}
    other = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}}
    found = list(readopt.resources(iter([{"kind": "List", "items": [saved(), other]}, key, None])))
    assert [f["kind"] for f in found] == ["Tenant", "AccessKey"]
    assert readopt.again(key)["metadata"] == {"name": "ci", "namespace": "tenant-acme", "labels": {"a": "b"}}
