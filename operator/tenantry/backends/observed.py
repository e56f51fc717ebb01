"""What the watches last said of the objects that the operator made: small, since at 2,000 tenants there are 32,000.

An object is kept as the text of what is compared, with the tenant's own name and UID and every digest cut out: what
is left is the same for most tenants, and kept once.
"""

import json
import re
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from tenantry import names
from tenantry.backends.kinds import Kind

Json = dict[str, Any]
Key = tuple[str, str, str]
"""Kind, namespace, name."""
GRAVE_SECONDS = 180.0
"""How long it is known of what is gone how new the last news of it were: late ones do not bring it back.  Longer than
a request takes with all its tries, or a watch may hang.
"""
NAME, UID, HOLE = "\x00", "\x01", "\x02"
"""Stand for what is cut out: JSON text holds no such characters."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
LOST = "lost"
"""The owner of an object of ours whose annotation somebody took away."""


class Rollout(NamedTuple):
    """What a Deployment's status says of its replicas."""

    current: bool
    """The controller has seen the newest spec."""
    replicas: int
    updated: int
    available: int
    failing: str
    """The message of a condition that says why it does not go on."""


class Seen:
    """One object; `present` is false for one that is gone, and for kinds that nobody watches."""

    __slots__ = ("applied", "deleting", "held", "holes", "owner", "rollout", "tenant", "text", "uid", "version")

    def __init__(self) -> None:
        self.tenant = ""
        """Of its label."""
        self.uid = ""
        self.version = 0
        self.owner = ""
        self.deleting = False
        self.text = ""
        self.holes: tuple[str, ...] = ()
        self.rollout: Rollout | None = None
        self.applied = 0
        """Digest of what was last asked of it; 0: nothing by this process."""
        self.held = 0
        """Digest of what it was seen to hold as it is now."""

    @property
    def present(self) -> bool:
        return bool(self.text)

    def owned(self, uid: str) -> bool:
        return self.owner in (uid, LOST)


def key(obj: Json) -> Key:
    meta = obj["metadata"]
    return sys.intern(obj["kind"]), sys.intern(meta.get("namespace", "")), sys.intern(meta["name"])


def version_of(meta: Json) -> int:
    """Of an object or a list; 0 where it has none.  Versions are numbers that grow since Kubernetes 1.35 says so."""
    text = str(meta.get("resourceVersion", ""))
    return int(text) if text.isdigit() else 0


def owner(obj: Json) -> str:
    """The Tenant's UID that it was made for; known by the field manager where somebody took the annotation away."""
    meta = obj["metadata"]
    said = meta.get("annotations", {}).get(names.UID_ANNOTATION)
    if said is not None:
        return sys.intern(str(said))
    ours = any(
        m.get("manager") == names.MANAGER and m.get("operation") == "Apply" for m in meta.get("managedFields", ())
    )
    return LOST if ours else ""


class Observed:
    """A cache fed by watches and by the answers to our own writes; the newer one wins."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._objects: dict[Key, Seen] = {}
        self._tenants: dict[str, list[Key]] = {}
        """A set of as many would take three times the memory."""
        self._graves: deque[tuple[float, Key]] = deque()
        self.changes: Counter[str] = Counter()
        """By tenant: grows when a watch or a list says something new, but of a rollout."""

    # -- what is told ------------------------------------------------------------------

    def put(self, obj: Json, *, ours: bool = False) -> set[str]:
        """Keep it; the tenants for whom something that we look at differs.  `ours`: it answers a write of ours."""
        meta = obj["metadata"]
        tenant, version = _tenant(obj), version_of(meta)
        seen = self._entry(key(obj), tenant)
        if version and version <= seen.version:
            return set()  # the echo of our own write, or old news
        owned = owner(obj)
        now = (meta.get("uid", ""), owned, "deletionTimestamp" in meta, *_pack(obj, tenant, owned))
        same = now == (seen.uid, seen.owner, seen.deleting, seen.text, seen.holes)
        rollout = _rollout(obj)
        concerned = set() if same and rollout == seen.rollout else {seen.tenant, tenant} - {""}
        if not same:
            seen.held = 0
            if not ours:
                self.changes.update(concerned)
        if seen.tenant != tenant:
            self._move(key(obj), seen, tenant)
        seen.uid, seen.owner, seen.deleting, seen.text, seen.holes = now
        seen.version, seen.rollout = version, rollout
        return concerned

    def drop(self, obj: Json) -> set[str]:
        """It is gone, or no longer has our labels; the tenant it belonged to."""
        k, version = key(obj), version_of(obj["metadata"])
        seen = self._objects.get(k)
        if seen is None or not seen.present or (version and version < seen.version):
            return set()
        concerned = self._gone(k, seen, version)
        self._bury()
        return concerned

    def missing(self, kind: Kind, listed: set[Key], version: int) -> set[str]:
        """A list of a kind, as of `version`, is whole: what it lacks is gone.  The tenants concerned."""
        concerned: set[str] = set()
        for k, seen in self._objects.items():
            if k[0] == kind.kind and seen.present and k not in listed and seen.version <= version:
                concerned |= self._gone(k, seen, version)
        self._bury()
        return concerned

    def _gone(self, k: Key, seen: Seen, version: int) -> set[str]:
        seen.text, seen.holes, seen.rollout, seen.held = "", (), None, 0
        seen.version = max(seen.version, version)
        self._graves.append((self._clock() + GRAVE_SECONDS, k))
        concerned = {seen.tenant} - {""}
        self.changes.update(concerned)
        return concerned

    def _bury(self) -> None:
        while self._graves and self._graves[0][0] < self._clock():
            _, k = self._graves.popleft()
            seen = self._objects.get(k)
            if seen and not seen.present and not seen.applied:
                self._remove(k, seen)

    def _remove(self, k: Key, seen: Seen) -> None:
        del self._objects[k]
        self._leave(k, seen)
        if seen.tenant not in self._tenants:
            self.changes.pop(seen.tenant, None)

    def _leave(self, k: Key, seen: Seen) -> None:
        keys = self._tenants.get(seen.tenant, [])
        if k in keys:
            keys.remove(k)
        if not keys:
            self._tenants.pop(seen.tenant, None)

    def _entry(self, k: Key, tenant: str) -> Seen:
        seen = self._objects.get(k)
        if seen is None:
            seen = self._objects[k] = Seen()
            self._move(k, seen, tenant)
        return seen

    def _move(self, k: Key, seen: Seen, tenant: str) -> None:
        self._leave(k, seen)
        seen.tenant = sys.intern(tenant)
        if tenant:
            self._tenants.setdefault(seen.tenant, []).append(k)

    def forget(self, tenant: str) -> list[Key]:
        """A tenant ends: what was asked for it no longer counts.  What was known of it."""
        keys = sorted(self._tenants.get(tenant, ()))
        for k in keys:
            self.unwanted(k)
        self._bury()
        return keys

    def unwanted(self, k: Key) -> None:
        """Nothing is asked of it any more."""
        if seen := self._objects.get(k):
            seen.applied = 0
            if not seen.version:
                self._remove(k, seen)  # no watch ever told of it, so none comes late
            elif not seen.present:
                self._graves.append((self._clock() + GRAVE_SECONDS, k))

    # -- what is asked -----------------------------------------------------------------

    def note(self, obj: Json) -> Seen:
        """The entry of an object that shall be, also where there is none yet, or its kind is not watched."""
        return self._entry(key(obj), _tenant(obj))

    def get(self, k: Key) -> Json | None:
        """The object, as far as it is compared; None where there is none."""
        seen = self._objects.get(k)
        return _unpack(k, seen) if seen is not None and seen.present else None

    def rollout(self, k: Key) -> Rollout | None:
        seen = self._objects.get(k)
        return seen.rollout if seen else None

    def runtimes(self) -> Iterator[tuple[str, str]]:
        """The tenant of each Deployment that we made, by its label and its owner's UID."""
        return ((s.tenant, s.owner) for k, s in self._objects.items() if k[0] == "Deployment" and s.present and s.owner)

    def of_tenant(self, tenant: str) -> list[tuple[Key, Seen]]:
        """Those that are there, by their label."""
        return [(k, s) for k in sorted(self._tenants.get(tenant, ())) if (s := self._objects[k]).present]


def _tenant(obj: Json) -> str:
    return str(obj["metadata"].get("labels", {}).get(names.TENANT_LABEL, ""))


def _pack(obj: Json, tenant: str, owned: str) -> tuple[str, tuple[str, ...]]:
    meta = {f: v for f in ("labels", "annotations", "ownerReferences") if (v := obj["metadata"].get(f))}
    text = json.dumps([obj["apiVersion"], meta, {f: v for f, v in obj.items() if f not in _APART}])
    if owned:
        text = text.replace(owned, UID)
    if tenant:
        text = text.replace(tenant, NAME)
    holes = tuple(_DIGEST.findall(text))
    return sys.intern(_DIGEST.sub(HOLE, text) if holes else text), holes


_APART = ("apiVersion", "kind", "metadata", "status")


def _unpack(k: Key, seen: Seen) -> Json:
    text = seen.text
    for digest in seen.holes:
        text = text.replace(HOLE, digest, 1)
    version, meta, rest = json.loads(text.replace(NAME, seen.tenant).replace(UID, seen.owner))
    meta |= {"name": k[2], "uid": seen.uid, "resourceVersion": str(seen.version)}
    if k[1]:
        meta["namespace"] = k[1]
    if seen.deleting:
        meta["deletionTimestamp"] = "set"
    return {"apiVersion": version, "kind": k[0], "metadata": meta, **rest}


def _rollout(obj: Json) -> Rollout | None:
    if obj["kind"] != "Deployment":
        return None
    status = obj.get("status", {})
    return Rollout(
        current=status.get("observedGeneration", 0) >= obj["metadata"].get("generation", 0),
        replicas=status.get("replicas", 0),
        updated=status.get("updatedReplicas", 0),
        available=status.get("availableReplicas", 0),
        failing=_failing(status.get("conditions", ())),
    )


def _failing(conditions: Iterable[Json]) -> str:
    for c in conditions:
        if (c["type"], c["status"]) in (("Progressing", "False"), ("ReplicaFailure", "True")):
            return str(c.get("message", "")) or str(c["type"])
    return ""
