"""The node: containerd, kubelet and kube-proxy, and the cluster's DNS server beside them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import yaml

from dev.cluster import control, network, paths
from dev.cluster.golang import program
from dev.cluster.progress import run, wait_for
from dev.cluster.record import Record
from dev.cluster.service import Service, http_ok
from dev.cluster.settings import (
    BRIDGE,
    BRIDGE_ADDRESS,
    DNS_PORT,
    DNS_READY_PORT,
    DNS_SERVICE,
    DOMAIN,
    KUBELET_HEALTH_PORT,
    KUBELET_PORT,
    NODE,
    PAUSE_IMAGE,
    POD_CIDR,
    PROXY_HEALTH_PORT,
    PROXY_METRICS_PORT,
)

SOCKET = paths.RUN / "containerd.sock"
SHIM_STATE = paths.RUN / "containerd"
CONTAINERD = paths.STATE / "containerd"
MANIFESTS = Path(__file__).with_name("manifests")
# What the programs make outside of all folders that they are told.
OUTSIDE = tuple(
    Path(folder)
    for folder in (
        "/var/lib/kubelet",
        "/var/log/containers",
        "/var/log/pods",
        "/var/lib/cni",
        "/var/lib/containerd",
        "/run/containerd",
        "/opt/containerd",
        "/etc/cni/net.d",
        "/run/flannel",
        "/run/netns",
        "/usr/libexec/kubernetes",
    )
)


def ctr(*words: str | Path, timeout: float = 120) -> str:
    """Ask our containerd, in the namespace that kubelet uses."""
    return run(["ctr", "--address", SOCKET, "--namespace", "k8s.io", *words], timeout=timeout)


def start_containerd(record: Record) -> None:
    """Start containerd, so that images can be imported."""
    record.will_create(*OUTSIDE)
    _write_cni()
    config = paths.STATE / "containerd.toml"
    config.write_text(_containerd_config())
    Service(
        "containerd",
        ["containerd", "--config", config],
        lambda: SOCKET.exists() and _answers(),
        env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
    ).start(record)


def start(record: Record) -> None:
    """Start the rest and wait until the node is ready for Pods. The pause image must be there by now."""
    control.kubectl("apply", "-f", str(MANIFESTS / "dns.yaml"))
    _dns().start(record)
    _kubelet().start(record)
    _proxy().start(record)
    wait_for("The node", _node_ready, 90, lambda: f"{paths.LOGS / 'kubelet.log'} says why.")


def _answers() -> bool:
    try:
        ctr("version", timeout=10)
    except RuntimeError:
        return False
    return True


def _node_ready() -> bool:
    query = "{.status.conditions[?(@.type=='Ready')].status}"
    try:
        return control.kubectl("get", "node", NODE, "-o", f"jsonpath={query}", timeout=20) == "True"
    except RuntimeError:
        return False


def _write_cni() -> None:
    folder = paths.STATE / "cni"
    (folder / "net.d").mkdir(parents=True, exist_ok=True)
    ipam = {"type": "host-local", "subnet": POD_CIDR, "gateway": BRIDGE_ADDRESS, "dataDir": str(folder / "ipam")}
    bridge = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": True,
        "isDefaultGateway": True,
        "hairpinMode": True,
        "ipam": ipam,
    }
    document = {"cniVersion": "0.4.0", "name": "tenantry-dev", "plugins": [bridge]}
    (folder / "net.d" / "10-tenantry.conflist").write_text(json.dumps(document))


def _containerd_config() -> str:
    quote = json.dumps  # TOML's basic strings are JSON's
    return f"""version = 2
root = {quote(str(CONTAINERD))}
state = {quote(str(SHIM_STATE))}
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]
[grpc]
  address = {quote(str(SOCKET))}
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = {quote(PAUSE_IMAGE)}
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = {quote(str(paths.STATE / "cni" / "net.d"))}
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = {quote(_snapshotter())}
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"""


def _snapshotter() -> str:
    """overlayfs, or plain copies where that file system can't be stacked."""
    probe = paths.RUN / "overlay-probe"
    layers = [probe / name for name in ("lower", "upper", "work", "merged")]
    for layer in layers:
        layer.mkdir(parents=True, exist_ok=True)
    lower, upper, work, merged = layers
    try:
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        run(["mount", "-t", "overlay", "overlay", "-o", options, merged], timeout=10)
        run(["umount", merged], timeout=10)
        return "overlayfs"
    except RuntimeError:
        return "native"
    finally:
        shutil.rmtree(probe, ignore_errors=True)


def _kubelet() -> Service:
    ca = control.authority()
    certificate, key = ca.issue(
        "kubelet-server", f"system:node:{NODE}", ("system:nodes",), [NODE, BRIDGE_ADDRESS, "127.0.0.1"]
    )
    locked = not _writable(Path("/proc/sys/vm/overcommit_memory"))
    document = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": BRIDGE_ADDRESS,
        "port": KUBELET_PORT,
        "healthzBindAddress": "127.0.0.1",
        "healthzPort": KUBELET_HEALTH_PORT,
        "tlsCertFile": str(certificate),
        "tlsPrivateKeyFile": str(key),
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(ca.certificate)},
        },
        "authorization": {"mode": "Webhook"},
        "clusterDNS": [DNS_SERVICE],
        "clusterDomain": DOMAIN,
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "makeIPTablesUtilChains": False,
        "podLogsDir": str(paths.VAR / "logs"),
        "imageGCHighThresholdPercent": 100,  # no registry would bring a removed image back
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "featureGates": {"KubeletInUserNamespace": True} if locked else {},  # then kernel settings can't be set
        "shutdownGracePeriod": "0s",
        "maxPods": 200,
        "registerNode": True,
    }
    config = paths.STATE / "kubelet.yaml"
    config.write_text(yaml.safe_dump(document))
    command = [
        *program("kubelet"),
        f"--config={config}",
        f"--kubeconfig={control.kubeconfig('kubelet')}",
        f"--root-dir={paths.VAR / 'kubelet'}",
        f"--hostname-override={NODE}",
        f"--node-ip={BRIDGE_ADDRESS}",
    ]
    return Service(
        "kubelet",
        command,
        lambda: http_ok(f"http://127.0.0.1:{KUBELET_HEALTH_PORT}/healthz"),
        [(BRIDGE_ADDRESS, KUBELET_PORT), ("127.0.0.1", KUBELET_HEALTH_PORT)],
    )


def _writable(file: Path) -> bool:
    try:
        value = file.read_text()
        file.write_text(value)
    except OSError:
        return False
    return True


def _proxy() -> Service:
    document = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": str(control.kubeconfig("proxy"))},
        "clusterCIDR": POD_CIDR,
        "hostnameOverride": NODE,
        "healthzBindAddress": f"127.0.0.1:{PROXY_HEALTH_PORT}",
        "metricsBindAddress": f"127.0.0.1:{PROXY_METRICS_PORT}",
        "nftables": {"masqueradeAll": not network.bridge_is_filtered()},
        # 0 leaves the kernel's connection tracking as it is: its settings may be read-only
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
            "udpTimeout": "0s",
            "udpStreamTimeout": "0s",
        },
    }
    config = paths.STATE / "kube-proxy.yaml"
    config.write_text(yaml.safe_dump(document))
    return Service(
        "kube-proxy",
        [*program("kube-proxy"), f"--config={config}"],
        lambda: http_ok(f"http://127.0.0.1:{PROXY_HEALTH_PORT}/healthz"),
        [("127.0.0.1", PROXY_HEALTH_PORT), ("127.0.0.1", PROXY_METRICS_PORT)],
    )


def _dns() -> Service:
    corefile = paths.STATE / "Corefile"
    machine = Path("/etc/resolv.conf")
    forward = f"forward . {machine}" if machine.exists() and "nameserver" in machine.read_text() else ""
    corefile.write_text(
        f""".:{DNS_PORT} {{
  bind {BRIDGE_ADDRESS}
  errors
  ready 127.0.0.1:{DNS_READY_PORT}
  kubernetes {DOMAIN} in-addr.arpa {{
    kubeconfig {control.kubeconfig("dns")}
    pods insecure
    fallthrough in-addr.arpa
    ttl 5
  }}
  {forward}
  cache 5
}}
"""
    )
    return Service(
        "coredns",
        [*program("coredns"), corefile],
        lambda: http_ok(f"http://127.0.0.1:{DNS_READY_PORT}/ready"),
        [(BRIDGE_ADDRESS, DNS_PORT), ("127.0.0.1", DNS_READY_PORT)],
    )
