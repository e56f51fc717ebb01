"""The resources of our group as the watches last said them."""

import contextlib
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from tenantry import names
from tenantry.api import AccessKey, DataRegion, Resource, Tenant, TenantTier
from tenantry.api.base import Condition
from tenantry.backends.kinds import ACCESS_KEY, REGION, TENANT, TIER, Kind
from tenantry.backends.observed import Key, key, version_of
from tenantry.compact import Compact
from tenantry.identifiers import Marks, marks
from tenantry.sharedlogins import Placed, placed

logger = logging.getLogger(__name__)
Json = dict[str, Any]
RECENT = 64
"""Tenants that are kept ready to be read: those under way."""
MOST_GONE = 10_000
"""Deleted resources of which is known how new the last news of them were."""
_MODELS: dict[str, type[Resource]] = {
    TENANT.kind: Tenant,
    TIER.kind: TenantTier,
    REGION.kind: DataRegion,
    ACCESS_KEY.kind: AccessKey,
}


@dataclass(frozen=True)
class Unreadable:
    """What is stored in a form that our models don't take: from before the schema had its rules, or a newer one's."""

    uid: str
    generation: int
    message: str
    """The field, and what is wrong with it."""
    conditions: tuple[Condition, ...]


class View:
    """`put` and `drop` say which tenants must be looked at again."""

    def __init__(self) -> None:
        self.tenants: Compact[Tenant] = Compact(Tenant, recent=RECENT)
        self.tiers: dict[str, TenantTier] = {}
        self.regions: dict[str, DataRegion] = {}
        self.keys: dict[str, Compact[AccessKey]] = {}
        """By namespace and name."""
        self.unreadable: dict[Key, Unreadable] = {}
        """What is here is nowhere else."""
        self._chosen: dict[str, tuple[str, str]] = {}
        """Tenant -> its tier, and its region in force (empty: none yet)."""
        self.placed: dict[str, Placed] = {}
        """What of each Tenant is asked of all of them at once."""
        self.marks: dict[str, Marks] = {}
        """What of each Tenant goes into its region's leak list."""
        self.marks_version = 0
        """Grows with each change of `marks`."""
        self._digests: dict[Key, tuple[int, int]] = {}
        self._versions: dict[Key, int] = {}
        """Also of what was deleted: late news do not bring it back."""
        self.notify: Callable[[str], None] = lambda tenant: None

    def put(self, kind: Kind, obj: Json) -> set[str]:
        """Keep it; the tenants whom it concerns, empty if nothing that we read has changed."""
        meta = obj["metadata"]
        where, version = key(obj), version_of(meta)
        if version and version <= self._versions.get(where, 0):
            return set()  # our own write's echo, or old news
        digest = _digest(obj, meta)
        fresh = self._digests.get(where) != digest
        self._digests[where] = digest
        self._versions[where] = version
        model = _read(kind, obj)
        if isinstance(model, Unreadable):
            if fresh:
                logger.error("%s %s is not understood: %s", kind.kind, meta["name"], model.message)
            concerned = self.concerned(kind, meta)
            self._take_out(kind, where)
            self.unreadable[where] = model
            return concerned if fresh else set()
        self.unreadable.pop(where, None)
        if isinstance(model, Tenant):
            self.tenants.put(model)
            self._chosen[model.name] = (
                sys.intern(model.spec.tier),
                sys.intern(model.status.region if model.status else ""),
            )
            self.placed[model.name] = placed(model)
            self._mark(model.name, marks(model))
        elif isinstance(model, TenantTier):
            self.tiers[model.name] = model
        elif isinstance(model, DataRegion):
            self.regions[model.name] = model
        elif isinstance(model, AccessKey):
            self.keys.setdefault(model.metadata.namespace, Compact(AccessKey)).put(model)
        return self.concerned(kind, meta) if fresh else set()

    def occupied(self, region: str, collection: str) -> bool:
        """Whether a tenant of the region is in this shared collection of Milvus."""
        return any(placed.collection == (region, collection) for placed in self.placed.values())

    def learn(self, kind: Kind, obj: Json) -> None:
        """Keep the answer to a write of ours; what it holds that others wrote meanwhile is told to `notify`."""
        before = self._digests.get(key(obj))
        concerned = self.put(kind, obj)
        if before is not None and before[0] != _digest(obj, obj["metadata"])[0]:
            for tenant in concerned:
                self.notify(tenant)

    def drop(self, kind: Kind, obj: Json) -> set[str]:
        """It was deleted; the tenants whom that concerns."""
        where, version = key(obj), version_of(obj["metadata"])
        if where not in self._digests or (version and version < self._versions[where]):
            return set()
        return self._forget(kind, where, version)

    def missing(self, kind: Kind, listed: set[Key], version: int) -> set[str]:
        """A list of a kind, as of `version`, is whole: what it lacks is gone.  The tenants concerned."""
        gone = [w for w in self._digests if w[0] == kind.kind and w not in listed and self._versions[w] <= version]
        return set().union(*(self._forget(kind, where, version) for where in gone))

    def _forget(self, kind: Kind, where: Key, version: int) -> set[str]:
        _, namespace, name = where
        concerned = self.concerned(kind, {"name": name, "namespace": namespace})
        del self._digests[where]
        self._versions[where] = max(version, self._versions[where])
        if len(self._versions) > len(self._digests) + MOST_GONE:
            self._versions = {w: v for w, v in self._versions.items() if w in self._digests}
        self._take_out(kind, where)
        return concerned

    def _mark(self, tenant: str, now: Marks | None) -> None:
        if self.marks.get(tenant) == now:
            return
        self.marks_version += 1
        if now:
            self.marks[tenant] = now
        else:
            del self.marks[tenant]

    def _take_out(self, kind: Kind, where: Key) -> None:
        _, namespace, name = where
        self.unreadable.pop(where, None)
        if kind is TENANT:
            self.tenants.pop(name)
            self._chosen.pop(name, None)
            self.placed.pop(name, None)
            self._mark(name, None)
        elif kind is TIER:
            self.tiers.pop(name, None)
        elif kind is REGION:
            self.regions.pop(name, None)
        elif keys := self.keys.get(namespace):
            keys.pop(name)
            if not keys:
                del self.keys[namespace]

    def concerned(self, kind: Kind, meta: Json) -> set[str]:
        name = meta["name"]
        if kind is TENANT:
            return {name}
        if kind is TIER:
            return {tenant for tenant, (tier, _) in self._chosen.items() if tier == name}
        if kind is REGION:
            # Also those that chose none yet: a new region may be theirs.
            return {tenant for tenant, (_, region) in self._chosen.items() if region in ("", name)}
        return {tenant} if (tenant := self.tenant_of_namespace(meta.get("namespace", ""))) else set()

    def tenant_of_namespace(self, namespace: str) -> str:
        """``tenant-acme--dev`` -> ``acme``, if there is such a tenant; a tenant's name holds no ``--``."""
        if not namespace.startswith("tenant-"):
            return ""
        name = namespace.removeprefix("tenant-").split("--")[0]
        return name if name in self.tenants else ""


def _read(kind: Kind, obj: Json) -> Resource | Unreadable:
    model, meta = _MODELS[kind.kind], obj["metadata"]
    if kind is TENANT:
        obj = {**obj, "metadata": {**meta, "changedBy": _changed_by(meta)}}
    try:
        return model.model_validate(obj)
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
    if problem["loc"][:1] == ("status",):
        # Only we write it: what is readable of it is kept, such as what was pinned, and the rest is written anew.
        status = obj["status"] if isinstance(obj["status"], dict) else {}
        kept = {}
        for name, value in status.items():
            with contextlib.suppress(ValidationError):
                model.model_validate({**obj, "status": {name: value}})
                kept[name] = value
        with contextlib.suppress(ValidationError):
            return model.model_validate({**obj, "status": kept})
    conditions = []
    for stored in _conditions(obj):
        with contextlib.suppress(ValidationError):
            conditions.append(Condition.model_validate(stored))
    where = ".".join(str(part) for part in problem["loc"])
    return Unreadable(
        str(meta.get("uid", "")), int(meta.get("generation", 0)), f"{where}: {problem['msg']}", tuple(conditions)
    )


def _changed_by(meta: Json) -> str:
    """The field manager that wrote to the spec last, by the name that it gave the API server; empty if unknown."""
    found = [
        (str(m.get("time", "")), str(m.get("manager", ""))[:128])
        for m in meta.get("managedFields") or ()
        if "f:spec" in (m.get("fieldsV1") or {})
    ]
    return max(found, default=("", ""))[1]


def _conditions(obj: Json) -> list[Any]:
    status = obj.get("status")
    found = status.get("conditions") if isinstance(status, dict) else None
    return found if isinstance(found, list) else []


_READ = ("uid", "generation", "deletionTimestamp", "labels")


def _digest(obj: Json, meta: Json) -> tuple[int, int]:
    """Two numbers that tell whether anything that we read has changed: of what others write, and of what we do."""
    others = {"spec": obj.get("spec"), **{k: meta.get(k) for k in _READ}}
    annotations = dict(meta.get("annotations") or {})
    ours = (annotations.pop(names.PINNED_ANNOTATION, ""), meta.get("finalizers"))
    return hash(f"{others} {annotations}"), hash(f"{ours}")
