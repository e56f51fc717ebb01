"""What a measurement of the operator runs against: a control plane with fake nodes, PostgreSQL and Milvus."""

import contextlib
import json
import shutil
import ssl
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import httpx

from bench import in_cluster, processes
from dev.cluster import golang, milvus, postgres
from tests.controlplane import ControlPlane
from tests.integration.operator.world import ADMIN_PASSWORD, GROUP, NAMESPACE, Replica, World, prepare, region
from tests.proxy import Proxy

OTHER = "other"
"""A second region, of its own vector dimension; it reaches its servers through proxies.

Its PostgreSQL is another one, as a region's is: on the same one, what a slow transaction locks is locked for all.
"""
ACCOUNT = "tenantry"
MEMORY = {"GOGC": "1600", "GOMEMLIMIT": "2GiB"}
"""Of each program of the control plane: room of which a control plane on a machine of its own has enough.

Go's default collects garbage whenever the heap has doubled, which takes CPU that here all programs share.
"""
WARMING = "x" * 200_000
"""What is written again and again until the control plane's heaps have grown."""
MOST_WARMING = 3000
"""Writes; etcd keeps each."""
STILL_WRITES = 100
"""Without a MB more of the API server's, after which it has grown."""
IN_MEMORY = Path("/dev/shm")
ROOM_BYTES = 8 * 2**30
Fault = Literal["", "slow", "hang", "refuse"]
"""What is wrong with the way to a server; the last two are those of `tests.proxy`."""
SLOW_SECONDS = 2.0
"""How much longer an answer takes that is slow."""


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def folder() -> Path | None:
    """For the servers' data: in memory where there is room, so that no figure is the disk's; None: tempfile's own."""
    try:
        return IN_MEMORY if shutil.disk_usage(IN_MEMORY).free > ROOM_BYTES else None
    except OSError:
        return None


def wait(condition: Callable[[], Any], what: str, seconds: float, every: float = 0.1) -> float:
    """Seconds until `condition` holds."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise SystemExit(f"Not within {seconds:.0f} s: {what}")
        time.sleep(every)
    return time.monotonic() - began


class Watch(threading.Thread):
    """Follows one kind; `seen` has the time (monotonic clock) at which `good` first held of each object."""

    def __init__(self, plane: ControlPlane, path: str, good: Callable[[dict[str, Any]], bool]) -> None:
        super().__init__(daemon=True)
        tls = ssl.create_default_context(cafile=str(plane.authority.certificate))
        tls.load_cert_chain(plane.admin.certificate, plane.admin.key)
        limits = httpx.Timeout(10, read=None)
        self._client = httpx.Client(base_url=plane.url, verify=tls, timeout=limits, trust_env=False)
        self._path, self._good = path, good
        self._end = threading.Event()
        self.seen: dict[str, float] = {}
        self.start()

    def run(self) -> None:
        while not self._end.is_set():
            with contextlib.suppress(httpx.HTTPError, ValueError):
                self._follow()
            self._end.wait(0.5)

    def _follow(self) -> None:
        # Without a version: first everything that is there, then each change.
        with self._client.stream("GET", self._path, params={"watch": "1", "timeoutSeconds": 3600}) as lines:
            for line in lines.iter_lines():
                self._event(json.loads(line))
                if self._end.is_set():
                    return

    def _event(self, event: dict[str, Any]) -> None:
        if event["type"] in ("ADDED", "MODIFIED") and self._good(event["object"]):
            meta = event["object"]["metadata"]
            self.seen.setdefault(f"{meta.get('namespace', '')}/{meta['name']}", time.monotonic())

    def stop(self) -> None:
        """The thread ends with the next event, or with the process."""
        self._end.set()


def available(deployment: dict[str, Any]) -> bool:
    status, wanted = deployment.get("status", {}), deployment["spec"]["replicas"]
    return bool(status.get("availableReplicas", 0) >= wanted)


def ready(tenant: dict[str, Any]) -> bool:
    return any(
        c["type"] == "Ready" and c["status"] == "True" for c in (tenant.get("status") or {}).get("conditions", ())
    )


def faulty(port: int, fault: Fault) -> Proxy:
    """Started, before the server that listens on `port`."""
    proxy = Proxy("127.0.0.1", port)
    proxy.start()
    if fault == "slow":
        proxy.latency = SLOW_SECONDS / 2  # each way
    elif fault:
        proxy.set(fault)
    return proxy


class Plane(ControlPlane):
    """With controllers, scheduler and fake nodes, so that a Deployment becomes Available as in a real cluster."""

    def __init__(self, folder: Path, *, apart: bool = False, spread: bool = False) -> None:
        """`apart`: on cores of its own, so that nothing beside it takes its CPU, as on a machine of its own.

        `spread`: then only the API server and etcd; the controllers, the scheduler and kwok go where there is room.
        """
        super().__init__(folder, environment=MEMORY)
        self._apart = apart
        self._spread = spread

    def start(self) -> None:
        super().start()
        self.start_controllers()
        golang.build("kwok")
        self.start_fake_nodes()
        self.install_crds()
        if self._apart:
            for name, pid in self.pids().items():
                anywhere = self._spread and name not in ("etcd", "kube-apiserver")
                processes.confine([pid], {*processes.CORES} if anywhere else processes.HALVES[0])
        self._warm()

    def _warm(self) -> None:
        """Until the programs have the memory that they use, as those have that are older than a minute.

        While their heaps grow, the kernel takes a fifth of their CPU to hand out pages.
        """
        client, path = self.client(), "/api/v1/namespaces/default/configmaps"
        document = {"metadata": {"name": "warming"}, "data": {"text": WARMING}}
        client.post(path, json=document).raise_for_status()
        began, server, most, still = time.monotonic(), self.pids()["kube-apiserver"], 0.0, 0
        for number in range(MOST_WARMING):
            document["data"] = {"text": WARMING, "number": str(number)}
            client.put(f"{path}/warming", json=document).raise_for_status()
            size = processes.megabytes(server)
            most, still = (size, 0) if size > most + 1 else (most, still + 1)
            if still == STILL_WRITES:
                break
        client.delete(f"{path}/warming").raise_for_status()
        say(f"  the API server has grown to {most:.0f} MB: {number + 1} writes, {time.monotonic() - began:.0f} s")


def account(plane: ControlPlane, world: World, folder: Path) -> dict[str, str]:
    """Make one that may do everything, its files in `folder`; the variables that the operator needs."""
    folder.mkdir(exist_ok=True)
    accounts = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts"
    world.create(accounts, {"metadata": {"name": ACCOUNT}})
    group = "rbac.authorization.k8s.io"
    world.create(
        f"/apis/{group}/v1/clusterrolebindings",
        {
            "metadata": {"name": ACCOUNT},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}],
        },
    )
    token = world.create(f"{accounts}/{ACCOUNT}/token", {"spec": {"expirationSeconds": 24 * 3600}})
    (folder / "token").write_text(token["status"]["token"])
    (folder / "ca.crt").write_bytes(plane.authority.certificate.read_bytes())
    parts = urlsplit(plane.url)
    return {
        in_cluster.FOLDER: str(folder),
        "KUBERNETES_SERVICE_HOST": str(parts.hostname),
        "KUBERNETES_SERVICE_PORT": str(parts.port),
    }


class Servers:
    """Everything on loopback, of its own in `folder`, gone at the end.

    `postgres_fault` and `milvus_fault` are what region `other` meets; `apart` and `spread` as for Plane.
    """

    def __init__(
        self,
        folder: Path,
        *,
        apart: bool = False,
        spread: bool = False,
        postgres_fault: Fault = "",
        milvus_fault: Fault = "",
    ) -> None:
        folder.mkdir(parents=True)
        self.plane = Plane(folder / "plane", apart=apart, spread=spread)
        self._database = postgres.Server(postgres.embedded_bin(), folder / "postgres", 0, settings={"fsync": "off"})
        self._other = postgres.Server(postgres.embedded_bin(), folder / "postgres-other", 0, settings={"fsync": "off"})
        self._vectors = milvus.Server(folder / "milvus", 0, settings=milvus.RAISED)
        self._folder = folder
        self._faults = postgres_fault, milvus_fault
        self._proxies: list[Proxy] = []
        self.world: World
        self.account: dict[str, str]
        """Variables with which the operator logs in as in a Pod."""

    def __enter__(self) -> Self:
        try:
            for server in (self._database, self._other):
                server.start()
                postgres.prepare_admin(server, ADMIN_PASSWORD)
            self._vectors.start()
            self._vectors.prepare(ADMIN_PASSWORD)
            self.plane.start()
            self.world = prepare(self.plane, self._database, self._vectors, self._folder)
            self.account = account(self.plane, self.world, self._folder / "account")
            for port, fault in zip((self._other.port, self._vectors.port), self._faults, strict=True):
                self._proxies.append(faulty(port, fault))
            self._other_region()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if hasattr(self, "world"):
            for replica in self.world.replicas:
                replica.kill()  # nothing that it made is wanted
        for server in (self.plane, *self._proxies, self._vectors, self._database, self._other):
            server.stop()

    def _other_region(self) -> None:
        database, vectors = (proxy.port for proxy in self._proxies)
        spec = region(self.world, "main")["spec"]
        made = region(
            self.world,
            OTHER,
            default=False,
            postgres={**spec["postgres"], "port": database},
            milvus={**spec["milvus"], "uri": f"http://127.0.0.1:{vectors}"},
            embedding={**spec["embedding"], "dimension": 16},
        )
        self.world.create(f"{GROUP}/dataregions", made)

    def cpu(self, replica: Replica) -> dict[str, float]:
        """Seconds of CPU that each program has used."""
        running = {"PostgreSQL": self._database.process(), "Milvus": self._vectors.process()}
        pids = {name: found.pid for name, found in running.items() if found}
        return processes.cpu_seconds({"operator": replica.process.pid, **self.plane.pids(), **pids})
