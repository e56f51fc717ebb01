"""``python -m dev.cluster.discovery``: tells Prometheus over HTTP which Pods to scrape.

Debian's Prometheus is built without the discovery that reads the Kubernetes API. This does the same for Pods
that carry the annotation `prometheus.io/scrape: "true"`, with the same `__meta_kubernetes_*` labels, so that
the configuration's relabelling is what a user would write.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import ssl
import threading
import time
import urllib.request
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

FRESH = 2.0  # seconds that one answer of the API server is used again


def targets(pods: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Prometheus' target groups for a list of Pods: one per Pod that asks to be scraped and has an address."""
    groups = []
    for pod in pods:
        metadata, status = pod["metadata"], pod.get("status", {})
        annotations: Mapping[str, str] = metadata.get("annotations") or {}
        address = status.get("podIP")
        if annotations.get("prometheus.io/scrape") != "true" or not address:
            continue
        if status.get("phase") in ("Succeeded", "Failed"):
            continue
        labels = {
            "__meta_kubernetes_namespace": metadata["namespace"],
            "__meta_kubernetes_pod_name": metadata["name"],
            "__meta_kubernetes_pod_uid": metadata["uid"],
            "__meta_kubernetes_pod_ip": address,
            "__meta_kubernetes_pod_phase": status.get("phase", ""),
            "__meta_kubernetes_pod_node_name": pod.get("spec", {}).get("nodeName", ""),
            "__meta_kubernetes_pod_ready": _ready(status),
        }
        for kind, values in (("label", metadata.get("labels") or {}), ("annotation", annotations)):
            for name, value in values.items():
                safe = re.sub(r"[^a-zA-Z0-9_]", "_", name)
                labels[f"__meta_kubernetes_pod_{kind}_{safe}"] = value
                labels[f"__meta_kubernetes_pod_{kind}present_{safe}"] = "true"
        groups.append({"targets": [address], "labels": labels})
    return groups


def _ready(status: Mapping[str, Any]) -> str:
    for condition in status.get("conditions") or ():
        if condition["type"] == "Ready":
            return str(condition["status"]).lower()
    return "unknown"


class Pods:
    """The cluster's Pods, read with a kubeconfig that holds a token, at most once in FRESH seconds."""

    def __init__(self, kubeconfig: Path) -> None:
        document = yaml.safe_load(kubeconfig.read_text())
        cluster = document["clusters"][0]["cluster"]
        self._url = f"{cluster['server']}/api/v1/pods?resourceVersion=0"  # from the API server's own cache
        self._token = document["users"][0]["user"]["token"]
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        context = ssl.create_default_context(cadata=authority)
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        self._lock = threading.Lock()
        self._read_at, self._pods = 0.0, list[dict[str, Any]]()

    def read(self) -> list[dict[str, Any]]:
        """The Pods. Raises OSError when the API server does not answer."""
        with self._lock:
            if time.monotonic() - self._read_at > FRESH:
                request = urllib.request.Request(self._url, headers={"Authorization": f"Bearer {self._token}"})
                with self._opener.open(request, timeout=10) as answer:
                    self._pods = json.load(answer)["items"]
                self._read_at = time.monotonic()
            return self._pods


def serve(pods: Pods, host: str, port: int) -> None:
    """Answer `GET /targets` until the process ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                body, code = json.dumps(targets(pods.read())).encode(), 200
            except OSError as error:  # Prometheus keeps the targets it had
                body, code = f"The API server does not answer: {error}".encode(), 503
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Only errors are worth a line, and they are answered."""

    ThreadingHTTPServer((host, port), Handler).serve_forever()


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(prog="python -m dev.cluster.discovery", description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    serve(Pods(options.kubeconfig), options.host, options.port)


if __name__ == "__main__":
    main()
