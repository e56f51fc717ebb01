"""Which Pods Prometheus is told to scrape, and with which labels."""

from __future__ import annotations

import re
from typing import Any

from dev.cluster.discovery import targets
from dev.cluster.monitoring import configuration


def pod(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "metadata": {
            "name": "runtime-1",
            "namespace": "runtime-acme",
            "uid": "u-1",
            "labels": {"app.kubernetes.io/name": "tenantry-runtime"},
            "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "9090"},
        },
        "spec": {"nodeName": "node-1"},
        "status": {
            "podIP": "10.244.0.7",
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = made
        for parent in parents:
            place = place[parent]
        place[last] = value
    return made


def test_a_pod_that_asks_is_found_with_the_labels_of_kubernetes_sd() -> None:
    (group,) = targets([pod()])
    assert group["targets"] == ["10.244.0.7"]
    labels = group["labels"]
    assert labels["__meta_kubernetes_namespace"] == "runtime-acme"
    assert labels["__meta_kubernetes_pod_name"] == "runtime-1"
    assert labels["__meta_kubernetes_pod_ready"] == "true"
    assert labels["__meta_kubernetes_pod_label_app_kubernetes_io_name"] == "tenantry-runtime"
    assert labels["__meta_kubernetes_pod_annotation_prometheus_io_port"] == "9090"
    assert labels["__meta_kubernetes_pod_annotationpresent_prometheus_io_port"] == "true"
    assert all(isinstance(value, str) for value in labels.values())


def test_others_are_left_alone() -> None:
    assert targets([pod(metadata__annotations=None)]) == []
    assert targets([pod(metadata__annotations={"prometheus.io/scrape": "false"})]) == []
    assert targets([pod(status__podIP=None)]) == []
    assert targets([pod(status__phase="Succeeded")]) == []
    assert targets([]) == []


def test_the_relabelling_builds_the_address_from_the_annotation() -> None:
    rules = configuration()["scrape_configs"][0]["relabel_configs"]  # type: ignore[index]
    address = next(rule for rule in rules if rule.get("target_label") == "__address__")
    joined = re.fullmatch(address["regex"], "10.244.0.7;9090")
    assert joined is not None
    assert joined.expand(re.sub(r"\$(\d)", r"\\\1", address["replacement"])) == "10.244.0.7:9090"
