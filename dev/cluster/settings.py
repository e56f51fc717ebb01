"""The fixed addresses, ports and names of the development cluster; docs/development-cluster.md lists them."""

from __future__ import annotations

import os
import sys

KUBERNETES = "1.36.3"
NODE = "tenantry-dev"
BRIDGE = "tenantry0"
BRIDGE_ADDRESS = "10.244.0.1"
POD_CIDR = "10.244.0.0/24"
SERVICE_CIDR = "10.96.0.0/16"
API_SERVICE = "10.96.0.1"
DNS_SERVICE = "10.96.0.10"
DOMAIN = "cluster.local"
NFT_TABLE = "tenantry_dev"

# Whether Pods can run here; without, only the control plane, PostgreSQL and Milvus do.
PODS = sys.platform == "linux" and os.geteuid() == 0
HOST = BRIDGE_ADDRESS if PODS else "127.0.0.1"  # where Pods reach what runs on the machine itself

API_PORT = 6443
ETCD_PORT, ETCD_PEER_PORT = 12379, 12380
MANAGER_PORT, SCHEDULER_PORT = 10257, 10259
KUBELET_PORT, KUBELET_HEALTH_PORT = 10250, 10248
PROXY_HEALTH_PORT, PROXY_METRICS_PORT = 10256, 10249
DNS_PORT, DNS_READY_PORT = 1053, 18181
POSTGRES_PORT = 15432
MILVUS_PORT = 19530
PROVIDER_PORT = 8090
PROMETHEUS_PORT, DISCOVERY_PORT = 19090, 19091

OPERATOR_IMAGE = "localhost/tenantry-operator:dev"
RUNTIME_IMAGE = "localhost/tenantry-runtime:dev"
PAUSE_IMAGE = "localhost/tenantry-pause:dev"
BASE_IMAGE = "localhost/tenantry-base:dev"

# Debian packages, by the program or file that shows that one is there.
PACKAGES = {
    "buildah": "/usr/bin/buildah",
    "chromium-headless-shell": "/usr/bin/chromium-headless-shell",  # the tests' browser
    "containerd": "/usr/bin/containerd",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "iproute2": "/sbin/ip",
    "mmdebstrap": "/usr/bin/mmdebstrap",
    "nftables": "/usr/sbin/nft",
    "postgresql-15": "/usr/lib/postgresql/15/bin/postgres",  # the tests' second version
    "prometheus": "/usr/bin/prometheus",
    "runc": "/usr/sbin/runc",
}
# A newer Debian has another PostgreSQL, a relative of it no such Chromium: tests skip what needs these, and say so
# (in CI they fail).
OPTIONAL_PACKAGES = frozenset({"postgresql-15", "chromium-headless-shell"})
