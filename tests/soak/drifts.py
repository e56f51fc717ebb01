"""What somebody else does behind the operator's back, to any tenant."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable

from pymilvus.exceptions import MilvusException

from tests.integration.operator.world import GROUP, World


def _objects(world: World, tenant: str, plural: str) -> list[str]:
    group = {"networkpolicies": "/apis/networking.k8s.io/v1", "rolebindings": "/apis/rbac.authorization.k8s.io/v1"}
    found = []
    for namespace in (f"tenant-{tenant}", f"runtime-{tenant}"):
        path = f"{group.get(plural, '/api/v1')}/namespaces/{namespace}/{plural}"
        selector = f"?labelSelector=tenantry.dev/tenant%3D{tenant}"
        found += [f"{path}/{o['metadata']['name']}" for o in (world.get(path + selector) or {"items": []})["items"]]
    return found


class Drifts:
    """Each method is one kind of drift; a tenant that is half made or gone is no error."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self._world = world
        self._rng = rng
        self.kinds: dict[str, Callable[[str, str], None]] = {
            name.removeprefix("_do_"): getattr(self, name) for name in dir(self) if name.startswith("_do_")
        }

    def one(self, tenant: str, uid: str) -> str:
        kind = self._rng.choice(sorted(self.kinds))
        with contextlib.suppress(MilvusException):  # of what is half made, or while it starts
            self.kinds[kind](tenant, uid)
        return kind

    def _pick(self, tenant: str, *plurals: str) -> str | None:
        found = [path for plural in plurals for path in _objects(self._world, tenant, plural)]
        return self._rng.choice(sorted(found)) if found else None

    def _do_delete_object(self, tenant: str, _: str) -> None:
        kinds = (
            "networkpolicies",
            "rolebindings",
            "resourcequotas",
            "limitranges",
            "services",
            "serviceaccounts",
            "secrets",
        )
        if path := self._pick(tenant, *kinds):
            self._world.remove(path)

    def _do_edit_quota(self, tenant: str, _: str) -> None:
        if path := self._pick(tenant, "resourcequotas"):
            self._world.patch(path, {"spec": {"hard": {"pods": str(self._rng.randrange(1000, 9999))}}})

    def _do_take_label(self, tenant: str, _: str) -> None:
        if path := self._pick(tenant, "networkpolicies", "rolebindings", "limitranges"):
            label = self._rng.choice(["tenantry.dev/tenant", "app.kubernetes.io/managed-by"])
            self._world.patch(path, {"metadata": {"labels": {label: None}}})

    def _do_label_namespace(self, tenant: str, _: str) -> None:
        path = f"/api/v1/namespaces/tenant-{tenant}"
        found = self._world.get(path)
        if found and not found["metadata"].get("deletionTimestamp"):
            enforce = "pod-security.kubernetes.io/enforce"
            self._world.patch(path, {"metadata": {"labels": {enforce: "privileged"}}})

    def _do_delete_deployment(self, tenant: str, _: str) -> None:
        self._world.remove(f"/apis/apps/v1/namespaces/runtime-{tenant}/deployments/runtime")

    def _do_scale_deployment(self, tenant: str, _: str) -> None:
        path = f"/apis/apps/v1/namespaces/runtime-{tenant}/deployments/runtime"
        if self._world.get(path):
            self._world.patch(path, {"spec": {"replicas": 4}})

    def _do_delete_default_key(self, tenant: str, _: str) -> None:
        self._world.remove(f"{GROUP}/namespaces/tenant-{tenant}/accesskeys/default")

    def _sql(self, tenant: str, statement: str) -> None:
        schema = f"tenant_{tenant.replace('-', '_')}"
        if f"{schema}__runtime" in self._world.schemas(tenant) and schema in self._world.roles(tenant):
            self._world.rows(statement.format(schema=schema))

    def _do_edit_role(self, tenant: str, _: str) -> None:
        self._sql(tenant, 'ALTER ROLE "{schema}" CONNECTION LIMIT 1000 CREATEDB')

    def _do_change_password(self, tenant: str, _: str) -> None:
        self._sql(tenant, "ALTER ROLE \"{schema}\" PASSWORD 'somebody elses'")

    def _do_grant_public(self, tenant: str, _: str) -> None:
        self._sql(tenant, 'GRANT USAGE ON SCHEMA "{schema}__runtime" TO PUBLIC')

    def _do_revoke_schema(self, tenant: str, _: str) -> None:
        self._sql(tenant, 'REVOKE ALL ON SCHEMA "{schema}" FROM "{schema}"')

    def _do_delete_keys(self, tenant: str, _: str) -> None:
        self._sql(tenant, 'DELETE FROM "{schema}__runtime".access_keys')

    def _do_delete_configuration(self, tenant: str, _: str) -> None:
        self._sql(tenant, 'DELETE FROM "{schema}__runtime".configuration')

    def _do_take_milvus_role(self, _: str, uid: str) -> None:
        things = [t.split(" ", 1) for t in self._world.vector_things(uid)]
        roles, users = [n for k, n in things if k == "role"], [n for k, n in things if k == "user"]
        if roles and users:
            with self._world.vectors() as client:
                client.revoke_role(self._rng.choice(users), roles[0])

    def _do_drop_partition(self, _: str, uid: str) -> None:
        name = f"t_{uid.replace('-', '')}"
        with self._world.vectors() as client:
            for collection in client.list_collections():
                if collection.startswith("shared_") and name in client.list_partitions(collection):
                    client.release_partitions(collection, [name])
                    client.drop_partition(collection, name)

    def _do_drop_collection(self, _: str, uid: str) -> None:
        name = f"t_{uid.replace('-', '')}"
        with self._world.vectors() as client:
            if name in client.list_collections():
                client.drop_collection(name)
