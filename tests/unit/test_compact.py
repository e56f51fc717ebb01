from tenantry.api import Tenant
from tenantry.compact import Compact
from tests import samples

STATUS = {
    "conditions": [
        {
            "type": "Ready", "status": "True", "reason": "Ready", "message": "All of it",
            "lastTransitionTime": "2026-11-22T07:09:57Z", "observedGeneration": 1,
        }
    ],
    "namespaces": ["tenant-a"],
}  # fmt: skip


def tenant(name: str) -> Tenant:
    return samples.tenant(name, "pro", status=STATUS, namespaces=[{"suffix": "dev", "weight": 2}])


def test_what_comes_out_is_what_went_in():
    kept: Compact[Tenant] = Compact(Tenant)
    kept.put(tenant("a"))
    found = kept["a"]
    assert found == tenant("a")
    assert found is not kept["a"]
    assert found.status is not None
    assert found.status.conditions[0].last_transition_time == tenant("a").status.conditions[0].last_transition_time


def test_the_last_ones_stay_ready_and_a_new_one_replaces_an_old_one():
    kept: Compact[Tenant] = Compact(Tenant, recent=2)
    for name in ("a", "b", "c"):
        kept.put(tenant(name))
    assert kept["c"] is kept["c"]
    assert list(kept) == ["a", "b", "c"]
    assert [t.name for t in kept.each()] == ["a", "b", "c"]
    kept.put(samples.tenant("c", "free"))
    assert kept["c"].spec.tier == "free"
    kept.pop("c")
    kept.pop("never there")
    assert "c" not in kept
    assert kept.get("c") is None
    assert len(kept) == 2
