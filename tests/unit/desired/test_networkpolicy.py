"""The evaluator itself: what it says must be what the API's documentation says."""

import pytest

from tests.networkpolicy import Network, Peer, in_block, matches


def policy(namespace, types, selector=None, **rules):
    return {
        "kind": "NetworkPolicy",
        "metadata": {"name": "p", "namespace": namespace},
        "spec": {"podSelector": selector or {}, "policyTypes": types, **rules},
    }


A = Peer("10.0.0.1", "a", {"app": "x"})
B = Peer("10.0.0.2", "b", {"app": "y"})
SPACES = {"a": {"team": "one"}, "b": {"team": "two"}}


def test_without_policies_all_is_open():
    assert Network(SPACES, []).reaches(A, B, 80)


def test_a_selected_pod_is_closed_in_that_direction_only():
    network = Network(SPACES, [policy("a", ["Egress"])])
    assert not network.reaches(A, B, 80)
    assert network.reaches(B, A, 80)


def test_both_ends_must_agree():
    out = policy("a", ["Egress"], egress=[{"to": [{"namespaceSelector": {}}]}])
    assert Network(SPACES, [out]).reaches(A, B, 80)
    assert not Network(SPACES, [out, policy("b", ["Ingress"])]).reaches(A, B, 80)


def test_policies_add_up():
    rules = [
        policy("b", ["Ingress"]),
        policy("b", ["Ingress"], ingress=[{"from": [{"namespaceSelector": {"matchLabels": {"team": "one"}}}]}]),
    ]
    assert Network(SPACES, rules).reaches(A, B, 80)


def test_a_pod_selector_alone_means_the_own_namespace():
    rule = policy("b", ["Ingress"], ingress=[{"from": [{"podSelector": {}}]}])
    network = Network(SPACES, [rule])
    assert not network.reaches(A, B, 80)
    assert network.reaches(Peer("10.0.0.3", "b"), B, 80)


def test_a_rule_without_peers_is_open_to_all_and_ports_count():
    rule = policy("b", ["Ingress"], ingress=[{"ports": [{"protocol": "UDP", "port": 53}]}])
    network = Network(SPACES, [rule])
    assert network.reaches(A, B, 53, "UDP")
    assert not network.reaches(A, B, 53)
    assert not network.reaches(A, B, 54, "UDP")


def test_only_selected_pods_are_closed():
    rule = policy("b", ["Ingress"], selector={"matchLabels": {"app": "other"}})
    assert Network(SPACES, [rule]).reaches(A, B, 80)


def test_blocks_know_their_exceptions_and_families():
    block = {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}
    assert in_block(block, "10.2.0.1")
    assert not in_block(block, "10.1.0.1")
    assert not in_block(block, "fd00::1")


@pytest.mark.parametrize(
    ("operator", "values", "held"),
    [
        ("In", ["one"], True),
        ("In", ["two"], False),
        ("NotIn", ["two"], True),
        ("Exists", None, True),
        ("DoesNotExist", None, False),
    ],
)
def test_expressions(operator, values, held):
    want = {"key": "team", "operator": operator, **({"values": values} if values else {})}
    assert matches({"matchExpressions": [want]}, SPACES["a"]) is held
