"""The resources of our group as the watches last said them."""

import logging
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from tenantry import names
from tenantry.api import AccessKey, DataRegion, Resource, Tenant, TenantTier
from tenantry.backends.kinds import ACCESS_KEY, REGION, TENANT, TIER, Kind

logger = logging.getLogger(__name__)
Json = dict[str, Any]
_MODELS: dict[str, type[Resource]] = {
    TENANT.kind: Tenant,
    TIER.kind: TenantTier,
    REGION.kind: DataRegion,
    ACCESS_KEY.kind: AccessKey,
}


class View:
    """`put` and `drop` say which tenants must be looked at again."""

    def __init__(self) -> None:
        self.tenants: dict[str, Tenant] = {}
        self.tiers: dict[str, TenantTier] = {}
        self.regions: dict[str, DataRegion] = {}
        self.keys: dict[str, dict[str, AccessKey]] = defaultdict(dict)
        """By namespace and name."""
        self._digests: dict[tuple[str, str, str], tuple[int, int]] = {}
        self._versions: dict[tuple[str, str, str], tuple[str, int]] = {}
        self._gone: dict[tuple[str, str, str], str] = {}
        """UIDs of what was deleted: an answer that comes late does not bring it back."""
        self.notify: Callable[[str], None] = lambda tenant: None

    def put(self, kind: Kind, obj: Json) -> set[str]:
        """Keep it; the tenants whom it concerns, empty if nothing that we read has changed."""
        meta = obj["metadata"]
        where = (kind.kind, meta.get("namespace", ""), meta["name"])
        if self._older(where, meta) or self._gone.get(where) == meta.get("uid", ""):
            return set()
        digest = _digest(obj, meta)
        fresh = self._digests.get(where) != digest
        try:
            model = _MODELS[kind.kind].model_validate(obj)
        except ValidationError as error:
            # Stored before the schema had its rules, or by a newer version: named, never a crash.
            logger.error("%s %s is not understood: %s", kind.kind, meta["name"], error.errors()[0]["msg"])
            return set()
        self._digests[where] = digest
        self._versions[where] = (meta.get("uid", ""), _number(meta))
        if isinstance(model, Tenant):
            self.tenants[model.name] = model
        elif isinstance(model, TenantTier):
            self.tiers[model.name] = model
        elif isinstance(model, DataRegion):
            self.regions[model.name] = model
        elif isinstance(model, AccessKey):
            self.keys[model.metadata.namespace][model.name] = model
        return self.concerned(kind, meta) if fresh else set()

    def learn(self, kind: Kind, obj: Json) -> None:
        """Keep the answer to a write of ours; what it holds that others wrote meanwhile is told to `notify`."""
        meta = obj["metadata"]
        before = self._digests.get((kind.kind, meta.get("namespace", ""), meta["name"]))
        concerned = self.put(kind, obj)
        if before is not None and before[0] != _digest(obj, meta)[0]:
            for tenant in concerned:
                self.notify(tenant)

    def _older(self, where: tuple[str, str, str], meta: Json) -> bool:
        """A watch's event may come after the answer to our own, later write."""
        uid, version = self._versions.get(where, ("", 0))
        return uid == meta.get("uid", "") and _number(meta) < version

    def drop(self, kind: Kind, meta: Json) -> set[str]:
        """It was deleted; the tenants whom that concerns.  A late answer does not bring it back."""
        where = (kind.kind, meta.get("namespace", ""), meta["name"])
        if len(self._gone) > 10_000:
            self._gone.clear()
        if uid := meta.get("uid"):
            self._gone[where] = uid
        return self._forget(kind, meta)

    def _forget(self, kind: Kind, meta: Json) -> set[str]:
        name, namespace = meta["name"], meta.get("namespace", "")
        concerned = self.concerned(kind, meta)
        where = (kind.kind, namespace, name)
        self._digests.pop(where, None)
        self._versions.pop(where, None)
        if kind is TENANT:
            self.tenants.pop(name, None)
        elif kind is TIER:
            self.tiers.pop(name, None)
        elif kind is REGION:
            self.regions.pop(name, None)
        else:
            self.keys[namespace].pop(name, None)
            if not self.keys[namespace]:
                del self.keys[namespace]
        return concerned

    def concerned(self, kind: Kind, meta: Json) -> set[str]:
        name = meta["name"]
        if kind is TENANT:
            return {name}
        if kind is TIER:
            return {t.name for t in self.tenants.values() if t.spec.tier == name}
        if kind is REGION:
            # Also those that chose none yet: a new region may be theirs.
            return {t.name for t in self.tenants.values() if not t.status or t.status.region in ("", name)}
        return {tenant} if (tenant := self.tenant_of_namespace(meta.get("namespace", ""))) else set()

    def tenant_of_namespace(self, namespace: str) -> str:
        """``tenant-acme--dev`` -> ``acme``, if there is such a tenant; a tenant's name holds no ``--``."""
        if not namespace.startswith("tenant-"):
            return ""
        name = namespace.removeprefix("tenant-").split("--")[0]
        return name if name in self.tenants else ""

    def replace(self, kind: Kind, objects: list[Json]) -> set[str]:
        """A fresh list of one kind; the tenants whom its changes concern."""
        fresh = {(o["metadata"].get("namespace", ""), o["metadata"]["name"]) for o in objects}
        gone = [w for w in self._digests if w[0] == kind.kind and w[1:] not in fresh]
        changed: set[str] = set()
        for _, namespace, name in gone:
            changed |= self._forget(kind, {"name": name, "namespace": namespace})
        for obj in objects:
            changed |= self.put(kind, obj)
        return changed


def _number(meta: Json) -> int:
    text = str(meta.get("resourceVersion", ""))
    return int(text) if text.isdigit() else 0


_READ = ("uid", "generation", "deletionTimestamp", "labels")


def _digest(obj: Json, meta: Json) -> tuple[int, int]:
    """Two numbers that tell whether anything that we read has changed: of what others write, and of what we do."""
    others = {"spec": obj.get("spec"), **{k: meta.get(k) for k in _READ}}
    annotations = dict(meta.get("annotations") or {})
    ours = (annotations.pop(names.PINNED_ANNOTATION, ""), meta.get("finalizers"))
    return hash(f"{others} {annotations}"), hash(f"{ours}")
