"""Tenants in memory: of each a status, a Secret, Pods, two stores.  The operator over them is the real one.

Every effect may be the last one of the operator's process (`Crash`), and after each one every Pod that runs, ending
ones included, must still be let in with what it holds.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import random
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from tenantry import names
from tenantry.api.conditions import Reason
from tenantry.backends.errors import BackendError
from tenantry.backends.kinds import TENANT
from tenantry.backends.kubernetes import Applied
from tenantry.backends.milvus.backend import VectorsSeen
from tenantry.backends.observed import Rollout
from tenantry.backends.postgres import Ahead
from tenantry.backends.postgres.backend import DatabaseSeen
from tenantry.desired import vectors
from tenantry.desired.database import DatabasePlan
from tenantry.desired.options import Options
from tenantry.desired.postgres import shared
from tenantry.desired.postgres.seen import SeenRole, Shared
from tenantry.desired.postgres.things import Things
from tenantry.desired.vectors import Place, VectorPlan
from tenantry.desired.workload import CREDENTIALS_DIGEST, GRACE_SECONDS
from tenantry.metrics import Metrics
from tenantry.queue import Queue
from tenantry.reconcile import Reconciler
from tenantry.resolve import Resolved
from tenantry.rotation import Rotations
from tenantry.sharedlogins import SharedLogins
from tenantry.subsystems import Subsystems
from tenantry.view import View
from tests import samples
from tests.mergepatch import merge

Json = dict[str, Any]
STALE = timedelta(seconds=90)
"""How late a mounted Secret may be."""
OVERLAP = timedelta(hours=1)
REPLICAS = 2


class Crash(BaseException):
    """The operator's process ended here."""


class Violation(BaseException):
    """What must always hold does not; nothing in the operator takes it for an error of a step."""


def demand(holds: bool, what: str) -> None:
    if not holds:
        raise Violation(what)


@dataclass
class Pod:
    """What it holds, and for how long it may be what it is."""

    held: Json
    template: str
    stale_since: datetime | None = None
    ending_since: datetime | None = None


class Fleet:
    """All tenants, what they share, and the process that looks after them."""

    def __init__(self, rng: random.Random, tiers: dict[str, str]) -> None:
        self.rng = rng
        self.now = datetime(2026, 11, 22, tzinfo=UTC)
        self.users: dict[str, str] = {}
        """Milvus' users and their passwords."""
        self.reserved: set[str] = set()
        """Users without any right, which nobody was given yet."""
        self.full = False
        """Milvus takes no more users."""
        self.effects_left: int | None = None
        self.dead = False
        self.worlds = {name: World(self, name, tier) for name, tier in tiers.items()}

    def add(self, name: str, tier: str) -> None:
        self.worlds[name] = World(self, name, tier)

    def check(self) -> None:
        for world in self.worlds.values():
            world.check()

    def effect(self) -> None:
        """Something was changed: it holds, and the process may end here."""
        self.check()
        if self.effects_left is not None:
            self.effects_left -= 1
            if self.effects_left <= 0:
                self.dead = True
                raise Crash

    async def alive(self) -> None:
        """Others may come first; what a process that ended had begun does not go on."""
        await asyncio.sleep(0)
        if self.dead:
            raise Crash

    def wait(self, seconds: float) -> None:
        """No longer than what may be late is."""
        worlds = self.worlds.values()
        ends = [end for world in worlds for end in world.ends() if end > self.now]
        self.now = min([self.now + timedelta(seconds=seconds), *ends])
        for world in worlds:
            world.passed()
        self.check()

    @property
    def shared(self) -> list[str]:
        """The users of shared collections."""
        return [name for name in (*self.users, *self.reserved) if name.startswith("s_")]


class World:
    """One tenant's."""

    def __init__(self, fleet: Fleet, name: str, tier: str) -> None:
        self.fleet = fleet
        self.rng = fleet.rng
        self.name = name
        made = samples.manifest(name, tier)
        made["metadata"] |= {
            "uid": samples.uid(f"tenant/{name}"), "generation": 1, "resourceVersion": "1",
            "creationTimestamp": "2026-11-22T00:00:00Z", "annotations": {},
        }  # fmt: skip
        self.tenant: Json = made
        self.backups: list[Json | None] = [None]
        self.roles: dict[str, SeenRole] = {}
        self.passwords: dict[str, str] = {}
        self.secret: Json | None = None
        self.secret_before: Json | None = None
        self.template = ""
        self.generation = 0
        self.pods: list[Pod] = []
        self.closed: set[tuple[str, str]] = set()
        """Logins that were accepted once and are no more."""

    # -- what is always true ------------------------------------------------------------

    @property
    def now(self) -> datetime:
        return self.fleet.now

    def accepted(self) -> set[tuple[str, str]]:
        logins = {(n, self.passwords[n]) for n, r in self.roles.items() if "login" in r.flags}
        return logins | set(self.fleet.users.items())

    def check(self) -> None:
        accepted = self.accepted()
        for pod in self.pods:
            for store in ("postgres", "milvus"):
                login = (pod.held[store]["user"], pod.held[store]["password"])
                demand(login in accepted, f"{login[0]} is refused to a Pod of {self.name}; stored is {self.stored()}")
        demand(not self.closed & accepted, "a login whose time was over came back")

    def stored(self) -> Json:
        return dict(self.tenant.get("status", {}).get("credentials") or {})

    def change(self, accepted_before: set[tuple[str, str]]) -> None:
        self.closed |= accepted_before - self.accepted()
        self.fleet.effect()

    # -- what goes on beside the operator -------------------------------------------------

    def live(self) -> list[Pod]:
        return [p for p in self.pods if not p.ending_since]

    def roll(self) -> None:
        """One step of the Deployment's controller: a new Pod first, then one of the old ones begins to end."""
        assert self.secret is not None
        old = [p for p in self.live() if p.template != self.template]
        if len(self.live()) <= REPLICAS and (old or len(self.live()) < REPLICAS):
            stale = self.secret_before is not None and self.rng.random() < 0.3
            held = self.secret_before if stale else self.secret
            self.pods.append(Pod(dict(held or {}), self.template, self.now if stale else None))
        elif old:
            old[0].ending_since = self.now
        self.check()

    def restart(self) -> None:
        """A Pod's container starts again, with the Secret as it is."""
        assert self.secret is not None
        pod = self.rng.choice(self.pods)
        pod.held = dict(self.secret)
        pod.stale_since = None
        self.check()

    def ends(self) -> list[datetime]:
        """Until when what is late may be so."""
        ends = [p.ending_since + timedelta(seconds=GRACE_SECONDS) for p in self.pods if p.ending_since]
        return ends + [p.stale_since + STALE for p in self.pods if p.stale_since]

    def passed(self) -> None:
        """Time has."""
        for pod in list(self.pods):
            if pod.ending_since and self.now >= pod.ending_since + timedelta(seconds=GRACE_SECONDS):
                self.pods.remove(pod)
            if pod.stale_since and self.now >= pod.stale_since + STALE:
                pod.held, pod.stale_since = dict(self.secret or {}), None
        if not any(p.stale_since for p in self.pods):
            self.secret_before = self.secret  # every kubelet has seen it

    def touched(self) -> None:
        """Somebody wrote to the Tenant."""
        meta = self.tenant["metadata"]
        meta["resourceVersion"] = str(int(meta["resourceVersion"]) + 1)

    def ask(self) -> None:
        self.tenant["metadata"]["annotations"][names.ROTATE_ANNOTATION] = str(self.rng.random())
        self.touched()

    def back_up(self) -> None:
        self.backups.append(copy.deepcopy(self.tenant.get("status")))

    def restore(self) -> None:
        """The status is lost, or an older one comes back."""
        status = copy.deepcopy(self.rng.choice(self.backups))
        self.tenant["status"] = status or {}
        self.touched()

    @property
    def at_rest(self) -> bool:
        rolled = len(self.live()) == REPLICAS == len(self.pods) and all(p.template == self.template for p in self.pods)
        state = self.stored()
        turned = not state or ("rolledOutAt" in state and "previousUntil" not in state)
        asked = self.tenant["metadata"]["annotations"].get(names.ROTATE_ANNOTATION, "")
        return rolled and turned and (not asked or bool(state and state.get("requested") == asked))


class FakePostgres:
    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet

    async def ensure(self, plan: DatabasePlan, *, logins: bool = False, new: bool = False) -> DatabaseSeen:
        await self.fleet.alive()
        world = self.fleet.worlds[plan.things.tenant]
        if found := shared.ahead(plan, Shared("admin", world.roles, (), {})):
            raise Ahead(found)
        before, created = world.accepted(), not world.roles
        roles, passwords = {}, {}
        for role in plan.roles:
            flags = frozenset({"inherit", "login"} if role.login else {"inherit"})
            comment = shared.role_comment(plan.things, role)
            roles[role.name] = SeenRole(flags, role.connection_limit, False, comment, True, {})
            passwords[role.name] = role.password
        world.roles, world.passwords = roles, passwords
        world.change(before)
        return DatabaseSeen(plan.database, plan.things.schema, (), created, (), None, None)

    async def in_use(self, things: Things, generation: int) -> bool:
        await self.fleet.alive()
        world, name = self.fleet.worlds[things.tenant], things.slot("ab"[generation % 2])
        login = "login" in world.roles[name].flags
        return login and any(p.held["postgres"]["user"] == name for p in world.pods)

    async def end_sessions(self, things: Things, generation: int) -> None:
        await self.fleet.alive()
        world, name = self.fleet.worlds[things.tenant], things.slot("ab"[generation % 2])
        demand(not any(p.held["postgres"]["user"] == name for p in world.pods), "a Pod lost its sessions")
        self.fleet.effect()


class FakeMilvus:
    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet

    async def place(self, resolved: Resolved) -> Place:
        return vectors.settled(resolved) or vectors.shared_place(resolved, "shared_1")

    async def shared_users(self, collection: str) -> frozenset[int]:
        await self.fleet.alive()
        numbers = (vectors.shared_user_number(collection, name) for name in self.fleet.shared)
        return frozenset(n for n in numbers if n is not None)

    async def reserve(self, plan: VectorPlan) -> None:
        await self.fleet.alive()
        if plan.user in {*self.fleet.users, *self.fleet.reserved}:
            return
        self.room()
        self.fleet.reserved.add(plan.user)
        self.fleet.effect()

    def room(self) -> None:
        if self.fleet.full:
            raise BackendError(Reason.CAPACITY_EXHAUSTED, "Milvus has reached its limit proxy.maxUserNum; raise it")

    async def ensure(self, plan: VectorPlan) -> VectorsSeen:
        fleet = self.fleet
        await fleet.alive()
        if fleet.users.get(plan.user) != plan.password:
            if plan.user not in {*fleet.users, *fleet.reserved}:
                self.room()
            fleet.reserved.discard(plan.user)
            self.change({plan.user: plan.password})
        for user in plan.ended:
            await fleet.alive()
            fleet.reserved.discard(user)
            if user in fleet.users:
                self.change({user: None})
        return VectorsSeen((), False)

    def change(self, users: dict[str, str | None]) -> None:
        worlds = self.fleet.worlds.values()
        before = {world.name: world.accepted() for world in worlds}
        after = {**self.fleet.users, **users}
        self.fleet.users = {name: password for name, password in after.items() if password}
        for world in worlds:
            world.closed |= before[world.name] - world.accepted()
        self.fleet.effect()


class FakeKubernetes:
    """The API server: the Tenants, the runtimes' Secrets and their Deployments; it is its own cache."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.observed = self
        self.changes: dict[str, int] = defaultdict(int)

    def runtimes(self) -> list[tuple[str, str]]:
        return [(w.name, w.tenant["metadata"]["uid"]) for w in self.fleet.worlds.values() if w.template]

    def rollout(self, key: tuple[str, str, str]) -> Rollout:
        world = self.fleet.worlds[key[1].removeprefix("runtime-")]
        live = world.live()
        updated = [p for p in live if p.template == world.template]
        return Rollout(current=True, replicas=len(live), updated=len(updated), available=len(live), failing="")

    def of_tenant(self, tenant: str) -> list[Json]:
        return []

    def comes_last(self, desired: Json) -> bool:
        return False

    async def ensure(self, objects: list[Json], uid: str) -> Applied:
        await self.fleet.alive()
        for obj in objects:
            if obj["kind"] == "Deployment":
                world = self.fleet.worlds[obj["metadata"]["labels"][names.TENANT_LABEL]]
                template = obj["spec"]["template"]["metadata"]["annotations"][CREDENTIALS_DIGEST]
                if template != world.template:
                    world.template = template
                    world.generation += 1
                    self.fleet.effect()
        return Applied()

    async def ensure_secret(self, desired: Json, uid: str, *, first: bool = False) -> bool:
        await self.fleet.alive()
        if desired["metadata"]["name"] != "runtime":
            return False
        world = self.fleet.worlds[desired["metadata"]["labels"][names.TENANT_LABEL]]
        held = json.loads(base64.b64decode(desired["data"]["credentials.json"]))
        if held == world.secret:
            return False
        world.secret_before, world.secret = world.secret, held
        self.fleet.effect()
        return True

    async def merge(self, kind: Any, obj: Json, patch: Json, subresource: str = "") -> Json:
        await self.fleet.alive()
        assert kind is TENANT
        world = self.fleet.worlds[obj["metadata"]["name"]]
        changed = {k: v for k, v in patch.items() if k == "status" or not subresource}
        changed.get("metadata", {}).pop("resourceVersion", None)
        merge(world.tenant, changed)
        world.touched()
        answer = copy.deepcopy(world.tenant)
        self.fleet.effect()
        return answer


class FakeKeys:
    def due(self, resolved: Resolved) -> None:
        return None

    async def sync(self, resolved: Resolved, write: Any, *, first: bool = False) -> None:
        return None


def operator(fleet: Fleet, age: timedelta | None = None) -> Reconciler:
    """A process of the operator that has just started."""
    api: Any = FakeKubernetes(fleet)
    region = samples.region()
    view = View()
    view.tiers, view.regions = samples.tiers(), {region.name: region}
    stores = SimpleNamespace(
        uid=region.uid, postgres=FakePostgres(fleet), milvus=FakeMilvus(fleet), provider_api_key="sk",
        database_breaker=unbroken, vectors_breaker=unbroken,
    )  # fmt: skip

    async def get(_: Any) -> Any:
        return stores

    regions: Any = SimpleNamespace(get=get)
    keys: Any = FakeKeys()
    metrics = Metrics()
    options = Options(runtime_image="runtime:test")
    rotations = Rotations(age, OVERLAP, SharedLogins(view.placed, api.runtimes))
    parts = Subsystems(api, regions, samples.credentials(), options, keys, metrics, 0, rotations)
    events: Any = SimpleNamespace(tell=nothing)
    made = Reconciler(view, api, parts, SimpleNamespace(), SimpleNamespace(), events, metrics, 300)  # type: ignore[arg-type]
    made.queue = Queue(made, 1)
    for name in fleet.worlds:
        see(fleet, made, name)
    return made


def see(fleet: Fleet, process: Reconciler, name: str) -> None:
    """The watch says it."""
    process.view.put(TENANT, copy.deepcopy(fleet.worlds[name].tenant))


async def unbroken(step: Any, *_: Any) -> Any:
    return await step()


async def nothing(*_: Any) -> None:
    return None


async def reconcile(fleet: Fleet, process: Reconciler, *tenants: str) -> None:
    """All of these at the same time.  Raises Crash when the process ends on the way."""
    for name in tenants:
        see(fleet, process, name)
    results = await asyncio.gather(*map(process, tenants), return_exceptions=True)
    for _ in range(20 if fleet.dead else 0):  # what it had begun beside ends with it
        await asyncio.sleep(0)
    fleet.dead = False
    for kind in (Violation, Crash, BaseException):
        for result in results:
            if isinstance(result, kind):
                raise result
