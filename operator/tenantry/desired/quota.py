"""ResourceQuotas and LimitRanges.

A tenant's quota is a total.  Each workload namespace gets a fixed share by weight, so that the sum is never above
the total whoever creates what at the same time.  The runtime namespace is ours and has a quota of its own, which
holds what a rolling update needs.
"""

from collections.abc import Sequence
from decimal import Decimal

from tenantry.api import quantity
from tenantry.desired.meta import NAME, Json, metadata
from tenantry.resolve import Resolved

MEBI = 2**20
LIMITED_COUNTS = ("requests.storage", "persistentvolumeclaims", "services.nodeports", "services.loadbalancers")
RUNTIME_EPHEMERAL_REQUEST = 64 * MEBI


def split(total: int, weights: Sequence[int]) -> list[int]:
    """`total` in whole shares by weight: they add up to it exactly, and the largest remainders get what is left."""
    whole = sum(weights)
    shares = [total * weight // whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda i: (-(total * weights[i] % whole), i))
    for i in by_remainder[: total - sum(shares)]:
        shares[i] += 1
    return shares


def split_bytes(total: int, weights: Sequence[int]) -> list[int]:
    """In whole mebibytes where the total is such, else in bytes."""
    if total % MEBI:
        return split(total, weights)
    return [share * MEBI for share in split(total // MEBI, weights)]


def canonical(amount: str | Decimal | int) -> str:
    """A number of bytes or pieces as the API server would print it: 1Gi rather than 1024Mi, 10M, 1k."""
    number = amount if isinstance(amount, Decimal) else quantity.parse(amount)
    text = quantity.size(number)
    if text[-1:].isdigit():
        count = int(text)
        for unit, factor in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3)):
            if count and count % factor == 0:
                return f"{count // factor}{unit}"
    return text


def pieces(number: int) -> str:
    """A count as the API server prints it: 1000 becomes 1k, and 1024 stays."""
    return f"{number // 1000}k" if number and number % 1000 == 0 else str(number)


def workload_quotas(resolved: Resolved) -> list[Json]:
    """One ResourceQuota for each workload namespace, in their order."""
    return [
        _object(resolved, "ResourceQuota", workload.name, {"hard": _hard(resolved, share)})
        for workload, share in zip(resolved.workloads, shares(resolved), strict=True)
    ]


def limit_ranges(resolved: Resolved) -> list[Json]:
    """What a container gets that says nothing; without it one could use unlimited local disk under a quota on it."""
    return [
        _object(resolved, "LimitRange", workload.name, {"limits": [_defaults(share)]})
        for workload, share in zip(resolved.workloads, shares(resolved), strict=True)
    ]


def shares(resolved: Resolved) -> list[dict[str, int]]:
    """For each workload namespace: cpu (thousandths), memory, storage, ephemeral (bytes), pods."""
    quota, weights = resolved.quota, [workload.weight for workload in resolved.workloads]
    columns = {
        "cpu": split(int(quantity.parse(quota.cpu) * 1000), weights),
        "memory": split_bytes(int(quantity.parse(quota.memory)), weights),
        "pods": split(quota.pods, weights),
        "storage": split_bytes(int(quantity.parse(quota.storage)), weights),
        "ephemeral": split_bytes(int(quantity.parse(quota.ephemeral_storage)), weights),
    }
    return [{key: column[i] for key, column in columns.items()} for i in range(len(weights))]


def _hard(resolved: Resolved, share: dict[str, int]) -> dict[str, str]:
    """Always the same keys, so that a tier that forbids what another allowed is seen as a change."""
    cpu = quantity.cores(Decimal(share["cpu"]) / 1000)
    memory, ephemeral = canonical(share["memory"]), canonical(share["ephemeral"])
    pods = share["pods"]
    # Objects cost the cluster too; enough for what so many Pods need, and for the operator's own.
    some, more = pieces(20 + 2 * pods), pieces(50 + 5 * pods)
    external = some if resolved.features.external_services else "0"
    return {
        "requests.cpu": cpu,
        "limits.cpu": cpu,
        "requests.memory": memory,
        "limits.memory": memory,
        "requests.ephemeral-storage": ephemeral,
        "limits.ephemeral-storage": ephemeral,
        "requests.storage": canonical(share["storage"]),
        "pods": pieces(pods),
        "configmaps": more,
        "secrets": more,
        "services": some,
        "services.nodeports": external,
        "services.loadbalancers": external,
        "persistentvolumeclaims": some,
        "count/serviceaccounts": some,
        "count/deployments.apps": some,
        "count/statefulsets.apps": some,
        # A Deployment keeps ten old ReplicaSets unless told otherwise.
        "count/replicasets.apps": pieces(12 * (20 + 2 * pods)),
        "count/jobs.batch": more,
        "count/cronjobs.batch": some,
        "count/horizontalpodautoscalers.autoscaling": some,
        "count/poddisruptionbudgets.policy": some,
        "count/ingresses.networking.k8s.io": some,
        "count/networkpolicies.networking.k8s.io": some,
        "count/roles.rbac.authorization.k8s.io": some,
        "count/rolebindings.rbac.authorization.k8s.io": some,
    }


def _defaults(share: dict[str, int]) -> Json:
    """An even part of the namespace's share, between a floor that runs and a cap that leaves room."""
    pods = max(1, share["pods"])

    def part(key: str, unit: int, least: int, most: int) -> int:
        return min(most, max(least, share[key] // pods // unit))

    cpu = part("cpu", 1, 50, 500)
    memory = part("memory", MEBI, 64, 512)
    ephemeral = part("ephemeral", MEBI, 64, 1024)

    def amounts(divisor: int) -> dict[str, str]:
        return {
            "cpu": quantity.cores(Decimal(cpu // divisor) / 1000),
            "memory": canonical(memory // divisor * MEBI),
            "ephemeral-storage": canonical(ephemeral // divisor * MEBI),
        }

    return {"type": "Container", "default": amounts(1), "defaultRequest": amounts(2)}


def rollout_pods(replicas: int) -> int:
    """The replicas twice over and two more: a rollout's surge, and old Pods that still finish streams."""
    return 2 * replicas + 2


def runtime_quota(resolved: Resolved) -> Json:
    """Counts only.  What each Pod may use is in its own limits, and nobody but the operator makes any here.

    A sum of CPU or memory that fits new, smaller Pods would count the old, larger ones too, and so refuse the Pod
    that is to replace them: for ever, since the old ones stay until it serves.
    """
    hard = {
        "pods": pieces(rollout_pods(resolved.replicas)),
        "configmaps": "10",
        "secrets": "10",
        # One of each is made.  An API server counts what it is asked to make before it is made: for a request that
        # was cut off, as by the end of the operator, the count stays until the quota is worked out anew, after minutes.
        "services": "5",
        "count/deployments.apps": "5",
        "count/replicasets.apps": "10",
        "count/jobs.batch": "0",
        **dict.fromkeys(LIMITED_COUNTS, "0"),
    }
    return _object(resolved, "ResourceQuota", resolved.runtime_namespace, {"hard": hard})


def _object(resolved: Resolved, kind: str, namespace: str, spec: Json) -> Json:
    return {
        "apiVersion": "v1",
        "kind": kind,
        "metadata": metadata(resolved, NAME, namespace),
        "spec": spec,
    }
