"""A new tenant's quotas come after its Secrets, and nothing comes into what is somebody else's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tenantry.api import Reason
from tenantry.api.conditions import Type
from tenantry.backends.errors import BackendError, foreign
from tenantry.backends.kubernetes import Applied, KubernetesBackend
from tenantry.backends.observed import Rollout
from tenantry.desired import vectors
from tenantry.desired.options import Options
from tenantry.memo import Memo
from tenantry.metrics import Metrics
from tenantry.outcomes import good
from tenantry.status import Outcome, Report
from tenantry.subsystems import Subsystems
from tenantry.subsystems.namespaces import Namespaces
from tenantry.subsystems.runtime import Runtime
from tenantry.subsystems.tools import Tools
from tenantry.work import Work
from tests import samples

Json = dict[str, Any]
LATER = ["ResourceQuota", "RoleBinding"]
AFTER_PODS = {"PodDisruptionBudget", "ResourceQuota", "Service"}


class FakeKubernetes(KubernetesBackend):
    """Takes everything, unless it holds an error; `there` are the kinds that were seen before."""

    def __init__(self, error: Exception | None = None, there: tuple[str, ...] = ()) -> None:
        self.rollout: Rollout | None = None
        self.observed = cast(
            Any, SimpleNamespace(changes={"acme": 1}, rollout=lambda where: self.rollout, of_tenant=lambda name: ())
        )
        self.made: list[list[str]] = []
        self.error, self.there = error, there

    def absent(self, desired: Json) -> bool:
        return desired["kind"] not in self.there

    async def ensure_secret(self, desired: Json, uid: str, *, first: bool = False) -> str:
        return "made"

    async def ensure(self, objects: Sequence[Json], uid: str) -> Applied:
        self.made.append(sorted(o["kind"] for o in objects))
        if self.error:
            raise self.error
        return Applied()


class Stores(Subsystems):
    """The order of the real one; its stores note which kinds were there when they began."""

    def __init__(self, kubernetes: FakeKubernetes, failing: bool = False) -> None:
        options = Options(runtime_image="runtime:unit")
        regions, unused = cast(Any, SimpleNamespace(get=self._region)), cast(Any, None)
        self._tools = Tools(kubernetes, regions, unused, options, Metrics(), Memo(60), unused)
        self._namespaces = Namespaces(self._tools)
        self._runtime = cast(Any, SimpleNamespace(ensure=self._rolled_out, deployment=lambda work: None))
        self._compaction = cast(Any, SimpleNamespace(begin=lambda *_: None))
        self.kubernetes, self.failing = kubernetes, failing
        self.before: list[str] = []

    async def _region(self, region: object) -> object:
        return object()

    async def _rolled_out(self, work: Work, backends: object) -> Outcome:
        return good(Type.RUNTIME, "")

    async def _stores(self, work: Work, backends: object) -> None:
        self.before = [kind for kinds in self.kubernetes.made for kind in kinds]
        work.report.add(
            Outcome(Type.DATABASE, "False", Reason.DATABASE_UNAVAILABLE, "away")
            if self.failing
            else good(Type.DATABASE, "")
        )
        work.report.add(good(Type.VECTORS, ""))


def work(*, ready: bool = False) -> Work:
    tenant = samples.tenant()
    made = Work(tenant, samples.resolved(), samples.region(), Report(), cast(Any, None))
    assert made.first
    if ready:
        made.tenant = samples.tenant(status={"firstReadyAt": "2026-11-22T12:00:00Z"})
        assert not made.first
    return made


@pytest.mark.parametrize("failing", [False, True])
async def test_a_new_tenants_quota_and_owners_come_after_its_stores_even_where_these_fail(failing: bool) -> None:
    kubernetes = FakeKubernetes()
    subsystems = Stores(kubernetes, failing)
    begun = work()
    await subsystems.run(begun)
    assert "ResourceQuota" not in subsystems.before
    assert "LimitRange" in subsystems.before
    assert kubernetes.made[-1] == LATER
    assert begun.report.outcomes[Type.NAMESPACES].good


@pytest.mark.parametrize("kubernetes", [FakeKubernetes(there=("ResourceQuota", "RoleBinding")), FakeKubernetes()])
async def test_what_is_there_or_was_ready_waits_for_nothing(kubernetes: FakeKubernetes) -> None:
    subsystems = Stores(kubernetes)
    await subsystems.run(work(ready=not kubernetes.there))
    assert "ResourceQuota" in subsystems.before
    assert len(kubernetes.made) == 1


async def test_nothing_more_is_made_in_a_namespace_that_is_not_ours() -> None:
    kubernetes = FakeKubernetes(foreign("Namespace tenant-acme", "another"))
    begun = work()
    await Stores(kubernetes).run(begun)
    assert len(kubernetes.made) == 1
    assert begun.report.outcomes[Type.NAMESPACES].reason is Reason.FOREIGN_OBJECT


async def test_a_quota_that_is_refused_is_said() -> None:
    kubernetes = FakeKubernetes()
    subsystems = Stores(kubernetes)
    begun = work()
    begun.report = Report()
    stores = subsystems._stores

    async def refusing(work: Work, backends: object) -> None:
        await stores(work, backends)
        kubernetes.error = BackendError(Reason.INVALID_SPEC, "refused")

    subsystems._stores = refusing  # type: ignore[method-assign]
    await subsystems.run(begun)
    assert begun.report.outcomes[Type.NAMESPACES].reason is Reason.INVALID_SPEC
    assert begun.report.outcomes[Type.RUNTIME].reason is Reason.WAITING


def _runtime(kubernetes: FakeKubernetes) -> tuple[Runtime, Work]:
    options, unused = Options(runtime_image="runtime:unit"), cast(Any, None)
    tools = Tools(kubernetes, unused, samples.credentials(), options, Metrics(), Memo(60), unused)
    begun = work()
    begun.resolved = replace(begun.resolved, replicas=2)
    place = vectors.shared_place(begun.resolved, "shared")
    begun.vectors = vectors.plan(begun.resolved, place, samples.credentials(), "region")
    return Runtime(tools, Namespaces(tools)), begun


async def test_what_follows_the_pods_comes_once_they_are_there() -> None:
    kubernetes = FakeKubernetes()
    runtime, begun = _runtime(kubernetes)
    backends = cast(Any, SimpleNamespace(provider_api_key="key"))
    assert not (await runtime.ensure(begun, backends)).good
    assert "Deployment" in kubernetes.made[0]
    assert not AFTER_PODS & {*kubernetes.made[0]}
    kubernetes.rollout = Rollout(current=True, replicas=2, updated=2, available=2, failing="")
    assert (await runtime.ensure(begun, backends)).good
    assert AFTER_PODS | {"Deployment"} <= {*kubernetes.made[1]}


async def test_what_is_there_is_kept_though_no_pod_is() -> None:
    kubernetes = FakeKubernetes(there=tuple(AFTER_PODS))
    runtime, begun = _runtime(kubernetes)
    await runtime.ensure(begun, cast(Any, SimpleNamespace(provider_api_key="key")))
    assert {*kubernetes.made[0]} >= AFTER_PODS
