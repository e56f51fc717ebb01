"""One NetworkPolicy for each namespace: everything is denied both ways but for the few ways that it opens.

NetworkPolicies know addresses and namespaces, not names.  So a backend is reached by
- `spec.egress.NAME` of its region, where that is set,
- its address, where its host is one,
- the namespace of its Service, where its host is `NAME.NAMESPACE.svc[.cluster.local]`,
- and, for a model provider that is only a name, by every public address on the URL's port.

The cloud's metadata address is never among them, whatever the region says.
"""

import ipaddress
import re
from urllib.parse import urlsplit

from tenantry import names
from tenantry.api.region import Endpoint
from tenantry.desired.meta import NAME, RUNTIME, WORKLOAD, DesiredError, Json, metadata
from tenantry.desired.options import Options
from tenantry.desired.scrape import METRICS_PORT
from tenantry.desired.workload import API_PORT
from tenantry.resolve import Resolved

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

NAMESPACE_NAME = "kubernetes.io/metadata.name"
"""Set on every namespace by the API server itself."""

NEVER = tuple(map(ipaddress.ip_network, ("169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128")))
"""Link-local addresses, where clouds serve credentials to whoever asks."""

PUBLIC_V4, PUBLIC_V6 = ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("2000::/3")
# IANA's special-purpose registries: private, shared (CGNAT), loopback, link-local, test, multicast, reserved.
NOT_PUBLIC_V4 = (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
    "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4",
)  # fmt: skip
NOT_PUBLIC_V6 = ("2002::/16",)
"""6to4 carries IPv4 addresses, private ones too; ULA and link-local lie outside 2000::/3."""

_SERVICE = re.compile(r"^(?:[a-z0-9-]+\.){1,2}(?P<namespace>[a-z0-9-]+)\.svc(?:\.cluster\.local)?\.?$")


def policies(resolved: Resolved, options: Options) -> list[Json]:
    """For every namespace of the tenant.  Raises DesiredError for an endpoint that no policy can express."""
    region = resolved.region_spec
    postgres = route("postgres", resolved, region.postgres.host, region.postgres.port, region.egress.postgres)
    milvus = route("milvus", resolved, *_milvus(resolved), region.egress.milvus)
    provider = route("provider", resolved, *_provider(resolved), region.egress.provider)
    data = [postgres, milvus] if resolved.vectors.isolation != "Partition" else [postgres]
    inside = {
        "ingress": [{"from": [_own(resolved, WORKLOAD)]}],
        "egress": [{"to": [_own(resolved, WORKLOAD)]}, _to_runtime(resolved), _dns(), *data],
    }
    served = {"from": [_own(resolved, WORKLOAD)], "ports": _tcp(API_PORT)}
    runtime = {
        "ingress": [served, *_from_prometheus(options)],
        "egress": [_dns(), postgres, milvus, provider],
    }
    return [
        *(_policy(resolved, workload.name, inside) for workload in resolved.workloads),
        _policy(resolved, resolved.runtime_namespace, runtime),
    ]


def route(what: str, resolved: Resolved, host: str, port: int, egress: Endpoint | None) -> Json:
    """The egress rule to one backend of the region."""
    if egress is not None:
        return {"to": [_block(cidr, resolved, what) for cidr in egress.cidrs], "ports": _tcp(*egress.ports)}
    address = _address(host)
    if address is not None:
        return {"to": [_block(f"{address}/{address.max_prefixlen}", resolved, what)], "ports": _tcp(port)}
    service = _SERVICE.match(host.lower())
    if service:
        selector = {"matchLabels": {NAMESPACE_NAME: service["namespace"]}}
        return {"to": [{"namespaceSelector": selector}], "ports": _tcp(port)}
    if what == "provider":
        return {
            "to": [
                {"ipBlock": {"cidr": str(PUBLIC_V4), "except": list(NOT_PUBLIC_V4)}},
                {"ipBlock": {"cidr": str(PUBLIC_V6), "except": list(NOT_PUBLIC_V6)}},
            ],
            "ports": _tcp(port),
        }
    raise DesiredError(
        f"DataRegion {resolved.region!r} names its {_TITLES[what]} {host!r}, and a NetworkPolicy knows no host names; "
        f"set spec.egress.{what} there (cidrs and ports), or name a Service as NAME.NAMESPACE.svc"
    )


_TITLES = {"postgres": "PostgreSQL", "milvus": "Milvus", "provider": "model provider"}


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        return None


def _split(url: str, resolved: Resolved, field: str) -> tuple[str, str, int | None]:
    """Scheme, host and port (None where the URL names none)."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if not host or not parts.scheme:
        raise DesiredError(
            f"DataRegion {resolved.region!r}: {field} {url!r} is no URL with a scheme and a host, "
            "such as https://host.example:443"
        )
    return parts.scheme, host, port


def _milvus(resolved: Resolved) -> tuple[str, int]:
    scheme, host, port = _split(resolved.region_spec.milvus.uri, resolved, "spec.milvus.uri")
    return host, port or (443 if scheme == "https" else 19530)


def _provider(resolved: Resolved) -> tuple[str, int]:
    scheme, host, port = _split(resolved.region_spec.provider.base_url, resolved, "spec.provider.baseUrl")
    return host, port or (80 if scheme == "http" else 443)


def _block(cidr: str, resolved: Resolved, what: str) -> Json:
    """An ipBlock without the addresses of `NEVER`."""
    try:
        network = ipaddress.ip_network(cidr, strict=False)
    except ValueError:
        raise DesiredError(
            f"DataRegion {resolved.region!r}: spec.egress.{what}.cidrs has {cidr!r}, which is no CIDR "
            "such as 203.0.113.0/24"
        ) from None
    if any(_within(network, never) for never in NEVER):
        raise DesiredError(
            f"DataRegion {resolved.region!r} puts its {_TITLES[what]} at the link-local address {network}, "
            "where clouds serve their credentials; no tenant may reach that, so give it another address"
        )
    made: Json = {"cidr": str(network)}
    inside = [str(never) for never in NEVER if _within(never, network)]
    if inside:
        made["except"] = inside
    return {"ipBlock": made}


def _within(inner: Network, outer: Network) -> bool:
    if isinstance(inner, ipaddress.IPv4Network):
        return isinstance(outer, ipaddress.IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, ipaddress.IPv6Network) and inner.subnet_of(outer)


def _own(resolved: Resolved, role: str) -> Json:
    """This tenant's namespaces of one role.  Admission lets only the operator set these labels."""
    return {
        "namespaceSelector": {"matchLabels": {names.TENANT_LABEL: resolved.name, names.ROLE_LABEL: role}},
    }


def _to_runtime(resolved: Resolved) -> Json:
    return {"to": [_own(resolved, RUNTIME)], "ports": _tcp(API_PORT)}


def _dns() -> Json:
    peer = {
        "namespaceSelector": {"matchLabels": {NAMESPACE_NAME: "kube-system"}},
        "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
    }
    return {"to": [peer], "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}


def _from_prometheus(options: Options) -> list[Json]:
    """Nobody at all may come in where the installation names no Prometheus."""
    peers: list[Json] = []
    if options.prometheus_namespace:
        peers.append({"namespaceSelector": {"matchLabels": {NAMESPACE_NAME: options.prometheus_namespace}}})
    peers += [{"ipBlock": {"cidr": cidr}} for cidr in options.prometheus_cidrs]
    return [{"from": peers, "ports": _tcp(METRICS_PORT)}] if peers else []


def _tcp(*ports: int) -> list[Json]:
    return [{"protocol": "TCP", "port": port} for port in ports]


def _policy(resolved: Resolved, namespace: str, rules: Json) -> Json:
    """For all Pods of the namespace, both ways."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(resolved, NAME, namespace),
        "spec": {"podSelector": {}, **rules, "policyTypes": ["Ingress", "Egress"]},
    }
