"""Who reaches whom, asked of an evaluator of NetworkPolicies."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.desired import network
from tenantry.desired.kubernetes import namespace_objects
from tenantry.desired.meta import DesiredError
from tenantry.desired.options import Options
from tests import samples
from tests.networkpolicy import Network, Peer

OPTIONS = Options("runtime:1")
OTHERS = {"kube_system": {}, "monitoring": {}, "data": {}, "elsewhere": {}}
DNS = Peer("10.0.0.53", "kube-system", {"k8s-app": "kube-dns"})
PROMETHEUS = Peer("10.0.0.90", "monitoring")
STRANGER = Peer("10.0.0.99", "elsewhere")
POSTGRES = Peer("10.96.7.1")
MILVUS = Peer("10.0.0.30", "data")
METADATA = (Peer("169.254.169.254"), Peer("fd00:ec2::254"), Peer("169.254.170.2"))


def pods(name, *suffixes):
    workloads = [Peer(f"10.1.0.{i}", f"tenant-{name}{s}") for i, s in enumerate(("", *(f"--{x}" for x in suffixes)))]
    return workloads, Peer("10.1.0.200", f"runtime-{name}", {"app.kubernetes.io/name": "tenantry-runtime"})


def world(*tenants):
    return Network.of([o for t in tenants for o in namespace_objects(t, OPTIONS)], **OTHERS)


@pytest.fixture(scope="module")
def two():
    """A free tenant with two workload namespaces, and an enterprise one."""
    acme = samples.resolved("acme", namespaces=[{"suffix": "dev"}])
    return world(acme, samples.resolved("globex", "enterprise"))


ACME, ACME_RUNTIME = pods("acme", "dev")
GLOBEX, GLOBEX_RUNTIME = pods("globex")


def test_a_tenants_namespaces_reach_each_other_and_its_runtime(two):
    for source in ACME:
        assert all(two.reaches(source, target, 5000) for target in ACME)
        assert two.reaches(source, ACME_RUNTIME, 8000)


def test_workloads_never_reach_the_metrics_port(two):
    assert not any(two.reaches(source, ACME_RUNTIME, 9090) for source in ACME)


@pytest.mark.parametrize("port", [80, 443, 5432, 8000, 9090])
def test_tenants_never_reach_each_other(two, port):
    ours, theirs = [*ACME, ACME_RUNTIME], [*GLOBEX, GLOBEX_RUNTIME]
    assert not any(two.reaches(a, b, port) or two.reaches(b, a, port) for a in ours for b in theirs)


@pytest.mark.parametrize("port", [8000, 9090])
def test_strangers_reach_nothing(two, port):
    assert not any(two.reaches(STRANGER, target, port) for target in (*ACME, ACME_RUNTIME))
    assert not any(two.reaches(source, STRANGER, port) for source in (*ACME, ACME_RUNTIME))


def test_prometheus_reaches_the_metrics_port_only(two):
    assert two.reaches(PROMETHEUS, ACME_RUNTIME, 9090)
    assert not two.reaches(PROMETHEUS, ACME_RUNTIME, 8000)
    assert not two.reaches(PROMETHEUS, ACME[0], 9090)


def test_a_prometheus_outside_comes_in_by_its_address():
    options = Options("runtime:1", prometheus_namespace="", prometheus_cidrs=("192.0.2.7/32",))
    there = Network.of(namespace_objects(samples.resolved("acme"), options), **OTHERS)
    assert there.reaches(Peer("192.0.2.7"), ACME_RUNTIME, 9090)
    assert not there.reaches(Peer("192.0.2.8"), ACME_RUNTIME, 9090)
    assert not there.reaches(PROMETHEUS, ACME_RUNTIME, 9090)


def test_without_a_prometheus_nobody_reads_metrics():
    closed = Network.of(namespace_objects(samples.resolved("acme"), Options("r", prometheus_namespace="")), **OTHERS)
    assert not closed.reaches(PROMETHEUS, ACME_RUNTIME, 9090)


def test_names_are_looked_up_at_the_clusters_dns_only(two):
    for source in (*ACME, ACME_RUNTIME):
        assert two.reaches(source, DNS, 53, "UDP")
        assert two.reaches(source, DNS, 53, "TCP")
        assert not two.reaches(source, DNS, 443)
        assert not two.reaches(source, Peer("10.0.0.54", "kube-system"), 53, "UDP")


def test_the_data_that_each_level_may_reach(two):
    for source in (*ACME, ACME_RUNTIME, *GLOBEX, GLOBEX_RUNTIME):
        assert two.reaches(source, POSTGRES, 5432)
        assert not two.reaches(source, POSTGRES, 22)
    assert not any(two.reaches(source, MILVUS, 19530) for source in ACME)
    assert all(two.reaches(source, MILVUS, 19530) for source in (*GLOBEX, GLOBEX_RUNTIME, ACME_RUNTIME))


def test_only_the_runtime_reaches_the_provider(two):
    public = Peer("104.18.7.192")
    assert two.reaches(ACME_RUNTIME, public, 443)
    assert not two.reaches(ACME_RUNTIME, public, 80)
    assert not any(two.reaches(source, public, 443) for source in (*ACME, *GLOBEX))


@given(st.ip_addresses(v=4).filter(lambda a: not a.is_global and not a.is_multicast))
def test_a_provider_that_is_a_name_opens_no_address_that_is_not_public(address):
    # is_global knows a few single addresses and test networks beside the blocks that matter.
    test_nets = ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "192.88.99.0/24", "192.31.196.0/24")
    if any(address in ipaddress.ip_network(net) for net in test_nets):
        return
    assert not RUNTIME_BY_NAME.reaches(ACME_RUNTIME, Peer(str(address)), 443)


@given(st.ip_addresses(v=6).filter(lambda a: a not in ipaddress.ip_network("2000::/3")))
def test_a_provider_that_is_a_name_opens_no_local_ipv6(address):
    assert not RUNTIME_BY_NAME.reaches(ACME_RUNTIME, Peer(str(address)), 443)


RUNTIME_BY_NAME = world(samples.resolved("acme"))

cidrs = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.integers(0, 32)),
    st.tuples(st.ip_addresses(v=6), st.integers(0, 128)),
    st.tuples(st.just("169.254.169.254"), st.integers(0, 32)),
    st.tuples(st.just("fd00:ec2::254"), st.integers(0, 128)),
).map(lambda pair: f"{pair[0]}/{pair[1]}")
endpoints = st.builds(
    lambda blocks, ports: {"cidrs": blocks, "ports": ports},
    st.lists(cidrs, min_size=1, max_size=3),
    st.lists(st.sampled_from([80, 443, 5432]), min_size=1, max_size=2, unique=True),
)


@given(
    egress=st.fixed_dictionaries({}, optional=dict.fromkeys(("postgres", "milvus", "provider"), endpoints)),
    tier=st.sampled_from(["free", "enterprise"]),
)
def test_no_region_opens_the_metadata_address(egress, tier):
    tenant = samples.resolved("acme", tier, in_region=samples.region(egress=egress))
    try:
        there = world(tenant)
    except DesiredError:
        return  # the whole block is link-local: refused, see below
    for source in (ACME[0], ACME_RUNTIME):
        assert not any(there.reaches(source, meta, port) for meta in METADATA for port in (80, 443, 5432))


@given(cidrs)
def test_exceptions_lie_strictly_within_their_block(cidr):
    """The API server refuses others."""
    tenant = samples.resolved("acme", in_region=samples.region(egress={"postgres": {"cidrs": [cidr], "ports": [1]}}))
    try:
        made = network.policies(tenant, OPTIONS)
    except DesiredError:
        return
    for policy in made:
        for rule in policy["spec"].get("egress", []):
            for block in (peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer):
                outer = ipaddress.ip_network(block["cidr"])
                for one in map(ipaddress.ip_network, block.get("except", [])):
                    assert one.subnet_of(outer)
                    assert one != outer


@pytest.mark.parametrize("cidr", ["169.254.169.254/32", "169.254.0.0/17", "fd00:ec2::254/128"])
def test_a_link_local_backend_is_refused(cidr):
    region = samples.region(egress={"provider": {"cidrs": [cidr], "ports": [80]}})
    with pytest.raises(DesiredError, match="link-local"):
        network.policies(samples.resolved(in_region=region), OPTIONS)


IN_DATA = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "data"}}}


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("10.1.2.3", {"ipBlock": {"cidr": "10.1.2.3/32"}}),
        ("2001:db8::1", {"ipBlock": {"cidr": "2001:db8::1/128"}}),
        ("localhost", {"ipBlock": {"cidr": "127.0.0.1/32"}}),
        ("pg.data.svc", IN_DATA),
        ("pg-0.pg.data.svc.cluster.local", IN_DATA),
    ],
)  # fmt: skip
def test_hosts_become_peers(host, expected):
    assert network.route("postgres", samples.resolved(), host, 5432, None) == {
        "to": [expected],
        "ports": [{"protocol": "TCP", "port": 5432}],
    }


@pytest.mark.parametrize("host", ["db.example.com", "pg.data", "svc", "x.svc"])
def test_a_database_that_is_only_a_name_needs_cidrs(host):
    region = samples.region("west", postgres={**samples.REGION["postgres"], "host": host})
    with pytest.raises(DesiredError, match=r"DataRegion 'west' .* set spec\.egress\.postgres") as caught:
        network.policies(samples.resolved(in_region=region), OPTIONS)
    assert caught.value.problem.reason == "InvalidSpec"


def test_cidrs_replace_what_the_host_says():
    region = samples.region(
        postgres={**samples.REGION["postgres"], "host": "db.example.com"},
        egress={"postgres": {"cidrs": ["203.0.113.0/24"], "ports": [6432]}},
    )
    there = world(samples.resolved("acme", in_region=region))
    assert there.reaches(ACME[0], Peer("203.0.113.9"), 6432)
    assert not there.reaches(ACME[0], Peer("203.0.113.9"), 5432)


@pytest.mark.parametrize(
    ("uri", "port"),
    [("http://10.0.0.4", 19530), ("https://10.0.0.4", 443), ("http://10.0.0.4:1953", 1953), ("tcp://10.0.0.4", 19530)],
)
def test_ports_that_a_milvus_uri_leaves_out(uri, port):
    there = world(samples.resolved("acme", in_region=samples.region(milvus={"uri": uri})))
    assert there.reaches(ACME_RUNTIME, Peer("10.0.0.4"), port)


@pytest.mark.parametrize("uri", ["./milvus.db", "milvus:19530", "http://[", "http://x:99999"])
def test_a_milvus_that_is_no_url_is_refused(uri):
    with pytest.raises(DesiredError, match=r"spec\.milvus\.uri"):
        network.policies(samples.resolved(in_region=samples.region(milvus={"uri": uri})), OPTIONS)


@pytest.mark.parametrize("cidr", ["nonsense", "10.0.0.0/40"])
def test_what_is_no_cidr_is_refused(cidr):
    region = samples.region(egress={"milvus": {"cidrs": [cidr], "ports": [19530]}})
    with pytest.raises(DesiredError, match="is no CIDR"):
        network.policies(samples.resolved(in_region=region), OPTIONS)


def test_a_provider_inside_the_cluster_opens_no_public_address():
    provider = {**samples.REGION["provider"], "baseUrl": "http://models.ai.svc:8080/v1"}
    there = world(samples.resolved("acme", in_region=samples.region(provider=provider)))
    assert not there.reaches(ACME_RUNTIME, Peer("104.18.7.192"), 443)
    assert there.reaches(ACME_RUNTIME, Peer("10.0.0.77", "ai"), 8080) is False, "no such namespace here"
    there.namespaces["ai"] = {"kubernetes.io/metadata.name": "ai"}
    assert there.reaches(ACME_RUNTIME, Peer("10.0.0.77", "ai"), 8080)
