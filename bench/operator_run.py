"""One measured run of the operator: N tenants applied at once, until all are Ready, and then at rest."""

import statistics
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import httpx

from bench import processes
from bench.servers import OTHER, Servers, Watch, ready, say, wait
from tests.integration.operator.counting import objects, requests
from tests.integration.operator.world import GROUP, Replica

IDLE_SECONDS = 60
QUIET_SECONDS = 5
"""Without a write, after which a burst is over."""
RESYNC_SECONDS = 300
LEASE_SECONDS = 15
"""A leader on a machine that is busy on purpose is given more time than the chart's ten seconds."""
LONGEST_SECONDS = 3600


@dataclass
class Run:
    """What one run showed; times in seconds, CPU in milliseconds for each tenant, memory in MB."""

    tenants: int
    seconds: float
    """From the first apply until the last tenant was Ready."""
    took: dict[str, float]
    """Tenant -> from its apply to Ready."""
    cpu: dict[str, float]
    requests: Counter[str]
    """Of the operator to the API server until all were Ready, by verb and resource, Leases apart."""
    looks: float
    """How often it looked at a tenant until then."""
    objects: float = 0
    """Of a tenant, with its Secrets, AccessKey and Event; counted on the API server."""
    idle_writes: float = 0
    memory: float = 0
    start_seconds: float = 0
    """From the start of a second process until it leads and has listed everything."""
    look_seconds: float = 0
    """And until it has looked at every tenant in every store."""
    start_writes: float = 0
    start_memory: float = 0

    @property
    def rate(self) -> float:
        return self.tenants / self.seconds

    def percentile(self, percent: int, names: Iterable[str] | None = None) -> float:
        took = [self.took[name] for name in names] if names else list(self.took.values())
        return statistics.quantiles(took, n=100, method="inclusive")[percent - 1]


@dataclass(frozen=True)
class Planned:
    """One tenant to be applied; `counts` is False where it can't become Ready, since its region is away."""

    name: str
    tier: str = "free"
    region: str = ""
    counts: bool = True


def mixed(free: int, pro: int, enterprise: int) -> list[Planned]:
    """The three tiers, spread evenly."""
    sizes = {"free": free, "pro": pro, "enterprise": enterprise}
    places = [((n + 0.5) / size, tier, n) for tier, size in sizes.items() for n in range(size)]
    return [Planned(f"{tier}-{n}", tier) for _, tier, n in sorted(places)]


def fifths(count: int, *, answers: bool) -> list[Planned]:
    """Every fifth tenant is in region `other`, which answers or does not."""
    return [
        Planned(f"bad-{n}", region=OTHER, counts=answers) if n % 5 == 4 else Planned(f"good-{n}") for n in range(count)
    ]


def fill(servers: Servers, planned: list[Planned]) -> tuple[Run, Replica]:
    """Apply them and wait until all that can be are Ready; the operator goes on running."""
    world = servers.world
    replica = start(servers)
    wait(lambda: leads(replica), "a leader", 60, 0.2)
    watch = Watch(servers.plane, f"{GROUP}/tenants", ready)
    before, used = requests(replica), servers.cpu(replica)
    began = time.monotonic()
    applied: dict[str, float] = {}
    for one in planned:
        applied[one.name] = time.monotonic()
        world.tenant(one.name, one.tier, **({"region": one.region} if one.region else {}))
    wanted = {f"/{one.name}" for one in planned if one.counts}
    told = time.monotonic()

    def done() -> bool:
        nonlocal told
        if replica.process.poll() is not None:
            raise SystemExit(f"The operator has ended:\n{replica.log.read_text()[-2000:]}")
        if time.monotonic() - told > 30:
            told = time.monotonic()
            say(f"  {len(watch.seen)} of {len(wanted)} Ready after {told - began:.0f} s")
        return wanted <= watch.seen.keys()

    wait(done, f"{len(wanted)} tenants Ready", LONGEST_SECONDS)
    watch.stop()
    cpu, looks = servers.cpu(replica), replica.value("tenantry_reconcile_total")
    time.sleep(1)  # the last tenant's Event
    took = {one.name: watch.seen[f"/{one.name}"] - applied[one.name] for one in planned if one.counts}
    run = Run(
        tenants=len(wanted),
        seconds=max(watch.seen[name] for name in wanted) - began,
        took=took,
        cpu={name: 1000 * (cpu[name] - used[name]) / len(planned) for name in cpu},
        requests=requests(replica) - before,
        looks=looks,
    )
    say(
        f"  {run.tenants} Ready in {run.seconds:.1f} s, {run.rate:.2f}/s; p50 {run.percentile(50):.1f},"
        f" p95 {run.percentile(95):.1f} s; {sum(run.cpu.values()):.0f} ms of CPU each"
    )
    return run, replica


def rest(servers: Servers, run: Run, replica: Replica) -> None:
    """The same operator with nothing to write, then another process in its place.

    Of many tenants the first are due to be looked at again before the last are Ready: that writes nothing, and is not
    waited for.
    """
    world = servers.world
    run.objects = statistics.mean(objects(world).values())
    writes = written(replica)
    say(f"  at rest for {IDLE_SECONDS} s")
    time.sleep(IDLE_SECONDS)
    run.idle_writes = replica.writes() - writes
    run.memory = processes.megabytes(replica.process.pid)
    world.stop()
    began = time.monotonic()
    again = start(servers)
    wait(lambda: leads(again), "a leader again", 300, 0.1)
    run.start_seconds = time.monotonic() - began
    settle(again)
    run.look_seconds = time.monotonic() - began
    run.start_writes = again.writes()
    run.start_memory = processes.megabytes(again.process.pid)
    world.stop()


def start(servers: Servers) -> Replica:
    return servers.world.start(
        resync_seconds=RESYNC_SECONDS, lease_seconds=LEASE_SECONDS, module="bench.in_cluster", **servers.account
    )


def leads(replica: Replica) -> bool:
    try:
        return replica.value("tenantry_leader") == 1
    except httpx.HTTPError:
        return False


def written(replica: Replica) -> float:
    """Writes so far, once there was none for QUIET_SECONDS."""
    writes, since = replica.writes(), time.monotonic()

    def quiet() -> bool:
        nonlocal writes, since
        if (now := replica.writes()) != writes:
            writes, since = now, time.monotonic()
        return time.monotonic() - since > QUIET_SECONDS

    wait(quiet, "the burst's last write", 120, 1)
    return writes


def settle(replica: Replica) -> None:
    """Until nothing is in line, three looks in a row; each look costs the operator a page of metrics.

    Of many tenants some are always looked at again (resync), so that it never does nothing at all.
    """
    quiet = 0

    def look() -> bool:
        nonlocal quiet
        quiet = quiet + 1 if replica.value("tenantry_queue_depth") == 0 else 0
        return quiet == 3

    wait(look, "nothing in line or under way", 1800, 1)
