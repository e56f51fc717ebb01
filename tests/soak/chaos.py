"""The soak's loop: one random action after the other, and what must hold at the end."""

from __future__ import annotations

import collections
import json
import random
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psycopg
from pymilvus.exceptions import MilvusException

from tests.integration.operator.world import GROUP, Replica, World
from tests.integration.survival.kills import agrees
from tests.soak.drifts import Drifts

TIERS = ("free", "free", "pro", "enterprise")
REPLICAS = ("a", "b")
SLOPE_LIMIT = 0.5
"""MiB a minute that the leader may grow in the second half: what a burst of work leaves behind, over a few minutes."""
KILL_SECONDS = 14.0
"""On average between two kills: over a hundred in half an hour."""
WARM_SECONDS = 120.0
HEAL_SECONDS = 240.0
UNFORESEEN = ("in a way that nobody foresaw", "a part of the operator failed", "failed; it is tried again")
Refused = (httpx.HTTPError, psycopg.Error, MilvusException, AssertionError)
"""What an action may meet while a server is away."""


class Chaos:
    def __init__(self, world: World, rng: random.Random, most: int, seconds: float) -> None:
        self.world = world
        self.rng = rng
        self.most = most
        self.seconds = seconds
        self.drifts = Drifts(world, rng)
        self.uids: dict[str, str] = {}
        self.leaving: dict[str, str] = {}
        self.levels: dict[str, str] = {}
        self.done: collections.Counter[str] = collections.Counter()
        self.drifted: collections.Counter[str] = collections.Counter()
        self.replicas: dict[str, Replica] = {}
        self.ends: list[str] = []
        self.memory: list[tuple[float, int, float]] = []
        """Time, process, MiB: of the leader, in the second half."""
        self.number = 0
        self.outage: threading.Thread | None = None
        self.next_outage = 20.0
        self.next_kill = 10.0

    # -- the run -----------------------------------------------------------------------

    def run(self) -> list[str]:
        """What is wrong at the end; nothing where all is well."""
        for name in REPLICAS:
            self._start(name)
        began, shown, sampled = time.monotonic(), 0.0, 0.0
        while (now := time.monotonic() - began) < self.seconds:
            if now - shown >= 30:
                shown = now
                self._say(now)
            if now - sampled >= 5:
                sampled = now
                self._sample(now)
            self._tend()
            self._act(now)
            time.sleep(self.rng.uniform(0.1, 1.2))
        if self.outage:
            self.outage.join(180)
        print("now nothing is disturbed any more", flush=True)
        wrong = self._at_the_end()
        self._say(time.monotonic() - began)
        print(f"done: {dict(sorted(self.done.items()))}")
        print(f"drifts: {dict(sorted(self.drifted.items()))}")
        for name in REPLICAS:
            self.replicas[name].stop()
        return wrong

    def _act(self, now: float) -> None:
        second_half = now > self.seconds / 2
        actions: list[tuple[float, Callable[[], object]]] = [
            (4 if len(self.uids) < self.most else 0, self._create),
            (5, self._change),
            (2, self._move),
            (3, self._key),
            (2 if len(self.uids) > self.most / 2 else 0.5, self._delete),
            (6, self._drift),
        ]
        action = self.rng.choices([a for _, a in actions], [w for w, _ in actions])[0]
        if now > self.next_outage and not (self.outage and self.outage.is_alive()):
            self.next_outage = now + self.rng.uniform(40, 80)
            action = self.rng.choice(
                [self._away_postgres, self._away_milvus, *([] if second_half else [self._away_api])]
            )
        if now > self.next_kill and self._kill(only_standby=second_half):
            self.next_kill = now + self.rng.expovariate(1 / KILL_SECONDS)
        try:
            action()
        except Refused as error:
            self.done[f"refused ({type(error).__name__})"] += 1

    # -- actions -----------------------------------------------------------------------

    def _create(self) -> None:
        self.number += 1
        name, tier = f"soak-{self.number}", self.rng.choice(TIERS)
        spec: dict[str, Any] = {"deletion": {"policy": self.rng.choice(["Delete", "Delete", "Delete", "Retain"])}}
        level = "tenantry"
        if tier == "enterprise" and self.rng.random() < 0.4:
            spec |= {"database": {"isolation": "Database"}, "vectors": {"isolation": "Database"}}
            level = f"tenant_{name.replace('-', '_')}"
        self.uids[name] = self.world.tenant(name, tier, **spec)
        self.levels[name] = level
        self.done["created"] += 1

    def _some(self) -> str:
        assert self.uids, "there is no tenant yet"
        return self.rng.choice(sorted(self.uids))

    def _change(self) -> None:
        extra = [{"suffix": s, "weight": self.rng.randint(1, 5)} for s in ("dev", "test") if self.rng.random() < 0.3]
        choices: list[dict[str, Any]] = [
            {"ai": {"customInstructions": f"Number {self.rng.randrange(10**6)}."}},
            {"namespaces": extra or None},
            {"suspended": self.rng.random() < 0.3},
            {"runtime": {"replicas": {"min": self.rng.randint(1, 2)}}},
            {"displayName": f"Customer {self.rng.randrange(10**6)}"},
            {"ai": {"limits": {"requestsPerMinute": self.rng.randint(1, 20)}}},
        ]
        self.world.change(self._some(), **self.rng.choice(choices))
        self.done["changed"] += 1

    def _move(self) -> None:
        self.world.change(self._some(), tier=self.rng.choice(TIERS))
        self.done["moved"] += 1

    def _key(self) -> None:
        name = self._some()
        keys = f"{GROUP}/namespaces/tenant-{name}/accesskeys"
        which, what = self.rng.choice(["one", "two"]), self.rng.choice(["make", "rotate", "delete", "rotate tenant"])
        turn = {"metadata": {"annotations": {"tenantry.dev/rotate": str(self.rng.randrange(10**6))}}}
        if what == "make":
            body = {"apiVersion": "tenantry.dev/v1alpha1", "kind": "AccessKey", "metadata": {"name": which}, "spec": {}}
            self.world.create(keys, body)
        elif what == "delete":
            self.world.remove(f"{keys}/{which}")
        else:
            self.world.patch(f"{keys}/{which}" if what == "rotate" else f"{GROUP}/tenants/{name}", turn)
        self.done[f"key: {what}"] += 1

    def _delete(self) -> None:
        name = self._some()
        self.world.remove(f"{GROUP}/tenants/{name}")
        self.leaving[name] = self.uids.pop(name)
        self.done["deleted"] += 1

    def _drift(self) -> None:
        name = self._some()
        self.drifted[self.drifts.one(name, self.uids[name])] += 1

    # -- replicas and servers ----------------------------------------------------------------

    def _start(self, name: str) -> None:
        self.replicas[name] = self.world.start(name, resync_seconds=20, TENANTRY_POD=name, lease_seconds=10)

    def _tend(self) -> None:
        """What the kubelet does: a replica that has ended starts again."""
        for name, replica in self.replicas.items():
            code = replica.process.poll()
            if code is None:
                continue
            if code >= 0:
                lost = '"Ends: ' in replica.log.read_text()[-3000:] and "Lease" in replica.log.read_text()[-3000:]
                self.done["ended for its Lease" if lost else "ended by itself"] += 1
                if not lost:
                    self.ends.append(f"replica {name} ended with {code}; its log is {replica.log}")
            self._start(name)

    def _leads(self, name: str) -> bool:
        try:
            return self.replicas[name].value("tenantry_leader") == 1
        except httpx.HTTPError:
            return False

    def _kill(self, *, only_standby: bool) -> bool:
        """Whether one could be chosen."""
        leading = [name for name in REPLICAS if self._leads(name)]
        name = self.rng.choice(REPLICAS)
        if only_standby and len(leading) != 1:
            return False
        if only_standby and name in leading:
            name = next(other for other in REPLICAS if other != name)
        self.replicas[name].kill()
        self.done["killed"] += 1
        return True

    def _away(self, what: str, stop: Callable[[], None], start: Callable[[], None]) -> None:
        pause = self.rng.uniform(0, 8)

        def work() -> None:
            stop()
            time.sleep(pause)
            start()

        self.outage = threading.Thread(target=work, daemon=True)
        self.outage.start()
        self.done[f"{what} restarted"] += 1

    def _away_postgres(self) -> None:
        self._away("PostgreSQL", self.world.postgres.stop, self.world.postgres.start)

    def _away_milvus(self) -> None:
        self._away("Milvus", self.world.milvus.stop, self.world.milvus.start)

    def _away_api(self) -> None:
        """In this thread: the kernel ends the API server with the thread that started it."""
        self.world.plane.restart(self.rng.uniform(0, 4))
        self.done["API server restarted"] += 1

    # -- what is seen -------------------------------------------------------------------------

    def _megabytes(self, name: str) -> float:
        try:
            status = Path(f"/proc/{self.replicas[name].process.pid}/status").read_text()
        except OSError:
            return 0.0
        return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS:")), 0.0)

    def _sample(self, now: float) -> None:
        for name in REPLICAS:
            if now > self.seconds / 2 and self._leads(name):
                self.memory.append((now, self.replicas[name].process.pid, self._megabytes(name)))

    def _ready(self) -> int:
        try:
            items = (self.world.get(f"{GROUP}/tenants") or {})["items"]
        except Refused:
            return -1
        conditions = [c for t in items for c in t.get("status", {}).get("conditions", ())]
        return sum(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    def _say(self, now: float) -> None:
        memory = ", ".join(f"{n}{'*' if self._leads(n) else ''} {self._megabytes(n):.0f} MiB" for n in REPLICAS)
        restarts = sum(count for what, count in self.done.items() if what.endswith("restarted"))
        print(
            f"{now:6.0f} s: {len(self.uids)} tenants, {self._ready()} ready; {self.done['killed']} kills, {restarts} "
            f"restarts of servers, {self.drifted.total()} drifts, {self.done['deleted']} deleted; {memory}",
            flush=True,
        )

    # -- the end ------------------------------------------------------------------------------------

    def _at_the_end(self) -> list[str]:
        wrong = list(self.ends)
        deadline = time.monotonic() + HEAL_SECONDS
        left: dict[str, str] = {"": "nobody looked"}
        while left and time.monotonic() < deadline:
            self._tend()
            left = self._unsettled()
            time.sleep(1 if left else 0)
        wrong += [f"{name}: {what}" for name, what in left.items()]
        if not left:
            status, said = self.world.scan()
            for _ in range(3):  # what Milvus was told while it was away may still be on its way
                if status == 0:
                    break
                time.sleep(10)
                status, said = self.world.scan()
            wrong += [f"scan: {line}" for line in said.splitlines() if status]
        for log in sorted(self.world.folder.glob("*.log")):
            for line in log.read_text(errors="replace").splitlines():
                if any(text in line for text in UNFORESEEN):
                    wrong.append(f"logged in {log.name}: {line[:1500]}")
        return wrong + self._memory_wrong()

    def _unsettled(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for name in [*self.leaving, *self.uids]:
            try:
                why = self._lingers(name) if name in self.leaving else self._lacks(name)
            except Refused as error:
                why = f"can't be looked at: {type(error).__name__}: {error}"
            if why:
                found[name] = why
        return found

    def _lingers(self, name: str) -> str:
        seen = self.world.get(f"{GROUP}/tenants/{name}")
        return f"is not gone: {_conditions(seen)}" if seen else ""

    def _lacks(self, name: str) -> str:
        seen = self.world.seen(name)
        current = seen.get("status", {}).get("observedGeneration") == seen["metadata"]["generation"]
        if not current or self.world.condition(name).get("status") != "True":
            return f"is not Ready: {_conditions(seen)}"
        return agrees(self.world, name, self.levels[name])

    def _memory_wrong(self) -> list[str]:
        """The slope of the longest life in the second half, its first two minutes left out."""
        lives: dict[int, list[tuple[float, float]]] = collections.defaultdict(list)
        for when, process, megabytes in self.memory:
            lives[process].append((when / 60, megabytes))
        life = max(lives.values(), key=len, default=[])
        life = [s for s in life if s[0] - life[0][0] > WARM_SECONDS / 60]
        if not life or life[-1][0] - life[0][0] < 5:
            print("memory: no leader lived long enough undisturbed for a verdict (that takes about 15 minutes in all)")
            return [] if self.seconds < 1200 else ["memory: no leader lived for five minutes in the second half"]
        slope = statistics.linear_regression([t for t, _ in life], [m for _, m in life]).slope
        text = (
            f"{slope:+.2f} MiB a minute over {life[-1][0] - life[0][0]:.0f} minutes, {life[-1][1]:.0f} MiB at the end"
        )
        print(f"memory of the leader: {text} (at most {SLOPE_LIMIT} is accepted)")
        return [f"memory of the leader grew by {text}"] if slope > SLOPE_LIMIT else []


def _conditions(seen: dict[str, Any]) -> str:
    conditions = seen.get("status", {}).get("conditions", ())
    return json.dumps([f"{c['type']}={c['status']} {c['reason']}: {c['message'][:300]}" for c in conditions])
