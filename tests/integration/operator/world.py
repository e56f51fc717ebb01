"""The operator as a process against a real API server with its controllers, PostgreSQL 18 and Milvus 2.3.5.

There is no node here: `Kubelet` stands in for one and reports each Pod as running.  What Pods do is for tests/e2e.
"""

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
from pymilvus import MilvusClient

from dev.cluster import milvus, net, postgres
from tests import samples
from tests.controlplane import ControlPlane

Json = dict[str, Any]
NAMESPACE = "tenantry-system"
GROUP = "/apis/tenantry.dev/v1alpha1"
ADMIN_PASSWORD = "only-for-this-test"
MERGE = {"Content-Type": "application/merge-patch+json"}
RESYNC_SECONDS = 8


def until(look: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    """What `look` returns once it is true; AssertionError with the last answer after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        seen = look()
        if seen:
            return seen
        assert time.monotonic() < deadline, f"not within {seconds} s: {what} (last seen: {seen!r})"
        time.sleep(0.1)


class Kubelet(threading.Thread):
    """Stands in for a node: every Pod is Ready as soon as it is there."""

    def __init__(self, client: httpx.Client) -> None:
        super().__init__(daemon=True)
        self._client = client
        self._end = threading.Event()

    def run(self) -> None:
        while not self._end.wait(0.2):
            with contextlib.suppress(httpx.HTTPError, KeyError, ValueError):
                for pod in self._client.get("/api/v1/pods").json()["items"]:
                    if pod["status"].get("phase") == "Pending":
                        self._report(pod["metadata"])

    def _report(self, meta: Json) -> None:
        ready = [{"type": kind, "status": "True"} for kind in ("Ready", "ContainersReady", "PodScheduled")]
        body = {"status": {"phase": "Running", "conditions": ready}}
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/status"
        self._client.patch(path, json=body, headers=MERGE)

    def stop(self) -> None:
        self._end.set()
        self.join(5)


@dataclass
class Replica:
    """One operator process."""

    process: subprocess.Popen[bytes]
    metrics: str
    log: Path

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> None:
        """As the kubelet does: it must end by itself."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                code, said = self.process.wait(30), self.log.read_text()
                # One that still imports its modules, and so has said nothing, does not listen to signals yet.
                assert code == 0 or (code == -signal.SIGTERM and not said), said[-2000:]
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError("the operator does not end on SIGTERM") from None

    def value(self, name: str, **labels: str) -> float:
        """The sum of a metric's series that have these labels."""
        total = 0.0
        for line in httpx.get(self.metrics, trust_env=False).text.splitlines():
            head, _, number = line.rpartition(" ")
            if head.split("{")[0] == name and all(f'{k}="{v}"' in head for k, v in labels.items()):
                total += float(number)
        return total

    def rests(self, seconds: float = 2) -> float:
        """Its writes so far, once nothing is in line and it has written nothing for so long."""
        last: list[float] = []

        def look() -> bool:
            last.append(self.writes())
            time.sleep(seconds)
            return self.value("tenantry_queue_depth") == 0 and self.writes() == last[-1]

        until(look, "the operator writes nothing any more", 90)
        return last[-1]

    def writes(self) -> float:
        total = 0.0
        for line in httpx.get(self.metrics, trust_env=False).text.splitlines():
            if line.startswith("tenantry_api_requests_total{") and 'resource="leases"' not in line:
                verb = line.split('verb="')[1].split('"')[0]
                total += float(line.rpartition(" ")[2]) if verb not in ("get", "list", "watch") else 0
        return total


@dataclass
class World:
    plane: ControlPlane
    postgres: postgres.Server
    milvus: milvus.Server
    folder: Path
    replicas: list[Replica] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.api = self.plane.client()

    # -- the API server --------------------------------------------------------------

    def create(self, path: str, body: Json) -> Json:
        answer = self.api.post(path, json=body)
        assert answer.status_code < 300, answer.text
        return dict(answer.json())

    def get(self, path: str) -> Json | None:
        answer = self.api.get(path)
        if answer.status_code == 404:
            return None
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def table(self, path: str) -> dict[str, Json]:
        """What `kubectl get` prints of a list: the cells of each object by their columns' names."""
        answer = self.api.get(path, headers={"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"})
        assert answer.status_code == 200, answer.text
        table = answer.json()
        names = [column["name"] for column in table["columnDefinitions"]]
        rows = [dict(zip(names, row["cells"], strict=True)) for row in table["rows"]]
        return {str(row["Name"]): row for row in rows}

    def patch(self, path: str, body: Json) -> Json:
        answer = self.api.patch(path, json=body, headers=MERGE)
        assert answer.status_code < 300, answer.text
        return dict(answer.json())

    def remove(self, path: str) -> None:
        assert self.api.delete(path).status_code in (200, 202, 404)

    def tenant(self, name: str, tier: str = "free", **spec: Any) -> str:
        """Make it; its UID.  The policy is Delete unless said otherwise, so that a test leaves nothing."""
        manifest = samples.manifest(name, tier, **{"deletion": {"policy": "Delete"}, **spec})
        return str(self.create(f"{GROUP}/tenants", manifest)["metadata"]["uid"])

    def change(self, name: str, **spec: Any) -> None:
        self.patch(f"{GROUP}/tenants/{name}", {"spec": spec})

    def seen(self, name: str) -> Json:
        found = self.get(f"{GROUP}/tenants/{name}")
        assert found is not None, f"Tenant {name} is gone"
        return found

    def condition(self, name: str, kind: str = "Ready") -> Json:
        found = self.get(f"{GROUP}/tenants/{name}") or {}
        return next((c for c in found.get("status", {}).get("conditions", ()) if c["type"] == kind), {})

    def ready(self, name: str, seconds: float = 60) -> Json:
        """Waits until it is Ready at its newest generation."""

        def look() -> bool:
            seen = self.seen(name)
            current = seen.get("status", {}).get("observedGeneration") == seen["metadata"]["generation"]
            return current and self.condition(name).get("status") == "True"

        try:
            until(look, f"{name} is Ready", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}: {json.dumps(self.seen(name).get('status'), indent=1)}") from None
        return self.seen(name)

    def says(self, name: str, reason: str, kind: str = "Ready", seconds: float = 60) -> str:
        """Waits for a condition's reason; its message."""
        until(
            lambda: self.condition(name, kind).get("reason") == reason, f"{kind} of {name} has reason {reason}", seconds
        )
        return str(self.condition(name, kind)["message"])

    def deleted(self, *tenants: str, seconds: float = 90) -> None:
        """Delete them and wait until they are gone."""
        for name in tenants:
            self.remove(f"{GROUP}/tenants/{name}")
        for name in tenants:
            until(lambda n=name: self.get(f"{GROUP}/tenants/{n}") is None, f"{name} is gone", seconds)  # type: ignore[misc]

    def secret(self, namespace: str, name: str) -> dict[str, str] | None:
        found = self.get(f"/api/v1/namespaces/{namespace}/secrets/{name}")
        return {k: base64.b64decode(v).decode() for k, v in found["data"].items()} if found else None

    # -- the stores ------------------------------------------------------------------

    def rows(self, query: str, *args: object, database: str = postgres.DATABASE) -> list[tuple[Any, ...]]:
        """As the superuser."""
        with psycopg.connect(self.postgres.dsn(dbname=database), autocommit=True) as connection:
            cursor = connection.execute(query, args or None)  # type: ignore[arg-type]
            return list(cursor.fetchall()) if cursor.description else []

    def schemas(self, tenant: str) -> set[str]:
        return self._named(tenant, "SELECT nspname FROM pg_namespace")

    def roles(self, tenant: str) -> set[str]:
        return self._named(tenant, "SELECT rolname FROM pg_roles")

    def _named(self, tenant: str, query: str) -> set[str]:
        schema = f"tenant_{tenant.replace('-', '_')}"
        return {r[0] for r in self.rows(query) if r[0] == schema or r[0].startswith(f"{schema}__")}

    def keys(self, tenant: str) -> set[str]:
        return {r[0] for r in self.rows(f"SELECT name FROM tenant_{tenant.replace('-', '_')}__runtime.access_keys")}

    @contextlib.contextmanager
    def vectors(self) -> Iterator[MilvusClient]:
        client = MilvusClient(uri=self.milvus.uri, token=f"root:{ADMIN_PASSWORD}")
        try:
            yield client
        finally:
            client.close()

    def places(self, uid: str) -> list[str]:
        """Every partition, collection, user and role that carries this Tenant's UID."""
        from tenantry import names

        marks = (names.bare(uid), names.short(uid))
        with self.vectors() as client:
            found = [*client.list_collections(), *client.list_users(), *client.list_roles()]
            for collection in client.list_collections():
                found += client.list_partitions(collection)
        return [name for name in found if any(mark in name for mark in marks)]

    def vector_things(self, uid: str) -> list[str]:
        """Kind and name of all that is one Tenant's in Milvus, what is inside its own database included."""
        from tenantry import names

        marks = (names.bare(uid), names.short(uid))
        with self.vectors() as client:
            databases = client.list_databases()
            found = [("database", d) for d in databases]
            found += [("user", u) for u in client.list_users()] + [("role", r) for r in client.list_roles()]
        for database in databases:
            if database != "default" and not any(m in database for m in marks):
                continue
            inside = MilvusClient(uri=self.milvus.uri, token=f"root:{ADMIN_PASSWORD}", db_name=database)
            try:
                for collection in inside.list_collections():
                    found.append(("collection", collection))
                    found += [("partition", p) for p in inside.list_partitions(collection)]
            finally:
                inside.close()
        return sorted(f"{kind} {name}" for kind, name in found if any(m in name for m in marks))

    # -- the operator -------------------------------------------------------------------

    def variables(self) -> dict[str, str]:
        return {
            **os.environ,
            "KUBECONFIG": str(self.plane.kubeconfig),
            "TENANTRY_RUNTIME_IMAGE": "runtime:test",
            "TENANTRY_NAMESPACE": NAMESPACE,
        }

    def scan(self) -> tuple[int, str]:
        """The repository's own scan: its exit status and what it says."""
        found = subprocess.run(
            [sys.executable, "-m", "tenantry.scan"],
            env=self.variables(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=150,
        )  # fmt: skip
        return found.returncode, found.stdout + found.stderr

    def start(
        self,
        name: str = "operator",
        *,
        resync_seconds: float = RESYNC_SECONDS,
        lease_seconds: float = 4,
        rotate_after_days: float = 90,
        module: str = "tenantry.run",
        **more: str,
    ) -> Replica:
        """Start one more replica; `more` are variables of its environment."""
        metrics, health = net.free_port(), net.free_port()
        log = self.folder / f"{name}-{len(self.replicas)}.log"
        variables = {
            "TENANTRY_POD": f"{name}-{len(self.replicas)}",
            "TENANTRY_RESYNC_SECONDS": str(resync_seconds),
            "TENANTRY_LEASE_SECONDS": str(lease_seconds),
            "TENANTRY_ROTATE_AFTER_DAYS": str(rotate_after_days),
            "TENANTRY_LISTEN": "127.0.0.1",
            "TENANTRY_METRICS_PORT": str(metrics),
            "TENANTRY_HEALTH_PORT": str(health),
        }
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", module],
                env={**self.variables(), **variables, **more},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        made = Replica(process, f"http://127.0.0.1:{metrics}/metrics", log)
        self.replicas.append(made)
        return made

    def stop(self) -> None:
        for replica in self.replicas:
            replica.stop()
        self.replicas.clear()


@contextlib.contextmanager
def running(folder: Path, roles: int = 100) -> Iterator[World]:
    """Every server that the operator needs, and a region of them; Milvus takes so many roles, users and databases."""
    database = postgres.Server(postgres.embedded_bin(), folder / "postgres", 0, settings={"fsync": "off"})
    vectors = milvus.Server(
        folder / "milvus",
        0,
        settings={
            "proxy.maxRoleNum": roles,
            **({"proxy.maxUserNum": roles, "rootCoord.maxDatabaseNum": roles} if roles > 100 else {}),
        },
    )
    plane = ControlPlane(folder / "plane")
    kubelet = None
    try:
        database.start()
        postgres.prepare_admin(database, ADMIN_PASSWORD)
        vectors.start()
        vectors.prepare(ADMIN_PASSWORD)
        plane.start()
        plane.install_crds()
        plane.start_controllers()  # after the CRDs, so that the garbage collector knows them from its start
        made = prepare(plane, database, vectors, folder)
        kubelet = Kubelet(plane.client())
        kubelet.start()
        yield made
    finally:
        if kubelet:
            kubelet.stop()
        for server in (plane, vectors, database):
            server.stop()


def prepare(plane: ControlPlane, database: postgres.Server, vectors: milvus.Server, folder: Path) -> World:
    """The region's Secrets, the tiers and the region."""
    world = World(plane, database, vectors, folder)
    world.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    logins = {
        "tenantry-postgres": {"username": postgres.ADMIN, "password": ADMIN_PASSWORD},
        "tenantry-milvus": {"username": "root", "password": ADMIN_PASSWORD},
        "tenantry-provider": {"api-key": "not-called-here"},
    }
    for name, data in logins.items():
        world.create(f"/api/v1/namespaces/{NAMESPACE}/secrets", {"metadata": {"name": name}, "stringData": data})
    for tier in ("free", "pro", "enterprise"):
        world.create(f"{GROUP}/tenanttiers", samples.tier_manifest(tier))
    world.create(f"{GROUP}/dataregions", region(world, "main"))
    return world


def region(world: World, name: str, **spec: Any) -> Json:
    login = samples.REGION["postgres"]
    return {
        "apiVersion": "tenantry.dev/v1alpha1",
        "kind": "DataRegion",
        "metadata": {"name": name},
        "spec": {
            **samples.REGION,
            "postgres": {**login, "host": "127.0.0.1", "port": world.postgres.port, "sslmode": "disable"},
            "milvus": {**samples.REGION["milvus"], "uri": world.milvus.uri},
            "embedding": {"model": "text-embedding-3-small", "dimension": 8, "metric": "COSINE"},
            **spec,
        },
    }
