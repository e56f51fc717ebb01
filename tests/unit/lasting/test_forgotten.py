"""Of what is deleted the operator keeps nothing: else its memory grows for as long as it runs."""

from __future__ import annotations

import asyncio
import time
import types
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from tenantry import breaker, names, reconcile, view
from tenantry.accesskeys import AccessKeys
from tenantry.api.conditions import Reason
from tenantry.backends.errors import BackendError, foreign
from tenantry.backends.kinds import NAMESPACE, REGION, TENANT, TIER
from tenantry.backends.kubernetes import KubernetesBackend
from tenantry.backends.milvus.backend import VectorsSeen
from tenantry.backends.observed import GRAVE_SECONDS, Observed
from tenantry.backends.postgres.backend import DatabaseSeen
from tenantry.breaker import Breaker
from tenantry.deletion import Deletion
from tenantry.desired import vectors
from tenantry.desired.database import DatabasePlan
from tenantry.desired.options import Options
from tenantry.desired.vectors import Place, VectorPlan
from tenantry.events import Events
from tenantry.handlers import Watches
from tenantry.metrics import Metrics
from tenantry.queue import Queue
from tenantry.reconcile import Reconciler
from tenantry.resolve import Resolved
from tenantry.rotation import Rotations
from tenantry.sharedlogins import SharedLogins
from tenantry.subsystems import Subsystems
from tests import samples
from tests.unit.lasting.memory_api import Json, MemoryApi, key_path

COUNT = 12


class Stores:
    """A PostgreSQL and a Milvus that take everything, but for what is refused to a tenant, by its name."""

    def __init__(self) -> None:
        self.refused: dict[str, BackendError] = {}
        self.kept: dict[str, list[BackendError]] = {}

    def _ask(self, tenant: str) -> None:
        if tenant in self.refused:
            raise self.refused[tenant]

    async def ensure(self, plan: Any, *, logins: bool = False, new: bool = False) -> Any:
        if isinstance(plan, VectorPlan):
            return VectorsSeen((), False)
        assert isinstance(plan, DatabasePlan)
        self._ask(plan.things.tenant)
        return DatabaseSeen(plan.database, plan.things.schema, (), False, (), "2026-11", 7)

    async def sync_keys(self, plan: Any, rows: Any, *, new: bool = False) -> bool:
        return True

    async def place(self, resolved: Resolved) -> Place:
        return vectors.settled(resolved) or vectors.shared_place(resolved, "shared_1")

    async def shared_users(self, collection: str) -> frozenset[int]:
        return frozenset({0})

    async def reserve(self, plan: Any) -> None:
        return None

    async def used(self, *_: Any) -> bool:
        return False

    async def in_use(self, *_: Any) -> bool:
        return False

    async def end_sessions(self, *_: Any) -> None:
        return None

    async def look(self, plan: Any) -> None:
        if isinstance(plan, DatabasePlan):
            self._ask(plan.things.tenant)

    async def remove(self, who: str, *_: Any) -> None:
        if errors := self.kept.get(who):
            raise errors.pop()


class World:
    """The operator as it is wired when it leads, over servers in memory."""

    def __init__(self) -> None:
        self.api: Any = MemoryApi()
        self.now = 0.0
        self.observed = Observed(lambda: self.now)
        self.view = view.View()
        self.kubernetes = KubernetesBackend(self.api, self.observed)
        self.stores: Any = Stores()
        self.metrics = Metrics()
        wake = lambda tenant, delay: self.queue.add(tenant, delay)  # noqa: E731
        regions: Any = SimpleNamespace(get=self._backends)
        self.backends = SimpleNamespace(
            uid=samples.uid("region"), postgres=self.stores, milvus=self.stores, provider_api_key="sk",
            database_breaker=Breaker(wake), vectors_breaker=Breaker(wake),
        )  # fmt: skip
        keys = AccessKeys(self.kubernetes, self.view, samples.credentials(), 100)
        parts = Subsystems(
            self.kubernetes, regions, samples.credentials(), Options(runtime_image="runtime:test"), keys, self.metrics,
            100, Rotations(timedelta(days=90), timedelta(0), SharedLogins(self.view.placed, self.observed.runtimes)),
        )  # fmt: skip
        deletion = Deletion(self.kubernetes, self.view, regions)
        adoption: Any = SimpleNamespace()
        events = Events(self.kubernetes, "test")
        self.reconciler = Reconciler(self.view, self.kubernetes, parts, deletion, adoption, events, self.metrics, 300)
        self.queue = self.reconciler.queue = Queue(self.reconciler, 4)
        self.view.notify = self.queue.add
        self.watches = Watches(self.kubernetes, self.view, self.queue)
        self.api.tell = self.watches.event

    async def _backends(self, region: Any) -> Any:
        return self.backends

    def condition(self, path: str, kind: str = "Ready") -> Json:
        found = self.api.objects.get(path, {}).get("status", {}).get("conditions", ())
        return next((dict(c) for c in found if c["type"] == kind), {})

    def change(self, path: str, **parts: Json) -> None:
        obj = self.api.objects[path]
        self.api.put(path, {**obj, **{part: {**obj[part], **value} for part, value in parts.items()}})

    async def until(self, look: Callable[[], object], what: object, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not look():
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
            await asyncio.sleep(0.01)

    async def says(self, path: str, reason: str) -> None:
        await self.until(lambda: self.condition(path).get("reason") == reason, f"{path} says {reason}")


def tenant_path(name: str) -> str:
    return TENANT.path("", name)


def mentions(root: object, marks: Iterable[str]) -> Iterator[str]:
    """Where below `root` a text holds one of the marks."""
    marks = list(marks)
    apart = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, MemoryApi, Stores)
    seen: set[int] = set()
    waiting: list[tuple[object, str]] = [(root, type(root).__name__)]
    while waiting:
        thing, path = waiting.pop()
        if id(thing) in seen or isinstance(thing, apart):
            continue
        seen.add(id(thing))
        if isinstance(thing, str | bytes):
            text = thing if isinstance(thing, str) else thing.decode(errors="replace")
            if any(mark in text for mark in marks):
                yield f"{path}: {text[:200]}"
        elif isinstance(thing, dict):
            for key, value in thing.items():
                waiting += [(key, f"{path}[key]"), (value, f"{path}[{str(key)[:60]}]")]
        elif isinstance(thing, types.MethodType):
            waiting.append((thing.__self__, path))
        elif hasattr(thing, "__iter__") and not hasattr(thing, "__next__") and type(thing).__module__ != "builtins":
            waiting += [(item, f"{path}[]") for item in _items(thing)]
            waiting += _attributes(thing, path)
        elif isinstance(thing, list | tuple | set | frozenset):
            waiting += [(item, f"{path}[]") for item in thing]
        else:
            waiting += _attributes(thing, path)


def _items(thing: Any) -> list[object]:
    try:
        return list(thing)
    except Exception:
        return []


def _attributes(thing: object, path: str) -> list[tuple[object, str]]:
    names_ = [n for kind in type(thing).__mro__ for n in getattr(kind, "__slots__", ())]
    found = {**{n: getattr(thing, n, None) for n in names_ if n != "__dict__"}, **getattr(thing, "__dict__", {})}
    return [(value, f"{path}.{name}") for name, value in found.items()]


def test_a_mention_is_found_wherever_it_is() -> None:
    memo = Observed()
    memo.note({"kind": "Secret", "metadata": {"name": "postgres", "namespace": "tenant-gone"}})
    assert list(mentions(SimpleNamespace(inner=[{"x": memo}]), ["tenant-gone"]))
    assert list(mentions(SimpleNamespace(wake=memo.note), ["tenant-gone"]))
    assert not list(mentions(SimpleNamespace(inner=[{"x": memo}]), ["tenant-there"]))


async def test_nothing_is_kept_of_tenants_and_keys_that_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "MOST_GONE", 0)  # how new the last news of so many were is kept on purpose
    monkeypatch.setattr(reconcile, "DELETING_SECONDS", 0.1)
    monkeypatch.setattr(breaker, "OPEN_SECONDS", 0.2)
    world = World()
    for name in ("free", "pro", "enterprise"):
        world.api.put(TIER.path("", name), samples.tier_manifest(name))
    world.api.put(REGION.path("", "main"), {"metadata": {"name": "main"}, "spec": samples.REGION})
    world.api.put(NAMESPACE.path("", "default"), {"metadata": {"name": "default"}})
    running = asyncio.create_task(world.queue.run())
    try:
        uids = await lives(world)
        tenants = [path for path in world.api.objects if path.startswith(f"{TENANT.path()}/")]
        assert len(tenants) > COUNT
        assert [*mentions(world.reconciler, ["gone-0"])], "it is known while it is there"
        for path in tenants:
            world.api.delete(path)
        left: list[str] = []

        def gone() -> bool:
            left[:] = [p for p in world.api.objects if "gone-" in p and "/events/" not in p]
            return not left

        await world.until(gone, left)
        await world.until(lambda: world.queue.idle, "the queue is empty")
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    world.now += GRAVE_SECONDS + 1
    world.observed.forget("nobody")
    marks = {"gone-", *uids}
    assert [*mentions(world.reconciler, marks), *mentions(world.watches, marks), *mentions(world.queue, marks)] == []
    assert not [line for piece in world.metrics.pages() for line in piece.decode().splitlines()
                if 'tenant="' in line], "no series of a tenant that is gone"  # fmt: skip


async def lives(world: World) -> set[str]:
    """Tenants that go through all that the operator remembers something for; the UIDs that it met."""
    tiers = ("free", "pro", "enterprise")
    tenants = [f"gone-{number}" for number in range(COUNT)]
    uids: set[str] = set()

    def make(path: str, obj: Json) -> None:
        uids.add(str(world.api.put(path, obj, new=True)["metadata"]["uid"]))

    for number, name in enumerate(tenants):
        spec = {"deletion": {"policy": "Delete"}, "namespaces": [{"suffix": "dev", "weight": 1}]}
        make(tenant_path(name), samples.manifest(name, tiers[number % 3], **spec))
    for name in tenants:
        await world.says(tenant_path(name), "Ready")
        assert world.condition(key_path(name, "default"))["status"] == "True"
    for number, name in enumerate(tenants):
        ci = key_path(name, "ci")
        make(ci, {"metadata": {"name": "ci", "namespace": f"tenant-{name}"}, "spec": {"overlap": "0s"}})
        await world.says(ci, "InForce")
        world.change(ci, metadata={"annotations": {names.ROTATE_ANNOTATION: "now"}})
        await world.until(lambda p=ci: world.api.objects[p]["status"].get("rotatedAt"), "it is rotated")  # type: ignore[misc]
        if number % 2:
            world.api.delete(ci)
        annotations = world.api.objects[tenant_path(name)]["metadata"]["annotations"]
        world.change(tenant_path(name), metadata={"annotations": {**annotations, names.ROTATE_ANNOTATION: "now"}})
    await drifts(world, "gone-1")
    world.change(tenant_path("gone-2"), spec={"namespaces": []})  # swept
    bad = key_path("gone-3", "bad")
    make(bad, {"metadata": {"name": "bad", "namespace": "tenant-gone-3"}, "spec": {"scopes": ["everything"]}})
    await world.says(bad, "InvalidSpec")
    world.change(tenant_path("gone-4"), spec={"tier": "nowhere"})
    await world.says(tenant_path("gone-4"), "UnknownTier")
    away = BackendError(Reason.DATABASE_UNAVAILABLE, "PostgreSQL does not answer")
    world.stores.kept = {"gone-5": [BackendError(Reason.DATABASE_REFUSED, "no")] * 2, "gone-6": [away]}
    never = tenant_path("gone-never")
    world.stores.refused["gone-never"] = foreign("role tenant_gone_never")
    make(never, samples.manifest("gone-never"))
    await world.until(
        lambda: world.api.objects[never].get("status", {}).get("rolledBack", {}).get("state") == "Removed",
        "what fails for good is taken back",
    )
    return uids


async def drifts(world: World, name: str) -> None:
    """A key and an object that somebody else changes until it is a fight."""
    key = key_path(name, "default")
    for _ in range(6):
        if key in world.api.objects:
            world.api.delete(key)
        await asyncio.sleep(0.02)
    await world.until(lambda: key not in world.api.objects or world.queue.idle, "it was looked at")
    quotas = [p for p in world.api.objects if f"tenant-{name}/resourcequotas/" in p]
    for _ in range(6):
        before = world.api.objects[quotas[0]]["spec"]["hard"]
        world.change(quotas[0], spec={"hard": {**before, "pods": "1"}})
        await asyncio.sleep(0.02)
    await world.says(tenant_path(name), "Contested")
