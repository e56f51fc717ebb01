"""A tenant's quota is a total: shares never add up to more."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.api import quantity
from tenantry.desired import quota
from tenantry.resolve import Resolved
from tests import samples

weights = st.lists(st.integers(1, 100), min_size=1, max_size=17)


@given(st.integers(0, 10**15), weights)
def test_shares_add_up_to_the_total(total, by):
    assert sum(quota.split(total, by)) == total


@given(st.integers(0, 10**15), weights)
def test_shares_are_by_weight_to_within_one(total, by):
    for share, weight in zip(quota.split(total, by), by, strict=True):
        assert abs(Decimal(share) - Decimal(total) * weight / sum(by)) < 1


@given(st.integers(0, 10**15), weights)
def test_bytes_add_up_too(total, by):
    assert sum(quota.split_bytes(total, by)) == total


def tenant_with(by: list[int], **over: object) -> Resolved:
    extra = [{"suffix": f"n{i}", "weight": w} for i, w in enumerate(by)]
    return samples.resolved("acme", "enterprise", namespaces=extra, quota=over)


@given(
    by=st.lists(st.integers(1, 100), max_size=16),
    cpu=st.sampled_from(["1", "333m", "32", "7.5"]),
    memory=st.sampled_from(["1Gi", "100M", "1000001", "128Gi"]),
    pods=st.integers(1, 200),
)
def test_no_resource_of_all_namespaces_is_above_the_total(by, cpu, memory, pods):
    tenant = tenant_with(by, cpu=cpu, memory=memory, pods=pods)
    made = quota.workload_quotas(tenant)
    assert [o["metadata"]["namespace"] for o in made] == [w.name for w in tenant.workloads]
    totals = {
        "requests.cpu": cpu,
        "limits.cpu": cpu,
        "requests.memory": memory,
        "limits.memory": memory,
        "pods": pods,
        "requests.storage": tenant.quota.storage,
        "requests.ephemeral-storage": tenant.quota.ephemeral_storage,
        "limits.ephemeral-storage": tenant.quota.ephemeral_storage,
    }
    for key, total in totals.items():
        assert sum(quantity.parse(o["spec"]["hard"][key]) for o in made) == quantity.parse(total), key


def test_the_first_namespace_weighs_one():
    made = quota.workload_quotas(tenant_with([3]))
    assert [o["spec"]["hard"]["limits.cpu"] for o in made] == ["8", "24"]
    assert [o["spec"]["hard"]["pods"] for o in made] == ["50", "150"]


@pytest.mark.parametrize(("tier", "external"), [("free", "0"), ("pro", "0"), ("enterprise", "420")])
def test_node_ports_and_load_balancers_are_a_tiers_feature(tier, external):
    hard = quota.workload_quotas(samples.resolved("acme", tier))[0]["spec"]["hard"]
    assert hard["services.nodeports"] == hard["services.loadbalancers"] == external


def test_every_tier_limits_the_same_things():
    """Else a thing that one tier left open would stay limited, or the other way round, after a move."""
    keys = [set(quota.workload_quotas(samples.resolved("a", t))[0]["spec"]["hard"]) for t in ("free", "enterprise")]
    assert keys[0] == keys[1]


def test_our_own_kinds_are_not_counted():
    hard = quota.workload_quotas(samples.resolved())[0]["spec"]["hard"]
    assert not any("tenantry" in key for key in hard)


@given(by=st.lists(st.integers(1, 100), max_size=16), tier=st.sampled_from(["free", "pro", "enterprise"]))
def test_defaults_are_whole_and_request_no_more_than_they_limit(by, tier):
    extra = [{"suffix": f"n{i}", "weight": w} for i, w in enumerate(by)]
    for made in quota.limit_ranges(samples.resolved("acme", tier, namespaces=extra)):
        (limits,) = made["spec"]["limits"]
        assert set(limits["default"]) == set(limits["defaultRequest"]) == {"cpu", "memory", "ephemeral-storage"}
        for key, value in limits["default"].items():
            assert 0 < quantity.parse(limits["defaultRequest"][key]) <= quantity.parse(value)


@pytest.mark.parametrize("tier", ["free", "pro", "enterprise"])
def test_as_many_default_pods_fit_as_the_quota_counts(tier):
    tenant = samples.resolved("acme", tier)
    (made,), (ranges,) = quota.workload_quotas(tenant), quota.limit_ranges(tenant)
    default = ranges["spec"]["limits"][0]["default"]
    for key in ("cpu", "memory", "ephemeral-storage"):
        assert quantity.parse(default[key]) * tenant.quota.pods <= quantity.parse(made["spec"]["hard"][f"limits.{key}"])


@pytest.mark.parametrize("replicas", [1, 2, 5])
def test_the_runtimes_quota_holds_a_rollout(replicas):
    tenant = samples.resolved("acme", runtime={"replicas": {"min": replicas}})
    hard = quota.runtime_quota(tenant)["spec"]["hard"]
    assert int(hard["pods"]) > replicas
    assert int(hard["count/deployments.apps"]) > 1, "a request that was cut off may be counted for minutes"


def test_small_pods_may_replace_large_ones():
    """A sum would count both kinds while they are replaced, and admit none of the new."""
    hard = quota.runtime_quota(samples.resolved("acme", runtime={"resources": {"cpuLimit": "50m"}}))["spec"]["hard"]
    assert not [key for key in hard if "cpu" in key or "memory" in key or "ephemeral" in key]


@pytest.mark.parametrize(
    ("given_", "printed"),
    [
        ("1024Mi", "1Gi"),
        ("10M", "10M"),
        ("10000000", "10M"),
        ("1.5Gi", "1536Mi"),
        ("1000", "1k"),
        ("0", "0"),
        ("7", "7"),
    ],
)
def test_amounts_are_written_as_the_api_server_prints_them(given_, printed):
    assert quota.canonical(given_) == printed


@pytest.mark.parametrize(("number", "printed"), [(0, "0"), (20, "20"), (1000, "1k"), (1024, "1024"), (5040, "5040")])
def test_counts_are_written_as_the_api_server_prints_them(number, printed):
    assert quota.pieces(number) == printed
