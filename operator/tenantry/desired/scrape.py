"""How Prometheus finds a runtime: annotations always, and the Prometheus operator's kinds where they exist."""

from tenantry import names
from tenantry.desired.meta import NAME_LABEL, Json, digested, metadata
from tenantry.desired.options import Options
from tenantry.resolve import Resolved

METRICS_PORT = 9090
ANNOTATIONS = {
    "prometheus.io/scrape": "true",
    "prometheus.io/port": str(METRICS_PORT),
    "prometheus.io/path": "/metrics",
}
"""On each Pod."""
APP = "tenantry-runtime"


def monitor(resolved: Resolved, options: Options) -> Json | None:
    """A PodMonitor or ServiceMonitor for the runtime, or None where the installation wants none."""
    if not options.monitor:
        return None
    spec: Json = {"selector": {"matchLabels": {NAME_LABEL: APP}}}
    if options.monitor == "PodMonitor":
        spec["podMetricsEndpoints"] = [{"port": "metrics", "path": "/metrics", "interval": "30s"}]
    else:
        # The Service has no such port, on purpose; discovery still lists every port of the Pods behind it.
        spec["endpoints"] = [{"targetPort": METRICS_PORT, "path": "/metrics", "interval": "30s"}]
    return digested(
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": options.monitor,
            "metadata": metadata(resolved, names.RUNTIME, resolved.runtime_namespace, {NAME_LABEL: APP}),
            "spec": spec,
        }
    )
