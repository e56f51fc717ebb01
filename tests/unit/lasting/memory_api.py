"""An API server in memory: what the operator's own client asks of the real one, and what its watches then say.

No admission, no schema; its controllers are those whose work the operator waits for: a Deployment is rolled out at
once, a namespace takes along what is in it, and an AccessKey its Secret.
"""

from __future__ import annotations

import copy
import itertools
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from tenantry.backends import kinds
from tenantry.backends.apiserver import APPLY, JSON_PATCH, MERGE
from tenantry.backends.connection import ApiError
from tenantry.backends.kinds import ACCESS_KEY, CHILDREN, OWN, Kind
from tests.mergepatch import merge

Json = dict[str, Any]
_KINDS = {k.path().split("?")[0]: k for k in kinds._BY_NAME.values()}
_KEPT = ("uid", "creationTimestamp", "generation", "deletionTimestamp")
"""What no write changes or leaves out."""
_LONG_AGO = "2026-11-01T00:00:00Z"


class MemoryApi:
    """In the place of `Connection`."""

    def __init__(self) -> None:
        self.objects: dict[str, Json] = {}
        self.tell: Callable[[Kind, Json], None] = lambda kind, event: None
        self._versions = itertools.count(10)

    async def request(
        self,
        verb: str,
        path: str,
        *,
        resource: str,
        body: Any = None,
        content_type: str = "",
        params: Mapping[str, str] | None = None,
    ) -> Json:
        answer = self._answer(verb, path, body, content_type, params or {})
        return copy.deepcopy(answer)

    def _answer(self, verb: str, path: str, body: Any, content_type: str, params: Mapping[str, str]) -> Json:
        if verb == "list":
            kind = _KINDS[path]
            wanted = dict(pair.split("=") for pair in params.get("labelSelector", "").split(",") if "=" in pair)
            found = [
                o
                for p, o in self.objects.items()
                if _kind(p) is kind and wanted.items() <= o["metadata"].get("labels", {}).items()
            ]
            return {"metadata": {"resourceVersion": str(next(self._versions))}, "items": found}
        if verb == "create":
            meta = body["metadata"]
            name = meta.get("name") or f"{meta['generateName']}{uuid.uuid4().hex[:8]}"
            return self.put(f"{path}/{name}", {**body, "metadata": {**meta, "name": name}}, new=True)
        whole = path.removesuffix("/status")
        if verb == "apply" and body["metadata"].get("resourceVersion") == "1":
            return self.put(whole, body, new=True)
        seen = self.objects.get(whole)
        if seen is None:
            raise ApiError(404, "NotFound", f"{whole} is not there")
        if verb == "get":
            return seen
        if verb == "delete":
            self.delete(whole)
            return {}
        meta = body.get("metadata", {}) if isinstance(body, dict) else {}
        if meta.get("uid", seen["metadata"]["uid"]) != seen["metadata"]["uid"]:
            raise ApiError(409, "Conflict", "it is another one")
        if meta.get("resourceVersion", seen["metadata"]["resourceVersion"]) != seen["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", "it was changed meanwhile")
        assert content_type in (APPLY, MERGE), (content_type, JSON_PATCH)
        changed = copy.deepcopy(seen)
        merge(changed, body if path == whole else {"status": body["status"]})
        return self.put(whole, changed)

    # -- what tests do too ---------------------------------------------------------------

    def put(self, path: str, obj: Json, *, new: bool = False) -> Json:
        """Make or change it, and tell the watches."""
        kind, before = _kind(path), self.objects.get(path)
        if new and before is not None:
            raise ApiError(409, "AlreadyExists", f"{path} is there")
        if kind.namespaced and f"/api/v1/namespaces/{obj['metadata']['namespace']}" not in self.objects:
            raise ApiError(404, "NotFound", "no such namespace")
        made = copy.deepcopy(obj)
        meta = made["metadata"] = {
            "uid": str(uuid.uuid4()),
            "creationTimestamp": _LONG_AGO,
            "generation": 1,
            **{k: v for k, v in (before["metadata"] if before else {}).items() if k in _KEPT},
            **made["metadata"],
            "resourceVersion": str(next(self._versions)),
        }
        if before and made.get("spec") != before.get("spec"):
            meta["generation"] = before["metadata"]["generation"] + 1
        made |= {"apiVersion": kind.api_version, "kind": kind.kind}
        if kind is kinds.DEPLOYMENT:
            count = made["spec"]["replicas"]
            counts = dict.fromkeys(("replicas", "updatedReplicas", "availableReplicas"), count)
            made["status"] = {"observedGeneration": meta["generation"], **counts}
        self.objects[path] = made
        if meta.get("deletionTimestamp") and not meta.get("finalizers"):
            self._gone(path)
        else:
            self._tell("MODIFIED" if before else "ADDED", path, made)
        return made

    def delete(self, path: str) -> None:
        meta = self.objects[path]["metadata"]
        if meta.get("finalizers"):
            self.put(path, {**self.objects[path], "metadata": {**meta, "deletionTimestamp": _LONG_AGO}})
        else:
            self._gone(path)

    def _gone(self, path: str) -> None:
        gone = self.objects.pop(path)
        meta = gone["metadata"]
        meta["resourceVersion"] = str(next(self._versions))
        self._tell("DELETED", path, gone)
        for other, obj in list(self.objects.items()):
            owners = {o["uid"] for o in obj["metadata"].get("ownerReferences", ())}
            inside = gone["kind"] == "Namespace" and obj["metadata"].get("namespace") == meta["name"]
            if (meta["uid"] in owners or inside) and other in self.objects:
                self._gone(other)

    def _tell(self, what: str, path: str, obj: Json) -> None:
        kind = _kind(path)
        if kind in OWN or kind in CHILDREN:
            self.tell(kind, {"type": what, "object": copy.deepcopy(obj)})


def key_path(tenant: str, name: str) -> str:
    return ACCESS_KEY.path(f"tenant-{tenant}", name)


def _kind(path: str) -> Kind:
    """Of ``/api/v1/namespaces/x/secrets/y`` and the like."""
    parts = path.split("/")
    at = parts.index("namespaces") if "namespaces" in parts and len(parts) - parts.index("namespaces") > 2 else 0
    whole = parts[:at] + parts[at + 2 :] if at else parts
    return _KINDS["/".join(whole[:-1])]
