"""The runtime's ServiceAccount, Deployment, Service and PodDisruptionBudget."""

from decimal import Decimal

from tenantry import names
from tenantry.api import quantity
from tenantry.desired.meta import NAME_LABEL, Json, digested, metadata
from tenantry.desired.options import Options
from tenantry.desired.quota import MEBI, RUNTIME_EPHEMERAL_REQUEST, canonical
from tenantry.desired.scrape import ANNOTATIONS, APP, METRICS_PORT
from tenantry.resolve import Resolved
from tenantry_runtime.config import CREDENTIALS_VARIABLE

API_PORT = 8000
USER = 65532
CREDENTIALS_DIGEST = f"{names.GROUP}/credentials-digest"
SECRET = "runtime"  # noqa: S105  (a Secret's name)
CREDENTIALS_FOLDER = "/etc/tenantry"
CREDENTIALS_FILE = "credentials.json"
PRE_STOP_SECONDS = 2
"""Before SIGTERM: a container that has just begun would not hear it, and be killed after the whole grace period."""
GRACE_SECONDS = 180
"""Longer than the API takes new requests after SIGTERM (up to 30 s) and the longest stream after that (130 s)."""


def deployment(resolved: Resolved, options: Options, credentials_digest: str) -> Json:
    """`credentials_digest` changes when the mounted Secret does, and so rolls the Pods."""
    labels = _selector(resolved)
    spec: Json = {
        "replicas": resolved.replicas,
        "revisionHistoryLimit": 3,
        "progressDeadlineSeconds": 600,
        "selector": {"matchLabels": labels},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": {
            "metadata": {
                "labels": {**labels, names.MANAGED_BY_LABEL: names.MANAGER},
                "annotations": {
                    **ANNOTATIONS,
                    names.UID_ANNOTATION: resolved.uid,
                    CREDENTIALS_DIGEST: credentials_digest,
                },
            },
            "spec": _pod(resolved, options, labels),
        },
    }
    return digested(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata(resolved, names.RUNTIME, resolved.runtime_namespace, {NAME_LABEL: APP}),
            "spec": spec,
        }
    )


def service_account(resolved: Resolved) -> Json:
    """Without rights or a token.  One of its own: a new namespace has `default` only after a while, and Pods wait."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(resolved, names.RUNTIME, resolved.runtime_namespace, {NAME_LABEL: APP}),
        "automountServiceAccountToken": False,
    }


def service(resolved: Resolved) -> Json:
    """The API only: the metrics port is for Prometheus, which asks the Pods."""
    return digested(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata(resolved, names.RUNTIME, resolved.runtime_namespace, {NAME_LABEL: APP}),
            "spec": {
                "type": "ClusterIP",
                "selector": _selector(resolved),
                "ports": [{"name": "http", "protocol": "TCP", "port": API_PORT, "targetPort": API_PORT}],
            },
        }
    )


def disruption_budget(resolved: Resolved) -> Json | None:
    """One replica away at a time; None for a single one, which such a budget would nail to its node."""
    if resolved.replicas < 2:
        return None
    return digested(
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": metadata(resolved, names.RUNTIME, resolved.runtime_namespace, {NAME_LABEL: APP}),
            "spec": {
                "maxUnavailable": 1,
                "selector": {"matchLabels": _selector(resolved)},
                "unhealthyPodEvictionPolicy": "AlwaysAllow",
            },
        }
    )


def scratch_bytes(resolved: Resolved) -> int:
    """Of /tmp: four uploads of the largest size at once, and a quarter of a gibibyte."""
    largest = int(quantity.parse(resolved.documents.max_size))
    return 256 * MEBI + -(-4 * largest // MEBI) * MEBI


def ephemeral_limit(resolved: Resolved) -> int:
    """Bytes of local disk that one Pod may fill: /tmp, and its logs."""
    return scratch_bytes(resolved) + 128 * MEBI


def _selector(resolved: Resolved) -> dict[str, str]:
    return {NAME_LABEL: APP, names.TENANT_LABEL: resolved.name}


def _resources(resolved: Resolved) -> Json:
    amounts = resolved.resources

    def made(cpu: str, memory: str, ephemeral: int) -> dict[str, str]:
        return {
            "cpu": quantity.cores(quantity.parse(cpu)),
            "memory": canonical(memory),
            "ephemeral-storage": canonical(Decimal(ephemeral)),
        }

    return {
        "requests": made(amounts.cpu_request, amounts.memory_request, RUNTIME_EPHEMERAL_REQUEST),
        "limits": made(amounts.cpu_limit, amounts.memory_limit, ephemeral_limit(resolved)),
    }


def _probe(path: str, period: int, failures: int) -> Json:
    return {
        "httpGet": {"path": path, "port": API_PORT, "scheme": "HTTP"},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "successThreshold": 1,
        "failureThreshold": failures,
    }


def _container(resolved: Resolved, options: Options) -> Json:
    return {
        "name": "runtime",
        "image": options.runtime_image,
        "imagePullPolicy": options.image_pull_policy,
        "command": ["python", "-m", "tenantry_runtime"],
        "env": [
            {"name": CREDENTIALS_VARIABLE, "value": f"{CREDENTIALS_FOLDER}/{CREDENTIALS_FILE}"},
            {
                "name": "TENANTRY_POD",
                "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}},
            },
        ],
        "ports": [
            {"name": "http", "containerPort": API_PORT, "protocol": "TCP"},
            {"name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP"},
        ],
        "resources": _resources(resolved),
        "startupProbe": _probe("/livez", period=1, failures=120),
        "livenessProbe": _probe("/livez", period=10, failures=6),
        "readinessProbe": _probe("/readyz", period=5, failures=3),
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS}}},
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "credentials", "mountPath": CREDENTIALS_FOLDER, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  (a volume of the Pod's own)
        ],
    }


def _pod(resolved: Resolved, options: Options, labels: dict[str, str]) -> Json:
    pod: Json = {
        "serviceAccountName": names.RUNTIME,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(resolved, options)],
        "volumes": [
            {"name": "credentials", "secret": {"secretName": SECRET, "defaultMode": 0o440}},
            {"name": "tmp", "emptyDir": {"sizeLimit": canonical(Decimal(scratch_bytes(resolved)))}},
        ],
    }
    if resolved.region_spec.node_selector:
        pod["nodeSelector"] = dict(sorted(resolved.region_spec.node_selector.items()))
    # Also for a single replica: another number of replicas restarts none.
    pod["topologySpreadConstraints"] = [
        {
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": labels},
        }
        for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
    ]
    return pod
