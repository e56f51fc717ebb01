"""The other side of the comparison: what the API server takes from a plain client that writes the same objects."""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import processes
from bench.servers import Plane, Watch, available, wait
from tenantry import names
from tenantry.backends import kinds
from tenantry.backends.connection import Connection, from_kubeconfig
from tenantry.backends.kubernetes import KubernetesBackend
from tenantry.backends.observed import Observed
from tenantry.desired import configuration, kubernetes, secrets, vectors
from tenantry.desired.options import Options
from tests import samples

AT_ONCE = 16


@dataclass(frozen=True)
class Ceiling:
    written: float
    """Tenants a second, until the last write was answered."""
    available: float
    """Until the last Deployment was Available too, as Ready asks."""
    objects: int
    """Of each tenant, its Tenant apart."""
    cpu: dict[str, float]
    """Milliseconds for each tenant."""


def objects(name: str) -> list[dict[str, Any]]:
    """All that the operator makes for a free tenant, in an order in which it can be made."""
    resolved, options, derived = samples.resolved(name), Options(runtime_image="runtime:bench"), samples.credentials()
    place = vectors.shared_place(resolved, "shared")
    runtime = secrets.runtime(resolved, configuration.credentials(resolved, derived, place, ("user", "x" * 43), "key"))
    key = samples.access_key("default", resolved.home)
    about = {"apiVersion": names.API_VERSION, "kind": "Tenant", "name": name, "uid": resolved.uid}
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{name}.ready", "namespace": "default"},
        "involvedObject": about,
        "type": "Normal",
        "reason": "Ready",
        "message": "Everything was seen to hold",
        "source": {"component": names.MANAGER},
    }
    access_key = {
        "apiVersion": names.API_VERSION,
        "kind": "AccessKey",
        "metadata": {"name": key.name, "namespace": resolved.home},
        "spec": {"user": key.name},
    }
    key_secret = secrets.access_key(resolved, key, "tk-" + "x" * 43, names.endpoint(name))
    del key_secret["metadata"]["ownerReferences"]  # the garbage collector would look for the owner
    return [
        *kubernetes.namespace_objects(resolved, options),
        secrets.postgres(resolved, derived),
        access_key,
        key_secret,
        runtime,
        *kubernetes.runtime_objects(resolved, options, secrets.digest(runtime)),
        event,
    ]


def measure(folder: Path, count: int, *, apart: bool) -> Ceiling:
    """On a control plane of its own, with the same controllers running."""
    made = [objects(f"raw-{number}") for number in range(count)]
    tenants = [samples.manifest(f"raw-{number}") for number in range(count)]
    with Plane(folder, apart=apart) as plane:
        watch = Watch(plane, "/apis/apps/v1/deployments", available)
        before, began = processes.cpu_seconds(plane.pids()), time.monotonic()
        asyncio.run(_write(plane, tenants, made))
        written = time.monotonic() - began
        wait(lambda: len(watch.seen) == count, "raw Deployments Available", 1800)
        taken = time.monotonic() - began
        after = processes.cpu_seconds(plane.pids())
        watch.stop()
    cpu = {name: 1000 * (after[name] - before[name]) / count for name in after}
    return Ceiling(count / written, count / taken, len(made[0]), cpu)


async def _write(plane: Plane, tenants: list[dict[str, Any]], made: list[list[dict[str, Any]]]) -> None:
    backend = KubernetesBackend(Connection(from_kubeconfig(plane.kubeconfig)), Observed())
    work = iter(zip(tenants, made, strict=True))

    async def worker() -> None:
        for tenant, parts in work:
            for obj in (tenant, *parts):
                await backend.apply(kinds.of(obj), obj)

    try:
        await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    finally:
        await backend.connection.close()
