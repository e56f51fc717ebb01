"""How fast tenants become Ready: `python -m bench.provisioning`, about ten minutes; `--full` for all sizes.

`--tenants 100 500 2000` measures the sizes alone, in about half an hour; what is known is said as soon as it is.

Each size first measures the ceiling (the same objects, written by a plain client) and then the operator, each on
a control plane of its own with the controller manager, the scheduler and kwok's nodes, with a real PostgreSQL 18 and
a real Milvus 2.3.5.  Standard output is the markdown of docs/performance.md; standard error says how far it is.
"""

import argparse
import contextlib
import os
import signal
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from bench import ceiling, operator_run, processes
from bench.ceiling import Ceiling
from bench.operator_run import Planned, Run
from bench.servers import Fault, Servers, folder, say

Cells = list[str]


def table(head: Cells, rows: list[Cells]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def sizes(base: Path, counts: list[int], *, apart: bool) -> str:
    """The rows of each N, the CPU by program, and the requests by verb and resource."""
    measured: list[tuple[Ceiling, Run]] = []
    for count in counts:
        say(f"{count} tenants: the ceiling")
        most = ceiling.measure(base / f"raw-{count}", count, apart=apart)
        say(f"{count} tenants: the operator")
        with Servers(base / f"size-{count}", apart=apart) as servers:
            run, replica = operator_run.fill(servers, [Planned(f"n{count}-{i}") for i in range(count)])
            say(f"  {100 * run.rate / most.available:.0f} % of the ceiling, {most.available:.2f}/s")
            operator_run.rest(servers, run, replica)
        measured.append((most, run))
        print(report(measured[-1:]), flush=True)
    return report(measured) if len(measured) > 1 else ""


def report(measured: list[tuple[Ceiling, Run]]) -> str:
    runs = [run for _, run in measured]

    def row(text: str, cells: Cells) -> Cells:
        return [text, *cells]

    rows = [
        row("raw writes, tenants/s", [f"{m.written:.2f}" for m, _ in measured]),
        row("raw writes until Available, tenants/s", [f"{m.available:.2f}" for m, _ in measured]),
        row("**operator, until Ready, tenants/s**", [f"{r.rate:.2f}" for r in runs]),
        row("share of raw writes", [f"{100 * r.rate / m.written:.0f} %" for m, r in measured]),
        row("**share of raw writes until Available**", [f"{100 * r.rate / m.available:.0f} %" for m, r in measured]),
        row("p50 from apply to Ready, s", [f"{r.percentile(50):.1f}" for r in runs]),
        row("p95, s", [f"{r.percentile(95):.1f}" for r in runs]),
        row("objects of a tenant", [f"{r.objects:.0f}" for r in runs]),
        row("API requests for each", [f"{sum(r.requests.values()) / r.tenants:.2f}" for r in runs]),
        row("writes in 60 idle s", [f"{r.idle_writes:.0f}" for r in runs]),
        row("memory then, MB", [f"{r.memory:.0f}" for r in runs]),
        row("start-up with all present, s", [f"{r.start_seconds:.1f}" for r in runs]),
        row("and every tenant looked at, s", [f"{r.look_seconds:.1f}" for r in runs]),
        row("its writes", [f"{r.start_writes:.0f}" for r in runs]),
        row("memory after it, MB", [f"{r.start_memory:.0f}" for r in runs]),
    ]
    if len(runs) > 1:
        slope = 1000 * (runs[-1].memory - runs[0].memory) / (runs[-1].tenants - runs[0].tenants)
        rows.append(row("memory for each further tenant, kB", [*[""] * (len(runs) - 1), f"{slope:.0f}"]))
    head = ["tenants", *(str(r.tenants) for r in runs)]
    programs = list(runs[0].cpu)
    cpu = [
        [
            name,
            *(f"{r.cpu[name]:.0f} ({m.cpu[name]:.0f})" if name in m.cpu else f"{r.cpu[name]:.0f}" for m, r in measured),
        ]
        for name in programs
    ]
    cpu.append(["all", *(f"{sum(r.cpu.values()):.0f} ({sum(m.cpu.values()):.0f})" for m, r in measured)])
    kinds: Counter[str] = Counter()
    for run in runs:
        kinds |= run.requests
    requests = [
        [kind, *(f"{r.requests[kind] / r.tenants:.2f}" for r in runs)]
        for kind, _ in kinds.most_common()
        if any(r.requests[kind] / r.tenants >= 0.005 for r in runs)
    ]
    return "\n".join(
        (
            table(head, rows),
            table(["CPU for each tenant, ms (raw writes)", *head[1:]], cpu),
            table(["API requests for each tenant", *head[1:]], requests),
        )
    )


def tiers(base: Path, counts: tuple[int, int, int], *, apart: bool) -> str:
    """Seconds until tenants of all three tiers are Ready, and the CPU by program.

    The API server and etcd have cores of their own, and the controllers go where there is room: that is as fast as the
    whole machine is.
    """
    say(f"{sum(counts)} tenants of three tiers")
    with Servers(base / "tiers", apart=apart, spread=True) as servers:
        run, _ = operator_run.fill(servers, operator_run.mixed(*counts))
    free, pro, enterprise = counts
    used = [[name, f"{taken:.0f}"] for name, taken in (*run.cpu.items(), ("all", sum(run.cpu.values())))]
    became = table(
        ["free, pro, enterprise", "all Ready after, s", "tenants/s", "p50, s", "p95, s", "enterprise's p95, s"],
        [
            [
                f"{free}, {pro}, {enterprise}",
                f"{run.seconds:.1f}",
                f"{run.rate:.2f}",
                f"{run.percentile(50):.1f}",
                f"{run.percentile(95):.1f}",
                f"{run.percentile(95, [n for n in run.took if n.startswith('enterprise')]):.1f}",
            ]
        ],
    )
    return "\n".join((became, table(["CPU for each of them, ms", ""], used)))


@dataclass(frozen=True)
class Case:
    """One way in which a region's backends fail."""

    text: str
    postgres: Fault = ""
    milvus: Fault = ""


BAD = {
    "postgres-refuses": Case("PostgreSQL ends every connection", postgres="refuse"),
    "postgres-hangs": Case("PostgreSQL never answers", postgres="hang"),
    "postgres-slow": Case("PostgreSQL answers 2 s late", postgres="slow"),
    "milvus-refuses": Case("Milvus ends every connection", milvus="refuse"),
    "milvus-hangs": Case("Milvus never answers", milvus="hang"),
    "milvus-slow": Case("Milvus answers 2 s late", milvus="slow"),
}
WELL = Case("nothing")


def one_bad_backend(base: Path, count: int, cases: list[Case]) -> str:
    """The p95 of the tenants whose region is well, while a fifth of all are in one that is not.

    Each case directly after the same without it, so that a machine whose load drifts spoils no ratio.
    """
    rows: list[Cells] = []

    def measured(case: Case) -> tuple[float, Run]:
        """Of the others, p95 in seconds; and the whole run."""
        folder = Path(tempfile.mkdtemp(prefix="bad-", dir=base))
        with Servers(folder / "servers", postgres_fault=case.postgres, milvus_fault=case.milvus) as servers:
            run, _ = operator_run.fill(servers, operator_run.fifths(count, answers=case is WELL))
        return run.percentile(95, [name for name in run.took if name.startswith("good")]), run

    for case in cases:
        say(f"{count} tenants, all well")
        without, before = measured(WELL)
        say(f"{count} tenants, of a fifth {case.text}")
        p95, run = measured(case)
        rows.append(
            [
                case.text,
                f"{p95:.1f} ({without:.1f})",
                f"{p95 / without:.2f}",
                f"{run.cpu['operator']:.0f} ({before.cpu['operator']:.0f})",
                f"{run.looks / count:.1f} ({before.looks / count:.1f})",
            ]
        )
    head = [
        f"of {count} tenants, a fifth's",
        "p95 of the others, s (with all well)",
        "ratio",
        "operator's CPU, ms each",
        "looks at each",
    ]
    return table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.provisioning", description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="100, 500 and 2,000 tenants, and every kind of bad backend")
    parser.add_argument("--tenants", type=int, nargs="+", help="only these sizes")
    parser.add_argument("--together", action="store_true", help="the control plane shares its cores with all else")
    parser.add_argument("--tiers", type=int, nargs=3, metavar=("FREE", "PRO", "ENTERPRISE"), help="only these tiers")
    parser.add_argument("--bad", type=int, metavar="TENANTS", help="only the bad backends, with so many tenants")
    parser.add_argument("--case", choices=BAD, action="append", help="of the bad backends only this; again for more")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Ended on request."))  # so that no server stays behind
    counts = options.tenants or ([100, 500, 2000] if options.full else [100])
    only = bool(options.tenants or options.tiers or options.bad or options.case)
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores that all programs share; load average before: {load:.1f}\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="tenantry-bench-", dir=folder()) as name:
        base = Path(name)
        apart = not options.together
        with processes.beside() if apart else contextlib.nullcontext():
            if not only or options.tenants:
                print(sizes(base, counts, apart=apart), flush=True)
            if not only or options.tiers:
                print(tiers(base, tuple(options.tiers or (240, 50, 10)), apart=apart), flush=True)
        if not only or options.bad or options.case:
            some = BAD if options.full or options.bad else ("postgres-refuses", "milvus-refuses")
            cases = [BAD[name] for name in options.case or some]
            print(one_bad_backend(base, options.bad or 100, cases), flush=True)


if __name__ == "__main__":
    main()
