"""How fast tenants become Ready: `python -m bench.provisioning [--tenants 100 ...]`.

One run measures both sides on the same API server: first the ceiling (the same objects, written by a plain client,
16 at a time), then the operator with a real PostgreSQL 18 and a real Milvus 2.3.5.  There are no nodes and no
controllers: a stand-in reports each Deployment as available at once, so that what is measured is the operator.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from dev.cluster import milvus, postgres
from tenantry.backends.connection import Connection, from_kubeconfig
from tenantry.backends.kubernetes import KubernetesBackend
from tenantry.backends.observed import Observed
from tenantry.desired import kubernetes, secrets
from tenantry.desired.options import Options
from tests import samples
from tests.controlplane import ControlPlane
from tests.integration.operator.world import ADMIN_PASSWORD, GROUP, MERGE, Replica, World, prepare

AT_ONCE = 16
IDLE_SECONDS = 20
RESYNC_SECONDS = 300
"""As the chart has it."""
TICKS = os.sysconf("SC_CLK_TCK")


class Available(threading.Thread):
    """Stands in for controllers and nodes: every Deployment has the replicas that it asks for."""

    def __init__(self, client: httpx.Client) -> None:
        super().__init__(daemon=True)
        self._client = client
        self._end = threading.Event()

    def run(self) -> None:
        done: dict[str, int] = {}
        while not self._end.wait(0.1):
            try:
                found = self._client.get("/apis/apps/v1/deployments").json()["items"]
            except (httpx.HTTPError, KeyError, ValueError):
                continue
            for item in found:
                meta, replicas = item["metadata"], item["spec"]["replicas"]
                if done.get(meta["uid"]) == meta["generation"]:
                    continue
                status = {
                    "observedGeneration": meta["generation"],
                    **dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), replicas),
                }
                path = f"/apis/apps/v1/namespaces/{meta['namespace']}/deployments/{meta['name']}/status"
                if self._client.patch(path, json={"status": status}, headers=MERGE).status_code < 300:
                    done[meta["uid"]] = meta["generation"]

    def stop(self) -> None:
        self._end.set()
        self.join(5)


@dataclass
class Row:
    tenants: int
    ceiling: float
    """Tenants a second that the API server takes as raw writes of the same objects."""
    rate: float
    p50: float
    p95: float
    objects: float
    requests: float
    """Of the operator to the API server, for each tenant, reads included."""
    by_kind: Counter[str]
    cpu: float
    """Milliseconds of the operator's CPU for each tenant."""
    memory: float
    """MB."""
    idle_writes: float
    start_seconds: float
    start_writes: float

    def __str__(self) -> str:
        share = 100 * self.rate / self.ceiling
        cells = (
            f"{self.tenants} | {self.ceiling:.1f} | {self.rate:.1f} | {share:.0f} % | {self.p50:.1f} | {self.p95:.1f}",
            f"{self.objects:.0f} | {self.requests:.1f} | {self.cpu:.0f} | {self.memory:.0f} | {self.idle_writes:.0f}",
            f"{self.start_seconds:.1f} | {self.start_writes:.0f}",
        )
        return f"| {' | '.join(cells)} |"


HEAD = (
    "| tenants | ceiling, tenants/s | ours, tenants/s | share | p50 to Ready, s | p95, s | objects | API requests "
    "| CPU, ms each | memory, MB | writes in 20 idle s | start-up, s | its writes |\n" + "|---" * 13 + "|"
)


async def ceiling(plane: ControlPlane, count: int) -> tuple[float, float]:
    """Tenants a second as raw server-side applies, and objects for each."""
    backend = KubernetesBackend(Connection(from_kubeconfig(plane.kubeconfig)), Observed())
    options = Options(runtime_image="runtime:bench")
    made = []
    for number in range(count):
        resolved = samples.resolved(f"raw-{number}")
        made.append(
            [
                *kubernetes.namespace_objects(resolved, options),
                *kubernetes.runtime_objects(resolved, options, "digest"),
                secrets.postgres(resolved, samples.credentials()),
            ]
        )
    gate = asyncio.Semaphore(AT_ONCE)

    async def write(objects: list[dict[str, Any]]) -> None:
        from tenantry.backends import kinds

        async with gate:
            for obj in objects:
                await backend.apply(kinds.of(obj), obj)

    began = time.monotonic()
    try:
        await asyncio.gather(*(write(objects) for objects in made))
        return count / (time.monotonic() - began), statistics.mean(map(len, made))
    finally:
        await backend.connection.close()


def cpu_seconds(replica: Replica) -> float:
    fields = Path(f"/proc/{replica.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory(replica: Replica) -> float:
    status = Path(f"/proc/{replica.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def requests(replica: Replica) -> Counter[str]:
    """By verb and resource; Lease renewals apart."""
    found: Counter[str] = Counter()
    for line in httpx.get(replica.metrics, trust_env=False).text.splitlines():
        if line.startswith("tenantry_api_requests_total{") and 'resource="leases"' not in line:
            labels, _, number = line.rpartition(" ")
            parts = labels.split('"')
            found[f"{parts[3]} {parts[1]}"] += int(float(number))
    return found


def wait(condition: Any, what: str, seconds: float) -> float:
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise SystemExit(f"Not within {seconds:.0f} s: {what}")
        time.sleep(0.05)
    return time.monotonic() - began


def leads(replica: Replica) -> bool:
    try:
        return replica.value("tenantry_leader") == 1
    except httpx.HTTPError:
        return False


def settle(replica: Replica) -> None:
    """Until nothing waits in line, twice in a row."""
    for _ in range(2):
        wait(lambda: replica.value("tenantry_queue_depth") == 0, "an empty queue", 300)
        time.sleep(1)


def measure(world: World, count: int) -> Row:
    raw, objects = asyncio.run(ceiling(world.plane, count))
    replica = world.start(resync_seconds=RESYNC_SECONDS)
    wait(lambda: leads(replica), "a leader", 60)
    before, used = requests(replica), cpu_seconds(replica)
    began = time.monotonic()
    applied: dict[str, float] = {}
    took: dict[str, float] = {}

    def look() -> bool:
        for item in world.api.get(f"{GROUP}/tenants").json()["items"]:
            name = item["metadata"]["name"]
            conditions = item.get("status", {}).get("conditions", ())
            if name not in took and any(c["type"] == "Ready" and c["status"] == "True" for c in conditions):
                took[name] = time.monotonic() - applied[name]
        return len(took) == count

    for number in range(count):
        name = f"n{count}-{number}"
        applied[name] = time.monotonic()
        world.tenant(name)
        if number % 20 == 0:
            look()
    wait(look, f"{count} tenants Ready", 1800)
    rate = count / (time.monotonic() - began)
    settle(replica)
    after, spent = requests(replica), cpu_seconds(replica) - used
    idle = replica.writes()
    time.sleep(IDLE_SECONDS)
    idle = replica.writes() - idle
    size = memory(replica)
    world.stop()
    again = world.start(resync_seconds=RESYNC_SECONDS)
    started = wait(lambda: leads(again), "a leader again", 120)
    settle(again)
    row = Row(
        tenants=count,
        ceiling=raw,
        rate=rate,
        p50=statistics.median(took.values()),
        p95=statistics.quantiles(took.values(), n=20)[18],
        objects=objects,
        requests=sum((after - before).values()) / count,
        by_kind=after - before,
        cpu=1000 * spent / count,
        memory=size,
        idle_writes=idle,
        start_seconds=started,
        start_writes=again.writes(),
    )
    for item in world.api.get(f"{GROUP}/tenants").json()["items"]:
        world.remove(f"{GROUP}/tenants/{item['metadata']['name']}")
    world.stop()
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tenants", type=int, nargs="+", default=[100])
    counts: list[int] = parser.parse_args().tenants
    with tempfile.TemporaryDirectory(prefix="tenantry-bench-") as name:
        for count in counts:
            # Servers of its own for each size: what one leaves behind would slow the next.
            folder = Path(name) / str(count)
            folder.mkdir()
            database = postgres.Server(postgres.embedded_bin(), folder / "postgres", 0, settings={"fsync": "off"})
            vectors = milvus.Server(folder / "milvus", 0, settings={"proxy.maxRoleNum": 1000})
            plane = ControlPlane(folder / "plane")
            stand_in: Available | None = None
            try:
                database.start()
                postgres.prepare_admin(database, ADMIN_PASSWORD)
                vectors.start()
                vectors.prepare(ADMIN_PASSWORD)
                plane.start()
                plane.install_crds()
                world = prepare(plane, database, vectors, folder)
                stand_in = Available(plane.client())
                stand_in.start()
                row = measure(world, count)
                print(f"{HEAD}\n{row}\n", flush=True)
                for kind, number in row.by_kind.most_common():
                    print(f"  {number / count:6.2f}  {kind}", flush=True)
            finally:
                if stand_in:
                    stand_in.stop()
                for server in (plane, vectors, database):
                    server.stop()


if __name__ == "__main__":
    main()
