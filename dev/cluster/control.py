"""The control plane: etcd, API server, controller manager, scheduler, and the kubeconfigs of all parts."""

from __future__ import annotations

from pathlib import Path

from dev.cluster import certs, paths
from dev.cluster.golang import program
from dev.cluster.progress import run
from dev.cluster.record import Record
from dev.cluster.service import Service, http_ok
from dev.cluster.settings import (
    API_PORT,
    API_SERVICE,
    BRIDGE_ADDRESS,
    DOMAIN,
    ETCD_PEER_PORT,
    ETCD_PORT,
    HOST,
    MANAGER_PORT,
    NODE,
    POD_CIDR,
    PODS,
    SCHEDULER_PORT,
    SERVICE_CIDR,
)

PKI = paths.STATE / "pki"
SERVER = f"https://{HOST}:{API_PORT}"
_USERS = {  # kubeconfig -> user and groups
    "admin": ("tenantry-dev:admin", ("system:masters",)),
    "controller-manager": ("system:kube-controller-manager", ()),
    "scheduler": ("system:kube-scheduler", ()),
    "kubelet": (f"system:node:{NODE}", ("system:nodes",)),
    "proxy": ("system:kube-proxy", ()),
    "dns": ("tenantry-dev:dns", ()),
}


def authority() -> certs.Authority:
    """The cluster's certificate authority."""
    return certs.Authority(PKI, "ca")


def kubeconfig(name: str) -> Path:
    """The kubeconfig of one part (`admin`, `controller-manager`, `scheduler`, `kubelet`, `proxy`, `dns`)."""
    return PKI / f"{name}.kubeconfig"


def make_credentials() -> None:
    """Write every certificate and kubeconfig that is not there yet; the admin's is `.dev/kubeconfig`."""
    PKI.mkdir(parents=True, exist_ok=True)
    PKI.chmod(0o700)
    ca = authority()
    for name, (user, groups) in _USERS.items():
        pair = ca.issue(name, user, groups)
        if not kubeconfig(name).exists():
            certs.kubeconfig(kubeconfig(name), SERVER, ca.certificate, pair=pair)
    certs.write_private(paths.KUBECONFIG, kubeconfig("admin").read_bytes())


def kubectl(*words: str, text: str | None = None, timeout: float = 60) -> str:
    """Run kubectl as the cluster's administrator; what it printed."""
    return run([*program("kubectl"), "--kubeconfig", paths.KUBECONFIG, *words], timeout=timeout, text=text)


def start(record: Record) -> None:
    """Start the four and wait until each is healthy."""
    for service in (etcd(), api_server(), controller_manager(), scheduler()):
        service.start(record)


def etcd() -> Service:
    """etcd, reached with a certificate only; its state lives as long as the cluster, so it need not sync."""
    own = certs.Authority(PKI, "etcd-ca")
    certificate, key = own.issue("etcd", "etcd", hosts=("127.0.0.1", "localhost"))
    client, peer = f"https://127.0.0.1:{ETCD_PORT}", f"https://127.0.0.1:{ETCD_PEER_PORT}"
    command = [
        *program("etcd"),
        f"--data-dir={paths.STATE / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        f"--cert-file={certificate}",
        f"--key-file={key}",
        f"--trusted-ca-file={own.certificate}",
        "--client-cert-auth",
        f"--peer-cert-file={certificate}",
        f"--peer-key-file={key}",
        f"--peer-trusted-ca-file={own.certificate}",
        "--peer-client-cert-auth",
        "--unsafe-no-fsync",
        "--quota-backend-bytes=4294967296",
        "--log-level=warn",
    ]
    return Service(
        "etcd",
        command,
        lambda: http_ok(f"{client}/health", own.certificate, (certificate, key)),
        [("127.0.0.1", ETCD_PORT), ("127.0.0.1", ETCD_PEER_PORT)],
    )


def api_server() -> Service:
    """The API server, on the address that Pods and this machine reach."""
    ca, etcd_ca = authority(), certs.Authority(PKI, "etcd-ca")
    names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", f"kubernetes.default.svc.{DOMAIN}"]
    addresses = ["localhost", "127.0.0.1", BRIDGE_ADDRESS, API_SERVICE]
    certificate, key = ca.issue("apiserver", "kube-apiserver", hosts=[*names, *addresses])
    etcd_certificate, etcd_key = etcd_ca.issue("apiserver-etcd", "kube-apiserver")
    kubelet_certificate, kubelet_key = ca.issue("apiserver-kubelet", "kube-apiserver", ("system:masters",))
    private, public = certs.signing_key(PKI)
    command = [
        *program("kube-apiserver"),
        f"--bind-address={HOST}",
        f"--advertise-address={HOST}",
        f"--secure-port={API_PORT}",
        f"--etcd-servers=https://127.0.0.1:{ETCD_PORT}",
        f"--etcd-cafile={etcd_ca.certificate}",
        f"--etcd-certfile={etcd_certificate}",
        f"--etcd-keyfile={etcd_key}",
        f"--tls-cert-file={certificate}",
        f"--tls-private-key-file={key}",
        f"--client-ca-file={ca.certificate}",
        f"--kubelet-certificate-authority={ca.certificate}",
        f"--kubelet-client-certificate={kubelet_certificate}",
        f"--kubelet-client-key={kubelet_key}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-account-issuer=https://kubernetes.default.svc.{DOMAIN}",
        f"--service-account-key-file={public}",
        f"--service-account-signing-key-file={private}",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        "--profiling=false",
        *([] if PODS else ["--endpoint-reconciler-type=none"]),  # an endpoint may not be a loopback address
    ]
    admin = ca.issue("admin", *_USERS["admin"])
    return Service(
        "kube-apiserver",
        command,
        lambda: http_ok(f"{SERVER}/readyz", ca.certificate, admin),
        [(HOST, API_PORT)],
        timeout=120,
    )


def controller_manager() -> Service:
    """The controller manager."""
    ca = authority()
    certificate, key = ca.issue("controller-manager-server", "kube-controller-manager", hosts=["127.0.0.1"])
    private, _ = certs.signing_key(PKI)
    config = kubeconfig("controller-manager")
    command = [
        *program("kube-controller-manager"),
        *_as_client(config, MANAGER_PORT, certificate, key),
        f"--cluster-cidr={POD_CIDR}",
        f"--root-ca-file={ca.certificate}",
        f"--service-account-private-key-file={private}",
        f"--cluster-signing-cert-file={ca.certificate}",
        f"--cluster-signing-key-file={PKI / 'ca.key'}",
        "--use-service-account-credentials=true",
        "--leader-elect=false",
        "--profiling=false",
    ]
    return Service(
        "kube-controller-manager",
        command,
        lambda: http_ok(f"https://127.0.0.1:{MANAGER_PORT}/healthz", ca.certificate),
        [("127.0.0.1", MANAGER_PORT)],
    )


def scheduler() -> Service:
    """The scheduler."""
    ca = authority()
    certificate, key = ca.issue("scheduler-server", "kube-scheduler", hosts=["127.0.0.1"])
    command = [
        *program("kube-scheduler"),
        *_as_client(kubeconfig("scheduler"), SCHEDULER_PORT, certificate, key),
        "--leader-elect=false",
        "--profiling=false",
    ]
    return Service(
        "kube-scheduler",
        command,
        lambda: http_ok(f"https://127.0.0.1:{SCHEDULER_PORT}/healthz", ca.certificate),
        [("127.0.0.1", SCHEDULER_PORT)],
    )


def _as_client(config: Path, port: int, certificate: Path, key: Path) -> list[str]:
    """What the two controllers have in common."""
    return [
        f"--kubeconfig={config}",
        f"--authentication-kubeconfig={config}",
        f"--authorization-kubeconfig={config}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--tls-cert-file={certificate}",
        f"--tls-private-key-file={key}",
    ]
