"""The operator, killed at a hundred random moments while 20 tenants are created, changed, moved and deleted.

``python -m tests.integration.survival.moments [SEED]`` runs it in a world of its own (part of `make kills`).  The
moments are by the clock, so that they also fall within effects, between a request and its answer, and while nothing
but waiting goes on; kills.py has those around each effect.  What is done and when is chosen by the seed.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tenantry import names
from tests.integration.operator.world import GROUP, World, until
from tests.integration.survival import command
from tests.integration.survival.kills import MODULE, NEVER, ROTATE, agrees, lines

TENANTS = 20
KILLS = 100
TIERS = ("free", "pro", "enterprise")
PAUSE = (0.1, 0.9)
"""Seconds between two changes."""


@dataclass
class Moments:
    world: World
    rng: random.Random
    living: dict[str, str] = field(default_factory=dict)
    """Name -> UID."""
    gone: dict[str, str] = field(default_factory=dict)
    done: Counter[str] = field(default_factory=Counter)
    _made: int = 0

    def create(self) -> None:
        name = f"moment-{self._made}"
        self._made += 1
        more: dict[str, Any] = {"compliance": {"certifications": ["GDPR"]}} if self._made % 5 == 0 else {}
        self.living[name] = self.world.tenant(name, self.rng.choice(TIERS), **more)

    def change(self, name: str) -> None:
        self.world.change(name, ai={"customInstructions": f"Change {self.done.total()}."})

    def spread(self, name: str) -> None:
        extra = [{"suffix": "dev", "weight": 1}] if self.rng.random() < 0.5 else None
        self.world.change(name, namespaces=extra)

    def move(self, name: str) -> None:
        self.world.change(name, tier=self.rng.choice(TIERS))

    def rotate(self, name: str) -> None:
        asked = {"metadata": {"annotations": {ROTATE: str(self.done.total())}}}
        self.world.patch(f"{GROUP}/tenants/{name}", asked)

    def delete(self, name: str) -> None:
        self.gone[name] = self.living.pop(name)
        self.world.remove(f"{GROUP}/tenants/{name}")

    def step(self) -> None:
        """One change; a deleted tenant is followed by a new one."""
        what = self.rng.choices(("change", "spread", "move", "rotate", "delete"), (5, 2, 4, 1, 2))[0]
        if len(self.living) < TENANTS:
            what = "create"
            self.create()
        else:
            getattr(self, what)(self.rng.choice(sorted(self.living)))
        self.done[what] += 1

    def converged(self, seconds: float) -> None:
        """Every tenant has exactly its own, and nothing is left of those that are gone."""
        world = self.world
        for name in self.living:
            world.ready(name, seconds)
            schema = f"tenant_{name.replace('-', '_')}"
            until(lambda n=name: not agrees(world, n, "tenantry"), f"what {name} has agrees", 120)  # type: ignore[misc]
            assert world.schemas(name) == {schema, f"{schema}__runtime"}
            counted = world.rows(f"SELECT count(*) FROM {schema}__runtime.configuration")
            assert counted == [(1,)], f"{name} has {counted[0][0]} configurations"
        for name, uid in self.gone.items():
            until(lambda n=name: world.get(f"{GROUP}/tenants/{n}") is None, f"{name} is gone", seconds)  # type: ignore[misc]
            assert not world.schemas(name), f"{name} left schemas"
            assert not world.roles(name), f"{name} left roles"
            assert not world.vector_things(uid), f"{name} left something in Milvus"
            kept = world.rows("SELECT count(*) FROM pg_namespace WHERE nspname LIKE %s", f"retained_{names.bare(uid)}%")
            assert kept == [(0,)], f"{name} was to be deleted, and was retained"
        status, said = world.scan()
        assert status == 0, said


def endure(world: World, place: Path, seed: int, kills: int, seconds: float) -> Moments:
    """Changes go on until the operator was killed so often; then all must converge within `seconds` each."""
    place.mkdir(exist_ok=True)
    (place / "phase").write_text("moments")
    moments = Moments(world, random.Random(seed))
    replica = world.start(
        "moments", module=MODULE, lease_seconds=15, TENANTRY_POD="moments",
        MORTAL_FOLDER=str(place), MORTAL_SEED=str(seed), MORTAL_SHARE=str(NEVER), MORTAL_MOMENTS=str(kills),
    )  # fmt: skip
    deadline = time.monotonic() + 60 * kills
    told = 0
    try:
        while (count := len(lines(place / "moments"))) < kills:
            assert time.monotonic() < deadline, f"killed {count} times only, and no more"
            moments.step()
            if count >= told + 10:
                told = count
                print(f"  killed {count} times; {dict(moments.done)}", flush=True)
            time.sleep(moments.rng.uniform(*PAUSE))
        moments.converged(seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}\nseed {seed}; log {replica.log}") from error
    replica.stop()
    ended = lines(place / "ended")
    assert not ended, f"{len(ended)} lives ended otherwise than by a kill: {', '.join(ended)}"
    return moments


def main() -> int:
    parser = command.parser("moments", "tenant")
    parser.add_argument("--kills", type=int, default=KILLS)
    options = parser.parse_args()
    started = time.monotonic()
    with command.alone(options.folder) as (world, folder):
        found = endure(world, folder / "lives", options.seed, options.kills, options.seconds)
    done = ", ".join(f"{count} {what}" for what, count in sorted(found.done.items()))
    print(
        f"killed at {options.kills} random moments (seed {options.seed}, {time.monotonic() - started:.0f} s) "
        f"during {done}: {len(found.living)} tenants Ready with exactly their own, nothing left of "
        f"{len(found.gone)} deleted, no orphan"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
