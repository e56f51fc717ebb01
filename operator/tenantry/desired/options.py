"""What the builders must know of the installation rather than of the tenant."""

from dataclasses import dataclass
from typing import Literal

Monitor = Literal["", "PodMonitor", "ServiceMonitor"]


@dataclass(frozen=True)
class Options:
    """One installation's settings, the same for every tenant."""

    runtime_image: str
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    operator_namespace: str = "tenantry-system"
    operator_service_account: str = "tenantry"
    monitor: Monitor = ""
    """The Prometheus operator's kind to make for each runtime; empty where its CRDs are not installed."""
    prometheus_namespace: str = "monitoring"
    """Whose Pods may read the metrics port; empty for none."""
    prometheus_cidrs: tuple[str, ...] = ()
    """Addresses that may read the metrics port: a Prometheus outside the cluster."""
