"""The development cluster itself: it is complete, Pods get names and logs, and `up` leaves a running one alone."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator

import pytest

from dev.cluster import info, paths
from dev.cluster.progress import ClusterError, run, wait_for
from dev.cluster.settings import PODS
from dev.cluster.up import foreign_kubeconfig

pytestmark = [pytest.mark.cluster, pytest.mark.pods]


def cluster(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dev.cluster", command],
        cwd=paths.ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=290,
    )


def kubectl(*words: str) -> str:
    return run([paths.BIN / "kubectl", "--kubeconfig", info.load().kubeconfig, *words], timeout=90)


@pytest.fixture(scope="module", autouse=True)
def running() -> None:
    if foreign_kubeconfig():
        pytest.skip("KUBECONFIG names a cluster of the user's own.")
    if not PODS:
        pytest.skip("Pods need Linux and root.")
    started = cluster("up")
    assert started.returncode == 0, started.stderr


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"dev-cluster-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", name)
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


def test_up_leaves_a_running_cluster_alone() -> None:
    before = kubectl("get", "--raw", "/api/v1/namespaces/kube-system")
    began = time.monotonic()
    again = cluster("up")
    assert again.returncode == 0, again.stderr
    assert time.monotonic() - began < 30
    uid = json.loads(before)["metadata"]["uid"]
    assert json.loads(kubectl("get", "--raw", "/api/v1/namespaces/kube-system"))["metadata"]["uid"] == uid
    status = cluster("status")
    assert status.returncode == 0, status.stdout
    assert "All up." in status.stdout


def test_a_pod_resolves_names_reaches_the_region_and_is_scraped(namespace: str) -> None:
    there = info.load()
    code = (
        "import socket, prometheus_client, time\n"
        "print(socket.gethostbyname('kubernetes.default.svc.cluster.local'), flush=True)\n"
        f"socket.create_connection(('{there.postgres.host}', {there.postgres.port}), 10).close()\n"
        "socket.create_connection(('kubernetes.default.svc', 443), 10).close()\n"
        "print('reached', flush=True)\n"
        "prometheus_client.start_http_server(8000)\n"
        "time.sleep(3600)\n"
    )
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "probe",
            "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "8000"},
        },
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [
                {
                    "name": "probe",
                    "image": there.images.runtime,
                    "imagePullPolicy": "Never",
                    "command": ["python", "-c", code],
                }
            ],
        },
    }
    command = [paths.BIN / "kubectl", "--kubeconfig", there.kubeconfig, "-n", namespace, "apply", "-f", "-"]
    wait_for("the ServiceAccount", lambda: "default" in kubectl("-n", namespace, "get", "serviceaccounts"), 60)
    run(command, timeout=60, text=json.dumps(pod))

    def logs() -> str:
        try:
            return kubectl("-n", namespace, "logs", "probe")
        except ClusterError:
            return ""

    wait_for("the Pod's log", lambda: "reached" in logs(), 90, logs)
    assert logs().split()[0] == "10.96.0.1"

    def scraped() -> bool:
        query = urllib.parse.quote(f'up{{namespace="{namespace}",pod="probe"}}')
        with urllib.request.urlopen(f"{there.prometheus.url}/api/v1/query?query={query}", timeout=20) as read:
            answer = json.load(read)
        return [found["value"][1] for found in answer["data"]["result"]] == ["1"]

    wait_for("Prometheus' scrape of the Pod", scraped, 60)
