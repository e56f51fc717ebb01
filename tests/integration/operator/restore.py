"""A tenant with data, and a backup of it that brings everything back under new UIDs, without a status."""

import contextlib
from dataclasses import dataclass
from typing import Any

import psycopg

from tenantry import names
from tests.integration.operator.world import GROUP, Json, World, until

NAMESPACED = (
    ("/apis/tenantry.dev/v1alpha1", "accesskeys"),
    ("/api/v1", "secrets"),
    ("/api/v1", "resourcequotas"),
    ("/api/v1", "limitranges"),
    ("/api/v1", "serviceaccounts"),
    ("/api/v1", "services"),
    ("/apis/apps/v1", "deployments"),
    ("/apis/networking.k8s.io/v1", "networkpolicies"),
    ("/apis/rbac.authorization.k8s.io/v1", "rolebindings"),
)


@dataclass(frozen=True)
class Marked:
    """A tenant with one row in PostgreSQL and one vector in Milvus."""

    world: World
    name: str
    uid: str

    @property
    def schema(self) -> str:
        return names.schema(self.name)

    def _where(self) -> tuple[str, str, dict[str, Any]]:
        """Database of PostgreSQL, collection of Milvus, and its partition where it has one."""
        status = self.world.seen(self.name)["status"]
        parts = status["vectors"].split("/")
        return status["database"].split("/")[0], parts[1], {"partition_name": parts[2]} if len(parts) > 2 else {}

    def write(self) -> "Marked":
        database, collection, partition = self._where()
        self.world.rows(f"CREATE TABLE {self.schema}.precious AS SELECT 42 AS x", database=database)
        row = {"id": "one", "tenant": names.bare(self.uid), "file_id": "f", "store_id": "s", "chunk": 0, "text": "t"}
        with self.world.vectors() as client:
            client.insert(collection, [{**row, "vector": [0.5] * 8}], **partition)
        return self

    def check(self) -> None:
        """Both are there."""
        database, collection, partition = self._where()
        assert self.world.rows(f"SELECT x FROM {self.schema}.precious", database=database) == [(42,)]
        wanted = {"filter": f'tenant == "{names.bare(self.uid)}"', "output_fields": ["id"]}
        among = {"partition_names": [partition["partition_name"]]} if partition else {}
        with self.world.vectors() as client:
            found = client.query(collection, **wanted, **among, consistency_level="Strong")
        assert [f["id"] for f in found] == ["one"]

    def login(self) -> dict[str, str]:
        found = self.world.secret(f"tenant-{self.name}", "postgres")
        assert found
        return found


def accepted(login: dict[str, str]) -> bool:
    """Whether PostgreSQL lets this login in."""
    try:
        psycopg.connect(login["uri"]).close()
    except psycopg.OperationalError:
        return False
    return True


def backup(world: World, name: str) -> list[tuple[str, Json]]:
    """Everything of the tenant in Kubernetes, as a backup tool would make it again: path and body."""
    found: list[tuple[str, Json]] = []
    spaces = [f"tenant-{name}", f"runtime-{name}"]
    for space in spaces:
        found.append(("/api/v1/namespaces", _again(world.get(f"/api/v1/namespaces/{space}") or {})))
    for space in spaces:
        for root, plural in NAMESPACED:
            path = f"{root}/namespaces/{space}/{plural}"
            found += [(path, _again(item)) for item in (world.get(path) or {})["items"]]
    return [*found, (f"{GROUP}/tenants", _again(world.seen(name)))]


def _again(seen: Json) -> Json:
    kept = ("name", "namespace", "labels", "annotations", "finalizers", "ownerReferences")
    body = {k: v for k, v in seen.items() if k not in ("status", "metadata")}
    body["metadata"] = {k: v for k, v in seen["metadata"].items() if k in kept}
    for field in ("clusterIP", "clusterIPs"):
        body.get("spec", {}).pop(field, None)
    return body


def lose(world: World, *tenants: str) -> None:
    """All that Kubernetes has of them, as with a cluster that is gone; no operator may run."""
    assert not world.replicas
    for name in tenants:
        world.patch(f"{GROUP}/tenants/{name}", {"metadata": {"finalizers": None}})
        world.remove(f"{GROUP}/tenants/{name}")
        for space in (f"tenant-{name}", f"runtime-{name}"):
            world.remove(f"/api/v1/namespaces/{space}")
    for name in tenants:
        for space in (f"tenant-{name}", f"runtime-{name}"):
            until(lambda s=space: world.get(f"/api/v1/namespaces/{s}") is None, f"{space} is gone", 90)  # type: ignore[misc]


def restore(world: World, objects: list[tuple[str, Json]]) -> None:
    for path, body in objects:
        answer = world.api.post(path, json=body)
        # Kubernetes makes some by itself, such as the ServiceAccount's.
        assert answer.status_code < 300 or answer.status_code == 409, answer.text


def adopt(world: World, name: str, uid: str | None) -> None:
    world.patch(f"{GROUP}/tenants/{name}", {"metadata": {"annotations": {names.ADOPT_ANNOTATION: uid}}})


def drop_retained(world: World, uid: str) -> None:
    """What a test's tenant left on purpose."""
    retained = f"retained_{names.bare(uid)}"
    for schema in (retained, f"{retained}__runtime"):
        world.rows(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
    with world.vectors() as client:
        for place in world.places(uid):
            if place in client.list_collections():
                client.drop_collection(place)
        for collection in client.list_collections():
            if collection.startswith("shared_") and f"t_{names.bare(uid)}" in client.list_partitions(collection):
                with contextlib.suppress(Exception):
                    client.release_partitions(collection, [f"t_{names.bare(uid)}"])
                client.drop_partition(collection, f"t_{names.bare(uid)}")
