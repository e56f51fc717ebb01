"""One scenario through which the operator is killed around each of its effects.

``python -m tests.integration.survival.kills [SEED]`` runs it whole, in a world of its own, and prints the coverage.
The scenario runs with kills (mortal.py), and once without, which shows what must come out and which effects there
are.  After each phase both must have the same objects, roles, schemas, keys, audit rows and vectors.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tenantry import names
from tenantry.backends.kinds import CHILDREN, SECRET
from tests.integration.operator.world import GROUP, World, until
from tests.integration.survival import command

MODULE = "tests.integration.survival.mortal"
NEVER = 2**31
DATABASES = {"database": {"isolation": "Database"}, "vectors": {"isolation": "Database"}}
AUDITED = {"compliance": {"certifications": ["GDPR"]}}
"""Its audit outlives it, in the operator's archive."""
TENANTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "free": ("free", "Delete", {}),
    "pro": ("pro", "Retain", {}),
    "own": ("enterprise", "Delete", AUDITED),
    "base": ("enterprise", "Delete", {**DATABASES, **AUDITED}),
    "kept": ("enterprise", "Retain", DATABASES),
}
"""Name -> tier, policy of deletion, spec: every level of isolation and both policies."""
MOVES = {"free": "pro", "pro": "enterprise", "own": "pro", "base": "pro", "kept": "free"}

ROTATE = "tenantry.dev/rotate"

Shape = frozenset[str]


@dataclass
class Scenario:
    """One pass; `prefix` tells its tenants from another's."""

    world: World
    prefix: str
    dimension: int
    seconds: float
    """For each phase to converge."""
    tenants: tuple[str, ...]
    enter: Callable[[str], None] = print
    """Called with the name of each phase before it begins."""
    uids: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, dict[str, Shape]] = field(default_factory=dict)

    def run(self) -> None:
        for phase in (self.create, self.change, self.undo, self.rotate, self.move):
            self.enter(phase.__name__)
            phase()
            self.shapes[phase.__name__] = {name: self.converged(name) for name in self.tenants}
            self.scan_is_clean()
        self.enter("delete")
        self.delete()
        self.scan_is_clean()

    def name(self, tenant: str) -> str:
        return f"{self.prefix}-{tenant}"

    # -- phases ------------------------------------------------------------------------

    def create(self) -> None:
        for tenant in self.tenants:
            tier, policy, spec = TENANTS[tenant]
            vectors = {**spec.get("vectors", {}), "dimension": self.dimension}
            spec = {**spec, "vectors": vectors, "deletion": {"policy": policy}}
            self.uids[tenant] = self.world.tenant(self.name(tenant), tier, **spec)

    def change(self) -> None:
        """Settings, one more namespace, two more keys."""
        for tenant in self.tenants:
            for key in ("ci", "short"):
                self.world.create(
                    f"{GROUP}/namespaces/tenant-{self.name(tenant)}/accesskeys",
                    {"apiVersion": "tenantry.dev/v1alpha1", "kind": "AccessKey", "metadata": {"name": key}, "spec": {}},
                )
            extra = [{"suffix": "dev", "weight": 1}]
            self.world.change(self.name(tenant), ai={"customInstructions": "Be brief."}, namespaces=extra)

    def undo(self) -> None:
        """The namespace goes, one key is rotated, one is deleted."""
        for tenant in self.tenants:
            keys = f"{GROUP}/namespaces/tenant-{self.name(tenant)}/accesskeys"
            self.world.patch(f"{keys}/ci", {"metadata": {"annotations": {"tenantry.dev/rotate": "1"}}})
            self.world.remove(f"{keys}/short")
            self.world.change(self.name(tenant), namespaces=None)

    def rotate(self) -> None:
        """Every runtime's logins; asked for once, it is done once, however often the operator dies."""
        for tenant in self.tenants:
            self.world.patch(f"{GROUP}/tenants/{self.name(tenant)}", {"metadata": {"annotations": {ROTATE: "1"}}})
        for tenant in self.tenants:
            until(lambda t=tenant: self.turned(t), f"{self.name(tenant)} uses its new logins", self.seconds)

    def turned(self, tenant: str) -> bool:
        state = self.world.seen(self.name(tenant)).get("status", {}).get("credentials", {})
        return state.get("requested") == "1" and bool(state.get("rolledOutAt"))

    def move(self) -> None:
        for tenant in self.tenants:
            self.world.change(self.name(tenant), tier=MOVES[tenant])

    def delete(self) -> None:
        self.world.deleted(*map(self.name, self.tenants), seconds=self.seconds)
        for tenant, uid in self.uids.items():
            name = self.name(tenant)
            kept = TENANTS[tenant][1] == "Retain"
            assert not self.world.schemas(name), f"{name} left schemas"
            assert not self.world.roles(name), f"{name} left roles"
            things = self.world.vector_things(uid)
            assert bool(things) is kept, f"{name} by policy {TENANTS[tenant][1]} left {things} in Milvus"
            assert not [t for t in things if t.startswith(("user", "role"))], f"{name} left a login in Milvus: {things}"
            retained = self.world.rows("SELECT 1 FROM pg_namespace WHERE nspname = %s", f"retained_{names.bare(uid)}")
            databases = self.world.rows("SELECT 1 FROM pg_database WHERE datname = %s", f"retained_{names.bare(uid)}")
            assert bool(retained or databases) is kept, f"{name}: what is retained is not as its policy says"
            if "compliance" in TENANTS[tenant][2]:
                kept_rows = self.world.rows(
                    "SELECT event_type, count(*) FROM tenantry_archive.audit"
                    " WHERE replace(tenant_uid, '-', '') = %s GROUP BY 1",
                    names.bare(uid),
                )
                rows = dict(kept_rows)
                assert rows.get("deletion") == 1, f"{name}: the archive holds {rows}"
                assert rows.get("configuration_change"), f"{name}: the archive holds {rows}"
            left = [o for _, o in objects(self.world, name)]
            assert not left, f"{name} left {left}"

    # -- what came out --------------------------------------------------------------------

    def converged(self, tenant: str) -> Shape:
        """Ready, nothing on its way out, and the key of each AccessKey is the one that its Secret shows."""
        name = self.name(tenant)
        self.world.ready(name, self.seconds)

        try:
            until(lambda: not agrees(self.world, name, self.database(tenant)), f"what {name} has agrees", 120)
        except AssertionError as error:
            raise AssertionError(f"{error}: it {agrees(self.world, name, self.database(tenant))}") from None
        return self.shape(tenant)

    def database(self, tenant: str) -> str:
        name = self.name(tenant)
        return f"tenant_{name.replace('-', '_')}" if "database" in TENANTS[tenant][2] else "tenantry"

    def shape(self, tenant: str) -> Shape:
        """Everything by its name, the tenant's own left out of it."""
        world, name, uid = self.world, self.name(tenant), self.uids[tenant]
        schema = f"tenant_{name.replace('-', '_')}"
        database = self.database(tenant)
        found = [f"{k} {o['metadata'].get('namespace', '')}/{o['metadata']['name']}" for k, o in objects(world, name)]
        found += [f"role {r}" for r in world.roles(name)]
        found += [f"schema {s}" for s in world.schemas(name)]
        relations = world.rows(
            "SELECT n.nspname, c.relname, c.relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname IN (%s, %s) AND NOT c.relispartition",  # a new tenant's months come at a later look
            schema, f"{schema}__runtime", database=database,
        )  # fmt: skip
        found += [" ".join(r) for r in relations]
        counted = world.rows(f"SELECT count(*) FROM {schema}__runtime.configuration", database=database)
        found += [f"{counted[0][0]} rows of configuration", *(f"key {k}" for k in keys(world, name, database))]
        changes = world.rows(
            f"SELECT action, count(*)::text FROM {schema}__runtime.audit WHERE event_type = 'configuration_change'"
            " GROUP BY 1",
            database=database,
        )
        found += [f"{count} rows of the audit: {action}" for action, count in changes]
        things = world.vector_things(uid)
        found += [f"Milvus {t.replace(names.bare(uid), 'UID').replace(names.short(uid), 'UID')}" for t in things]
        assert len(found) == len(set(found)), f"{name} has something twice: {sorted(found)}"
        turn = world.seen(name)["status"].get("credentials", {}).get("generation", 0)
        # Which of the two logins is accepted beside the newer one is a matter of time.
        found = [re.sub(r"^(Milvus user .*)_[ab]$", r"\1", f) for f in found] + [f"generation {turn} of its logins"]
        return frozenset(f.replace(name, "NAME").replace(schema, "NAME") for f in found)

    def scan_is_clean(self) -> None:
        status, said = self.world.scan()
        assert status == 0, said


def objects(world: World, tenant: str) -> list[tuple[str, dict[str, Any]]]:
    """Every object of the API server that carries the tenant's label, and its keys."""
    selector = f"?labelSelector=tenantry.dev/tenant%3D{tenant}"
    found = [
        (kind.plural, item)
        for kind in (*CHILDREN, SECRET)
        for item in (world.get(kind.path() + selector) or {})["items"]
    ]
    keys = (world.get(f"{GROUP}/accesskeys") or {})["items"]
    inside = {f"tenant-{tenant}"} | {o["metadata"]["name"] for k, o in found if k == "namespaces"}
    return found + [("accesskeys", k) for k in keys if k["metadata"]["namespace"] in inside]


def keys(world: World, tenant: str, database: str) -> list[str]:
    """The names of the keys that the tenant's runtime knows; a rotated one is there twice for a while."""
    schema = f"tenant_{tenant.replace('-', '_')}__runtime"
    return [r[0] for r in world.rows(f'SELECT DISTINCT name FROM "{schema}".access_keys ORDER BY 1', database=database)]


def agrees(world: World, tenant: str, database: str) -> str:
    """Empty once nothing of it is on its way out and each AccessKey has its Secret and its row; else why not."""
    found = objects(world, tenant)
    wanted = sorted(o["metadata"]["name"] for k, o in found if k == "accesskeys")
    secrets = [o["metadata"]["name"] for k, o in found if k == "secrets"]
    shown = sorted(s.removeprefix("accesskey-") for s in secrets if s.startswith("accesskey-"))
    ending = [f"{k} {o['metadata']['name']}" for k, o in found if o["metadata"].get("deletionTimestamp")]
    if ending:
        return f"is still being deleted: {ending}"
    known = keys(world, tenant, database)
    return "" if wanted == shown == known else f"AccessKeys {wanted}, their Secrets {shown}, their rows {known} differ"


# -- both passes -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Coverage:
    """Moments are (phase, before or after, effect)."""

    killed: frozenset[tuple[str, str, str]]
    met: frozenset[tuple[str, str, str]]
    """In the pass with kills."""
    calm: frozenset[tuple[str, str, str]]
    """In the pass without."""
    ends: tuple[str, ...]
    """Exit codes of lives that ended otherwise than by our kill."""

    def line(self) -> str:
        after = {m for m in self.met | self.calm if m[1] == "after"}
        before = {m for m in self.met | self.calm if m[1] == "before"}
        return (
            f"killed after {len(after & self.killed)} of {len(after)} effects, "
            f"before {len(before & self.killed)} of {len(before)}"
        )

    @property
    def missed(self) -> list[str]:
        return ["\t".join(m) for m in sorted((self.met | self.calm) - self.killed)]


def one_pass(place: Path, scenario: Scenario, seed: int, share: int) -> None:
    """The whole scenario, killed at every `share`-th moment that the ledgers in `place` do not hold yet."""
    place.mkdir(exist_ok=True)
    started = time.monotonic()

    def enter(phase: str) -> None:
        (place / "next").write_text(phase)
        (place / "next").rename(place / "phase")
        print(f"  {time.monotonic() - started:5.0f} s  {scenario.prefix}: {phase}", flush=True)

    scenario.enter = enter
    enter("create")
    replica = scenario.world.start(
        scenario.prefix, module=MODULE, lease_seconds=15, TENANTRY_POD=scenario.prefix,
        MORTAL_FOLDER=str(place), MORTAL_SEED=str(seed), MORTAL_SHARE=str(share),
    )  # fmt: skip
    try:
        scenario.run()
    except AssertionError as error:
        last = (lines(place / "killed") or ["nothing"])[-1]
        raise AssertionError(f"{error}\nseed {seed}; the last kill: {last}; log {replica.log}") from error
    print(f"  {time.monotonic() - started:5.0f} s  {scenario.prefix}: done", flush=True)
    replica.stop()


def both_passes(
    world: World,
    folder: Path,
    seed: int,
    share: int,
    seconds: float,
    tenants: tuple[str, ...] = tuple(TENANTS),
    more: int = 0,
) -> Coverage:
    """Raises AssertionError where what comes out with kills differs from what comes out without.

    The kills come first, so that what is made once in an installation is met by them.  Of effects under way at the
    same time one kill is "after" one only: `more` passes, with new tenants, reach the others.
    """
    calm, killed = folder / "calm", folder / "killed"
    survived = Scenario(world, "mort", 24, seconds, tenants)
    one_pass(killed, survived, seed, share)
    peaceful = Scenario(world, "calm", 16, seconds, tenants)
    one_pass(calm, peaceful, seed, NEVER)
    passes = [survived]
    for number in range(more):
        if not coverage(killed, calm).missed:
            break
        passes.append(Scenario(world, f"mort{number}", 32 + number, seconds, tenants))
        one_pass(killed, passes[-1], seed, share)
    for scenario in passes:
        for phase, shapes in peaceful.shapes.items():
            for tenant, want in shapes.items():
                have = scenario.shapes[phase][tenant]
                difference = f"{tenant} lacks {sorted(want - have)} and has besides {sorted(have - want)}"
                assert want == have, f"seed {seed}: after {phase} of {scenario.prefix}, {difference}"
    return coverage(killed, calm)


def coverage(killed: Path, calm: Path) -> Coverage:
    return Coverage(
        moments(killed / "killed"), moments(killed / "seen"), moments(calm / "seen"), tuple(lines(killed / "ended"))
    )


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def moments(path: Path) -> frozenset[tuple[str, str, str]]:
    found = []
    for line in lines(path):
        phase, when, effect = line.split("\t")
        found.append((phase, when, effect))
    return frozenset(found)


def main() -> int:
    parser = command.parser("kills", "phase")
    parser.add_argument("--share", type=int, default=1, help="of all kills, only every how many-th")
    parser.add_argument("--quiet", action="store_true", help="do not list what was left out")
    options = parser.parse_args()
    started = time.monotonic()
    with command.alone(options.folder) as (world, folder):
        found = both_passes(world, folder, options.seed, options.share, options.seconds, more=4)
    if not options.quiet:
        print(*found.missed, sep="\n")
    print(f"{found.line()} (seed {options.seed}, {time.monotonic() - started:.0f} s)")
    if found.ends:
        print(f"{len(found.ends)} lives ended otherwise than by a kill: {', '.join(found.ends)}", file=sys.stderr)
    return 1 if found.missed or found.ends else 0


if __name__ == "__main__":
    sys.exit(main())
