"""The end-to-end tests' cluster, and the tenants that they share.

Every tenant's name begins with the run's prefix, so that a run meets no other, and is deleted with its data at the
end.  What takes long (a tenant becoming Ready, one going away) is started for all of them at once.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterable, Sequence
from typing import Any

import httpx

from dev.demo import ask
from dev.demo.kube import POD, Json, Kube, Refused, current, running, wait
from dev.demo.measure import Prometheus
from dev.demo.target import Target
from tenantry import names
from tenantry.backends import kinds
from tests import samples

READY_SECONDS = 150
GONE_SECONDS = 150
MANY = {"requestsPerMinute": 100_000, "tokensPerMinute": 10_000_000, "tokensPerDay": 1_000_000_000, "concurrency": 50}
"""Limits that no test meets by accident."""


class World:
    """One cluster with the chart installed."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.kube: Kube = target.kube
        self.prefix = f"e2e{secrets.token_hex(3)}"
        self.tenants: set[str] = set()
        self.tiers: set[str] = set()

    @property
    def prometheus(self) -> Prometheus:
        return Prometheus(self.target.prometheus)

    # -- tenants -----------------------------------------------------------------

    def name(self, short: str) -> str:
        return f"{self.prefix}-{short}"

    def owner(self, tenant: str) -> str:
        """The user who owns it."""
        return f"owner@{tenant}.example"

    def tier(self, short: str, like: str = "pro", **spec: Any) -> str:
        """A tier of the run's own: a shipped one with other values; its name."""
        manifest = samples.tier_manifest(like)
        name = self.name(short)
        self.tiers.add(name)
        self.kube.apply({**manifest, "metadata": {"name": name}, "spec": {**manifest["spec"], **spec}})
        return name

    def apply(self, name: str, tier: str, **spec: Any) -> Json:
        """Apply a Tenant that is deleted with its data."""
        self.tenants.add(name)
        return self.kube.apply(
            {
                "apiVersion": names.API_VERSION,
                "kind": "Tenant",
                "metadata": {"name": name},
                "spec": {
                    "displayName": name.title(),
                    "tier": tier,
                    "owners": [{"kind": "User", "name": self.owner(name)}],
                    "deletion": {"policy": "Delete"},
                    **spec,
                },
            }
        )

    def tenant(self, name: str) -> Json:
        found = self.kube.get(kinds.TENANT, name)
        assert found is not None, f"Tenant {name} is gone"
        return found

    def ready(self, *tenants: str, timeout: float = READY_SECONDS) -> None:
        """Wait until each is Ready as it is now written."""
        for name in tenants:
            self.until(name, "Ready", "True", timeout=timeout)

    def until(
        self, tenant: str, type_: str, status: str, reason: str | None = None, timeout: float = READY_SECONDS
    ) -> Json:
        """Wait for a condition that speaks of the current generation; the condition."""
        seen: Json = {}

        def look() -> Json | None:
            nonlocal seen
            seen = current(self.tenant(tenant), type_)
            return seen if seen["status"] == status and reason in (None, seen["reason"]) else None

        wanted = f"{type_}={status}" + (f" ({reason})" if reason else "")
        try:
            return wait(look, f"{tenant} has {wanted}", timeout, 0.5)
        except Exception as late:
            raise AssertionError(f"{late} Seen last: {seen}") from None

    def delete(self, *tenants: str, policy: str = "Delete") -> None:
        """Ask for it; `gone` waits."""
        for name in tenants:
            if self.kube.get(kinds.TENANT, name) is not None:
                spec = {"deletionProtection": False, "deletion": {"policy": policy}}
                with contextlib.suppress(Refused):  # gone meanwhile
                    self.kube.merge(kinds.TENANT, name, {"spec": spec})
                self.kube.delete(kinds.TENANT, name)

    def gone(self, *tenants: str) -> None:
        """Wait until the Tenant and its namespaces are no more."""
        for name in tenants:
            wait(lambda n=name: self.kube.get(kinds.TENANT, n) is None, f"Tenant {name} is gone", GONE_SECONDS)
            for space in (names.workload_namespace(name), names.runtime_namespace(name)):
                wait(lambda s=space: self.kube.get(kinds.NAMESPACE, s) is None, f"{space} is gone", GONE_SECONDS)

    def clean(self) -> None:
        """Remove everything that this run has made."""
        self.delete(*self.tenants)
        self.gone(*self.tenants)
        for tier in self.tiers:
            self.kube.delete(kinds.TIER, tier)

    # -- keys and runtimes ---------------------------------------------------------

    def key(self, tenant: str, name: str = "default") -> str:
        return ask.api_key(self.kube, tenant, name)

    def add_key(self, tenant: str, name: str, annotations: dict[str, str] | None = None, **spec: Any) -> str:
        """Make an AccessKey as the tenant's owner, and wait for its Secret; the key."""
        owner = self.kube.as_user(self.owner(tenant))
        try:
            owner.create(
                {
                    "apiVersion": names.API_VERSION,
                    "kind": "AccessKey",
                    "metadata": {
                        "name": name,
                        "namespace": names.workload_namespace(tenant),
                        "annotations": annotations or {},
                    },
                    "spec": spec,
                }
            )
        finally:
            owner.close()
        return self.wait_key(tenant, name)

    def wait_key(self, tenant: str, name: str, other_than: str = "") -> str:
        space = names.workload_namespace(tenant)

        def look() -> str | None:
            found = self.kube.secret(space, f"accesskey-{name}")
            return found["api-key"] if found and found["api-key"] != other_than else None

        return wait(look, f"Secret accesskey-{name} in {space}", 60)

    def runtime(self, tenant: str) -> str:
        return self.target.runtime(tenant)

    def pods(self, tenant: str) -> dict[str, str]:
        """Each running runtime Pod of a tenant, and its own base URL."""
        space = names.runtime_namespace(tenant)
        found = [p for p in self.kube.list(POD, space) if running(p)]
        return {p["metadata"]["name"]: self.target.pod(space, p["metadata"]["name"], 8000) + "/v1" for p in found}

    def runtimes(self, *tenants: str) -> dict[str, tuple[int, list[Any]]]:
        """Of each tenant: how often its Deployment was changed, and its Pods (the ending apart) with their restarts."""
        found = {}
        for name in tenants:
            space = names.runtime_namespace(name)
            deployment = self.kube.get(kinds.DEPLOYMENT, "runtime", space)
            assert deployment is not None
            pods = sorted(
                (pod["metadata"]["uid"], [s["restartCount"] for s in pod["status"]["containerStatuses"]])
                for pod in self.kube.list(POD, space)
                if not pod["metadata"].get("deletionTimestamp")
            )
            found[name] = (deployment["metadata"]["generation"], pods)
        return found

    def status(self, base_url: str, key: str) -> int:
        """What a runtime answers to GET /v1/models with a key."""
        answer = httpx.get(
            f"{base_url}/models", headers={"Authorization": f"Bearer {key}"}, timeout=20, trust_env=False
        )
        return answer.status_code

    def works(self, tenant: str, key: str, pods: Iterable[str] | None = None) -> bool:
        """Whether every replica takes the key."""
        return all(self.status(url, key) == 200 for url in (pods or self.pods(tenant).values()))

    def refused(self, tenant: str, key: str, pods: Iterable[str] | None = None) -> bool:
        """Whether every replica refuses it with 401."""
        return all(self.status(url, key) == 401 for url in (pods or self.pods(tenant).values()))

    def region(self, tenant: str) -> Json:
        return ask.region_of(self.kube, tenant)


def columns(table: str) -> Sequence[str]:
    """The head of what kubectl prints."""
    return table.splitlines()[0].split()
