"""Requests to the API server, for the demo and the end-to-end tests: plain dicts, one method a verb.

kube.get(kinds.TENANT, "acme")                     # None where there is none
kube.as_user("ada@acme.example").delete(kinds.NAMESPACE, "tenant-acme")   # raises Refused
"""

from __future__ import annotations

import base64
import contextlib
import json
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx

from tenantry.backends.access import Access, from_kubeconfig
from tenantry.backends.connection import ssl_context
from tenantry.backends.kinds import Kind
from tenantry.backends.kinds import of as kind_of

Json = dict[str, Any]
Answer = TypeVar("Answer")

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
POD = Kind("v1", "Pod", "pods")
QUOTA = Kind("v1", "ResourceQuota", "resourcequotas")
NETWORK_POLICY = Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
SERVICE = Kind("v1", "Service", "services")


class Refused(Exception):
    """The API server said no; the text is its own message."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class TooLate(Exception):
    """What was waited for did not come; the text says what was seen last."""


class _Login(httpx.Auth):
    """The kubeconfig's token, read anew for each request: some expire."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if token := self._access.authorization():
            request.headers["Authorization"] = token
        yield request


class Kube:
    """One user's view of one cluster."""

    def __init__(self, kubeconfig: Path, user: str = "", groups: Sequence[str] = ()) -> None:
        self.kubeconfig = kubeconfig
        access = from_kubeconfig(kubeconfig)
        headers = [("Impersonate-User", user)] if user else []
        headers += [("Impersonate-Group", group) for group in groups]
        self._http = httpx.Client(
            base_url=access.server,
            verify=ssl_context(access),
            auth=_Login(access),
            headers=headers,
            timeout=30,
            trust_env=False,
        )

    def as_user(self, user: str, groups: Sequence[str] = ("system:authenticated",)) -> Kube:
        """The same cluster as somebody else sees it (impersonation, as kubectl --as does it)."""
        return Kube(self.kubeconfig, user, groups)

    def close(self) -> None:
        self._http.close()

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        content_type: str = "application/json",
        params: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Raises Refused; a request that reached nobody is tried again for ten seconds."""
        deadline = time.monotonic() + 10
        while True:
            try:
                answer = self._http.request(
                    method,
                    path,
                    content=json.dumps(body) if body is not None else None,
                    headers={"Content-Type": content_type, "Accept": "application/json, */*"},
                    params=dict(params or {}),
                )
            except httpx.TransportError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
                continue
            if answer.is_success:
                return answer
            reason, message = "", answer.text[:500]
            with contextlib.suppress(ValueError, AttributeError):
                said = answer.json()
                reason, message = str(said.get("reason", "")), str(said.get("message", message))
            raise Refused(answer.status_code, reason, message)

    def get(self, kind: Kind, name: str, namespace: str = "") -> Json | None:
        """One object, or None."""
        try:
            found: Json = self.request("GET", kind.path(namespace, name)).json()
        except Refused as error:
            if error.status == 404:
                return None
            raise
        return found

    def list(self, kind: Kind, namespace: str = "", selector: str = "") -> list[Json]:
        params = {"labelSelector": selector} if selector else {}
        found: list[Json] = self.request("GET", kind.path(namespace), params=params).json()["items"]
        return found

    def create(self, obj: Json, dry_run: bool = False) -> Json:
        kind = kind_at(obj)
        params = {"dryRun": "All"} if dry_run else {}
        made: Json = self.request("POST", kind.path(obj["metadata"].get("namespace", "")), obj, params=params).json()
        return made

    def apply(self, obj: Json, manager: str = "kubectl") -> Json:
        """Server-side apply, forced."""
        meta = obj["metadata"]
        made: Json = self.request(
            "PATCH",
            kind_at(obj).path(meta.get("namespace", ""), meta["name"]),
            obj,
            APPLY,
            {"fieldManager": manager, "force": "true"},
        ).json()
        return made

    def merge(self, kind: Kind, name: str, patch: Json, namespace: str = "") -> Json:
        made: Json = self.request("PATCH", kind.path(namespace, name), patch, MERGE).json()
        return made

    def delete(self, kind: Kind, name: str, namespace: str = "") -> None:
        """Also fine where there is none."""
        try:
            self.request("DELETE", kind.path(namespace, name))
        except Refused as error:
            if error.status != 404:
                raise

    def secret(self, namespace: str, name: str) -> dict[str, str] | None:
        """A Secret's values in the clear; None where there is none."""
        found = self.get(Kind("v1", "Secret", "secrets"), name, namespace)
        if found is None:
            return None
        return {key: base64.b64decode(value).decode() for key, value in (found.get("data") or {}).items()}

    def logs(self, namespace: str, pod: str) -> str:
        """Everything that a Pod's one container has written."""
        return self.request("GET", POD.path(namespace, pod, "log")).text


def kind_at(obj: Json) -> Kind:
    """Where the API server keeps it; for kinds that the operator does not write, by the rules of English."""
    try:
        return kind_of(obj)
    except KeyError:
        name = str(obj["kind"]).lower()
        plural = name[:-1] + "ies" if name.endswith("cy") else f"{name}s"
        return Kind(str(obj["apiVersion"]), str(obj["kind"]), plural, bool(obj["metadata"].get("namespace")))


def condition(obj: Json | None, name: str = "Ready") -> Json:
    """A condition by its type; an empty one where there is none."""
    for found in ((obj or {}).get("status") or {}).get("conditions") or ():
        if found["type"] == name:
            return dict(found)
    return {"type": name, "status": "Unknown", "reason": "", "message": ""}


def running(pod: Json) -> bool:
    """Ready, and not on its way out."""
    return condition(pod)["status"] == "True" and not pod["metadata"].get("deletionTimestamp")


def current(obj: Json | None, name: str = "Ready") -> Json:
    """The condition, but Unknown while it still speaks of an older generation."""
    found = condition(obj, name)
    if obj and found.get("observedGeneration", 0) < obj["metadata"].get("generation", 0):
        return {**found, "status": "Unknown"}
    return found


def wait(look: Callable[[], Answer | None], what: str, timeout: float = 60, every: float = 0.5) -> Answer:
    """Look until there is an answer (anything but None and False); TooLate after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        found = look()
        if found is not None and found is not False:
            return found
        if time.monotonic() > deadline:
            raise TooLate(f"Not within {timeout:.0f} s: {what}.")
        time.sleep(every)
