"""What the watches last said of the objects that the operator made, by tenant."""

from collections import defaultdict
from typing import Any

from tenantry import names
from tenantry.backends.kinds import Kind

Json = dict[str, Any]
Key = tuple[str, str, str]
"""Kind, namespace, name."""


def key(obj: Json) -> Key:
    meta = obj["metadata"]
    return obj["kind"], meta.get("namespace", ""), meta["name"]


def slim(obj: Json) -> Json:
    """Without what nobody compares: managedFields are half of an object's size."""
    meta = {k: v for k, v in obj["metadata"].items() if k not in ("managedFields", "selfLink")}
    return {**obj, "metadata": meta}


def newer(a: Json, b: Json) -> bool:
    """Whether `a` is at least as new as `b`.  Resource versions are numbers since Kubernetes 1.35 says so."""
    try:
        return int(a["metadata"]["resourceVersion"]) >= int(b["metadata"]["resourceVersion"])
    except (KeyError, TypeError, ValueError):
        return True


class Observed:
    """A cache fed by watches and by the answers to our own writes; the newer one wins."""

    def __init__(self) -> None:
        self._objects: dict[Key, Json] = {}
        self._tenants: dict[str, set[Key]] = defaultdict(set)
        self._gone: dict[Key, Json] = {}

    def put(self, obj: Json) -> str:
        """Keep it; the tenant whose label it carries, or that it carried before."""
        k = key(obj)
        seen = self._objects.get(k)
        if seen is not None and seen["metadata"].get("uid") == obj["metadata"].get("uid") and not newer(obj, seen):
            return self._tenant(seen)
        gone = self._gone.get(k)
        if gone and gone["metadata"].get("uid") == obj["metadata"].get("uid") and newer(gone, obj):
            return self._tenant(obj)
        before = self._tenant(seen) if seen else ""
        tenant = self._tenant(obj)
        if before and before != tenant:
            self._tenants[before].discard(k)
        self._objects[k] = slim(obj)
        if tenant:
            self._tenants[tenant].add(k)
        return before or tenant

    def drop(self, obj: Json) -> str:
        """It is gone; the tenant it belonged to.  A late event of it does not bring it back.

        A watch also says so of what lost the labels that it selects by: that comes back with its labels.
        """
        k = key(obj)
        seen = self._objects.get(k)
        uid = obj["metadata"].get("uid", "")
        if seen is None or (uid and seen["metadata"].get("uid") != uid):
            return self._tenant(obj)
        tenant = self._tenant(seen)
        if not newer(obj, seen):
            return tenant  # it lost its labels, and we have given them back already
        del self._objects[k]
        self._tenants[tenant].discard(k)
        if len(self._gone) > 10_000:
            self._gone.clear()
        version = obj["metadata"].get("resourceVersion") or seen["metadata"].get("resourceVersion")
        self._gone[k] = {"metadata": {"uid": seen["metadata"].get("uid"), "resourceVersion": version}}
        return tenant

    def get(self, obj_or_key: Json | Key) -> Json | None:
        k = key(obj_or_key) if isinstance(obj_or_key, dict) else obj_or_key
        return self._objects.get(k)

    def of_tenant(self, tenant: str) -> list[Json]:
        return [self._objects[k] for k in sorted(self._tenants.get(tenant, ()))]

    def replace(self, kind: Kind, objects: list[Json]) -> set[str]:
        """A fresh list of one kind; the tenants for whom something was new or gone."""
        fresh = {key(o): o for o in objects}
        changed = set()
        for k in [k for k in self._objects if k[0] == kind.kind and k not in fresh]:
            changed.add(self.drop(self._objects[k]))
        for k, obj in fresh.items():
            seen = self._objects.get(k)
            if seen is None or seen["metadata"].get("resourceVersion") != obj["metadata"].get("resourceVersion"):
                changed.add(self.put(obj))
        return changed - {""}

    @staticmethod
    def _tenant(obj: Json | None) -> str:
        return str((obj or {}).get("metadata", {}).get("labels", {}).get(names.TENANT_LABEL, ""))
