"""What NetworkPolicies mean, so that tests can ask who reaches whom.

After the API's definition (networking.k8s.io/v1): a Pod that no policy selects for a direction is open in it; one
that is selected is open only to what some policy's rule names.  A connection needs the way out of its source and
the way in to its destination.  An ipBlock is read as matching any address within it, Pods' own too, which is the
most that a network may make of it.
"""

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Peer:
    """A Pod (with a namespace), or an address outside the cluster (without)."""

    address: str
    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


class Network:
    """Namespaces (name -> labels) and the policies in them."""

    def __init__(self, namespaces: Mapping[str, Mapping[str, str]], policies: Iterable[Json]) -> None:
        self.namespaces = {name: {"kubernetes.io/metadata.name": name, **labels} for name, labels in namespaces.items()}
        self.policies = list(policies)

    @classmethod
    def of(cls, objects: Iterable[Json], **others: Mapping[str, str]) -> "Network":
        """From built objects; `others` are namespaces that are there already (underscores stand for hyphens)."""
        objects = list(objects)
        made = {o["metadata"]["name"]: o["metadata"]["labels"] for o in objects if o["kind"] == "Namespace"}
        there = {name.replace("_", "-"): labels for name, labels in others.items()}
        return cls({**there, **made}, [o for o in objects if o["kind"] == "NetworkPolicy"])

    def reaches(self, source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
        return self._open("Egress", source, target, port, protocol) and self._open(
            "Ingress", target, source, port, protocol
        )

    def _open(self, direction: str, pod: Peer, other: Peer, port: int, protocol: str) -> bool:
        if not pod.namespace:
            return True
        selecting = [
            p["spec"]
            for p in self.policies
            if p["metadata"]["namespace"] == pod.namespace
            and direction in p["spec"]["policyTypes"]
            and matches(p["spec"]["podSelector"], pod.labels)
        ]
        if not selecting:
            return True
        rules, ends = ("egress", "to") if direction == "Egress" else ("ingress", "from")
        return any(
            self._rule(rule, ends, pod.namespace, other, port, protocol)
            for spec in selecting
            for rule in spec.get(rules, [])
        )

    def _rule(self, rule: Json, ends: str, home: str, other: Peer, port: int, protocol: str) -> bool:
        ports = rule.get("ports", [])
        if ports and not any(_port(p, port, protocol) for p in ports):
            return False
        peers = rule.get(ends, [])
        return not peers or any(self._peer(peer, home, other) for peer in peers)

    def _peer(self, peer: Json, home: str, other: Peer) -> bool:
        if "ipBlock" in peer:
            return in_block(peer["ipBlock"], other.address)
        if not other.namespace:
            return False
        if "namespaceSelector" in peer:
            if not matches(peer["namespaceSelector"], self.namespaces.get(other.namespace, {})):
                return False
        elif other.namespace != home:
            return False
        return matches(peer.get("podSelector", {}), other.labels)


def matches(selector: Json, labels: Mapping[str, str]) -> bool:
    """A label selector; the empty one matches everything."""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for want in selector.get("matchExpressions", []):
        key, operator = want["key"], want["operator"]
        held = {
            "In": labels.get(key) in want.get("values", []),
            "NotIn": labels.get(key) not in want.get("values", []),
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }[operator]
        if not held:
            return False
    return True


def in_block(block: Json, address: str) -> bool:
    ip = ipaddress.ip_address(address)

    def within(cidr: str) -> bool:
        return ip in ipaddress.ip_network(cidr)

    return within(block["cidr"]) and not any(map(within, block.get("except", [])))


def _port(want: Json, port: int, protocol: str) -> bool:
    if want.get("protocol", "TCP") != protocol:
        return False
    if "port" not in want:
        return True
    return bool(want["port"] <= port <= want.get("endPort", want["port"]))
