"""Prometheus on this machine, scraping the cluster's Pods by their annotations."""

from __future__ import annotations

import sys

import yaml

from dev.cluster import certs, control, paths
from dev.cluster.node import MANIFESTS
from dev.cluster.record import Record
from dev.cluster.service import Service, http_ok
from dev.cluster.settings import DISCOVERY_PORT, PROMETHEUS_PORT

URL = f"http://127.0.0.1:{PROMETHEUS_PORT}"
_TOKEN_LASTS = "8760h"


def configuration() -> dict[str, object]:
    """prometheus.yml: `http_sd_configs` stands where a user has `kubernetes_sd_configs: [{role: pod}]`."""
    annotation = "__meta_kubernetes_pod_annotation_prometheus_io_"
    relabel = [
        {"source_labels": [f"{annotation}scrape"], "action": "keep", "regex": "true"},
        {"source_labels": [f"{annotation}path"], "target_label": "__metrics_path__", "regex": "(.+)"},
        {
            "source_labels": ["__address__", f"{annotation}port"],
            "target_label": "__address__",
            "regex": r"([^:]+)(?::\d+)?;(\d+)",
            "replacement": "$1:$2",
        },
        {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
        {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"},
        {
            "source_labels": ["__meta_kubernetes_pod_label_app_kubernetes_io_name"],
            "target_label": "job",
            "regex": "(.+)",
        },
    ]
    job = {
        "job_name": "pods",
        "http_sd_configs": [{"url": f"http://127.0.0.1:{DISCOVERY_PORT}/targets", "refresh_interval": "5s"}],
        "relabel_configs": relabel,
    }
    return {
        "global": {"scrape_interval": "5s", "scrape_timeout": "4s", "evaluation_interval": "15s"},
        "scrape_configs": [job],
    }


def start(record: Record) -> None:
    """Start the discovery, with a ServiceAccount of its own, and Prometheus."""
    control.kubectl("apply", "-f", str(MANIFESTS / "monitoring.yaml"))
    config = control.kubeconfig("prometheus")
    if not config.exists():
        token = control.kubectl("create", "token", "prometheus", "--namespace=monitoring", f"--duration={_TOKEN_LASTS}")
        certs.kubeconfig(config, control.SERVER, control.authority().certificate, token=token.strip())
    Service(
        "discovery",
        [sys.executable, "-m", "dev.cluster.discovery", "--kubeconfig", config, "--port", str(DISCOVERY_PORT)],
        lambda: http_ok(f"http://127.0.0.1:{DISCOVERY_PORT}/targets"),
        [("127.0.0.1", DISCOVERY_PORT)],
        env={"PYTHONPATH": str(paths.ROOT)},
    ).start(record)
    file = paths.STATE / "prometheus.yml"
    file.write_text(yaml.safe_dump(configuration(), sort_keys=False))
    Service(
        "prometheus",
        ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={paths.STATE / 'prometheus'}",
         f"--web.listen-address=127.0.0.1:{PROMETHEUS_PORT}", "--storage.tsdb.retention.time=1d"],
        lambda: http_ok(f"{URL}/-/ready"),
        [("127.0.0.1", PROMETHEUS_PORT)],
    ).start(record)  # fmt: skip
