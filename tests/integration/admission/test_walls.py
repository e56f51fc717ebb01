"""What an owner may not open: networks, ports, endpoints, nodes, priorities, images without a registry's yes."""

import uuid
from typing import Any

import pytest

from tests.api import Object, ok, refused
from tests.integration.admission.conftest import TenantSpaces
from tests.integration.admission.test_guard import POD_TEMPLATE

POD: Object = {"apiVersion": "v1", "kind": "Pod", "spec": POD_TEMPLATE["spec"]}


def policy(**spec: Any) -> Object:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"], **spec},
    }


def way(direction: str, *peers: Object) -> Object:
    """A policy with one rule."""
    return policy(**{direction: [{"to" if direction == "egress" else "from": list(peers)}]})


def selecting(**labels: str) -> Object:
    return {
        "namespaceSelector": {"matchLabels": {k.replace("__", "/").replace("_", "."): v for k, v in labels.items()}}
    }


OPEN_PEERS: dict[str, tuple[Object, str]] = {
    "block": ({"ipBlock": {"cidr": "10.0.0.0/8"}}, "ipBlock is refused"),
    "metadata address": ({"ipBlock": {"cidr": "169.254.169.254/32"}}, "ipBlock is refused"),
    "every namespace": ({"namespaceSelector": {}}, "must be a podSelector alone"),
    "another tenant": (selecting(tenantry_dev__tenant="other"), "must be a podSelector alone"),
    "another's namespace": (selecting(kubernetes_io__metadata_name="tenant-other"), "must be a podSelector alone"),
    "kube-system": (selecting(kubernetes_io__metadata_name="kube-system"), "must be a podSelector alone"),
    "by expression": (
        {"namespaceSelector": {"matchExpressions": [{"key": "tenantry.dev/tenant", "operator": "Exists"}]}},
        "must be a podSelector alone",
    ),
}


@pytest.mark.parametrize("direction", ["egress", "ingress"])
@pytest.mark.parametrize("which", OPEN_PEERS)
def test_a_peer_outside_the_tenant_is_refused(acme: TenantSpaces, direction: str, which: str) -> None:
    peer, words = OPEN_PEERS[which]
    field = "spec.egress[].to[]" if direction == "egress" else "spec.ingress[].from[]"
    refused(acme.cluster.person.create(acme.plain(way(direction, peer))), field, words)
    own = selecting(tenantry_dev__tenant=acme.tenant)
    refused(acme.cluster.person.create(acme.plain(way(direction, own, peer))), field, words)
    ok(acme.cluster.operator.create(acme.plain(way(direction, peer))))


@pytest.mark.parametrize("direction", ["egress", "ingress"])
def test_ways_within_the_tenant_are_open(acme: TenantSpaces, direction: str) -> None:
    inside: list[Object] = [
        {"podSelector": {}},
        {"podSelector": {"matchLabels": {"app": "x"}}},
        selecting(tenantry_dev__tenant=acme.tenant),
        selecting(kubernetes_io__metadata_name=acme.home),
        selecting(kubernetes_io__metadata_name=f"{acme.home}--dev"),
        {**selecting(tenantry_dev__tenant=acme.tenant), "podSelector": {"matchLabels": {"app": "x"}}},
    ]
    for peer in inside:
        ok(acme.cluster.person.create(acme.plain(way(direction, peer))))
    # The beginning of another tenant's name is not its name.
    near = selecting(kubernetes_io__metadata_name=f"{acme.home}-2")
    refused(acme.cluster.person.create(acme.plain(way(direction, near))), "must be a podSelector alone")


def test_denying_is_always_possible(acme: TenantSpaces) -> None:
    ok(acme.cluster.person.create(acme.plain(policy())))
    ok(acme.cluster.person.create(acme.plain(policy(egress=[], ingress=[]))))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"egress": [{}]}, "spec.egress[].to must not be empty"),
        ({"egress": [{"to": []}]}, "spec.egress[].to must not be empty"),
        ({"egress": [{"ports": [{"port": 53, "protocol": "UDP"}]}]}, "spec.egress[].to must not be empty"),
        ({"ingress": [{}]}, "spec.ingress[].from must not be empty"),
        ({"ingress": [{"ports": [{"port": 80}]}]}, "spec.ingress[].from must not be empty"),
    ],
)
def test_a_rule_without_peers_is_refused(acme: TenantSpaces, spec: dict[str, Any], words: str) -> None:
    refused(acme.cluster.person.create(acme.plain(policy(**spec))), words)


def test_a_policy_is_not_opened_later(acme: TenantSpaces) -> None:
    mine = acme.plain(policy(), "later")
    ok(acme.cluster.person.create(mine, dry=False))
    refused(acme.cluster.person.merge(mine, {"spec": {"egress": [{}]}}), "spec.egress[].to must not be empty")
    ok(acme.cluster.person.merge(mine, {"spec": {"egress": [{"to": [{"podSelector": {}}]}]}}))


def test_external_services_let_others_in_but_not_out(umbrella: TenantSpaces) -> None:
    person = umbrella.cluster.person
    wide: list[Object] = [{"ingress": [{}]}, {"ingress": [{"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}]}]
    for spec in wide:
        ok(person.create(umbrella.plain(policy(**spec))))
    ok(person.create(umbrella.plain(way("ingress", {"namespaceSelector": {}}))))
    refused(person.create(umbrella.plain(way("egress", {"namespaceSelector": {}}))), "spec.egress[].to[]")


def service(**spec: Any) -> Object:
    return {"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": 80}], "selector": {"app": "x"}, **spec}}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"type": "NodePort"}, "spec.type must not be NodePort"),
        ({"type": "LoadBalancer"}, "spec.type must not be LoadBalancer"),
        ({"externalIPs": ["203.0.113.7"]}, "spec.externalIPs must be empty"),
    ],
)
def test_services_stay_inside_unless_the_tier_says_so(
    acme: TenantSpaces, umbrella: TenantSpaces, spec: dict[str, Any], words: str
) -> None:
    refused(acme.cluster.person.create(acme.plain(service(**spec))), words)
    ok(umbrella.cluster.person.create(umbrella.plain(service(**spec))))
    mine = acme.plain(service(), f"later-{uuid.uuid4().hex[:8]}")
    ok(acme.cluster.person.create(mine, dry=False))
    refused(acme.cluster.person.merge(mine, {"spec": spec}), words)


def test_no_tier_has_external_names(acme: TenantSpaces, umbrella: TenantSpaces) -> None:
    body = {"apiVersion": "v1", "kind": "Service", "spec": {"type": "ExternalName", "externalName": "example.org"}}
    for spaces in (acme, umbrella):
        refused(spaces.cluster.person.create(spaces.plain(body)), "spec.type must not be ExternalName")
        ok(spaces.cluster.person.create(spaces.plain(service(clusterIP="None"))))
    ok(acme.cluster.person.create(acme.plain(body, "mine", "default")))


ENDPOINTS: list[Object] = [
    {"apiVersion": "v1", "kind": "Endpoints", "subsets": [{"addresses": [{"ip": "10.1.2.3"}], "ports": [{"port": 1}]}]},
    {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.1.2.3"]}],
    },
]


@pytest.mark.parametrize("body", ENDPOINTS, ids=["Endpoints", "EndpointSlice"])
def test_endpoints_are_not_made_by_hand(acme: TenantSpaces, body: Object) -> None:
    words = f"{body['kind']} of a tenant are made by Kubernetes from its Services, not by hand"
    refused(acme.cluster.person.create(acme.plain(body)), words)
    ok(acme.cluster.person.create(acme.plain(body, "mine", "default")))
    ok(acme.cluster.rescuer.create(acme.plain(body)))


def pod(**spec: Any) -> Object:
    return {**POD, "spec": {**POD["spec"], **spec}}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"nodeName": "node-1"}, "spec.nodeName must not be set"),
        ({"priorityClassName": "system-node-critical"}, "spec.priorityClassName must not be one of the system's"),
        ({"priorityClassName": "system-cluster-critical"}, "spec.priorityClassName must not be one of the system's"),
    ],
)
def test_where_a_pod_runs_and_whom_it_pushes_out(acme: TenantSpaces, spec: dict[str, Any], words: str) -> None:
    refused(acme.cluster.person.create(acme.plain(pod(**spec))), words)
    ok(acme.cluster.person.create(acme.plain(pod())))
    ok(acme.cluster.rescuer.create(acme.plain(pod(**spec))))


@pytest.mark.parametrize("where", ["home", "default"])
def test_a_pod_belongs_to_its_namespaces_tenant(acme: TenantSpaces, where: str) -> None:
    space = acme.home if where == "home" else "default"
    words = "metadata.labels: tenantry.dev/tenant of a Pod must be that of its namespace"
    plain = acme.plain(POD, "forger", space)

    def of(tenant: str) -> Object:
        return {**plain, "metadata": {**plain["metadata"], "labels": {"tenantry.dev/tenant": tenant}}}

    refused(acme.cluster.person.create(of("other")), words)
    refused(acme.cluster.operator.create(of("other")), words)
    if where == "home":
        ok(acme.cluster.person.create(of(acme.tenant)))
    else:
        refused(acme.cluster.person.create(of(acme.tenant)), words)
    ok(acme.cluster.person.create(plain, dry=False))
    for part in ("", "status"):
        refused(
            acme.cluster.person.merge(plain, {"metadata": {"labels": {"tenantry.dev/tenant": "other"}}}, part), words
        )
        ok(acme.cluster.person.merge(plain, {"metadata": {"labels": {"team": "a"}}}, part))
    ok(acme.cluster.person.delete(plain, dry=False))


def pull_policies(answer: Object, kind: str = "containers") -> list[str]:
    return [container["imagePullPolicy"] for container in answer["spec"][kind]]


def test_images_are_always_pulled_in_workload_namespaces(acme: TenantSpaces) -> None:
    container = {**POD["spec"]["containers"][0], "imagePullPolicy": "IfNotPresent"}
    body = pod(
        containers=[container, {**container, "name": "y", "imagePullPolicy": "Never"}],
        initContainers=[{**container, "name": "z"}],
    )
    person = acme.cluster.person
    inside = ok(person.create(acme.plain(body), dry=False))
    assert pull_policies(inside) == ["Always", "Always"]
    assert pull_policies(inside, "initContainers") == ["Always"]
    assert inside["spec"]["containers"][0]["securityContext"] == container["securityContext"], "the rest is as it was"
    outside = ok(person.create(acme.plain(body, "mine", "default")))
    assert pull_policies(outside) == ["IfNotPresent", "Never"]
    assert pull_policies(ok(acme.cluster.operator.create(acme.plain(body, "mine", acme.runtime)))) == [
        "IfNotPresent",
        "Never",
    ]
    for number in (1, 2):
        debugger = {**container, "name": f"debug-{number}"}
        now = ok(person.get(acme.plain(body)))
        have = now["spec"].get("ephemeralContainers", [])
        wanted = {**now, "spec": {**now["spec"], "ephemeralContainers": [*have, debugger]}}
        answer = ok(person.replace(wanted, "ephemeralcontainers", dry=False))
        assert pull_policies(answer, "ephemeralContainers") == ["Always"] * number
    ok(person.delete(acme.plain(body), dry=False))
