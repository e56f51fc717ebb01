"""What the runtime adds to a call: `python -m bench.runtime`, about seven minutes.

Against the bare provider and against LiteLLM's proxy in the same run: the same provider, whose answer is fixed and
instant, and the same load.  What is measured has a core of its own.  Standard output is the markdown of
docs/performance.md; standard error says how far it is.  `--soak SECONDS` instead looks for what grows.
"""

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import load, processes, runtime_soak
from bench.load import NUMBER, Plan, Result
from bench.provisioning import table
from bench.runtime_servers import LITELLM_KEY, Servers, first_answer, litellm, servers, start_seconds
from bench.servers import say
from dev.cluster import net

SYSTEM = "Answer briefly and politely, in the customer's own language, and quote the terms where they apply."
QUESTION = (
    f"Order {NUMBER.decode()}: I returned two of the three things that I ordered last month. When do I get my "
    "money back, is it the whole sum or without the postage, and do I have to do anything more for it?"
)


@dataclass
class Target:
    """Something that answers chat requests.  `pid` 0: nothing whose CPU or memory is looked at."""

    name: str
    port: int
    key: str
    pid: int = 0
    results: dict[str, list[Result]] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)

    def plan(self, stream: bool, **more: Any) -> Plan:
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION}]
        body: dict[str, Any] = {"model": "gpt-4o-mini", "messages": messages, "max_tokens": 100}
        if stream:
            body["stream"] = True
        text = json.dumps(body, separators=(",", ":"))
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {self.key}\r\nContent-Length: {len(text)}\r\n\r\n"
        )
        started = int.from_bytes(os.urandom(4)) // 2
        return Plan(self.port, head, text, started=started, **more)


KINDS = {"whole": False, "stream": True}
SHARES = {"half": 2, "a quarter": 4, "an eighth": 8}
"""Of the rate that 50 callers reach."""


def percent(values: list[float], number: int) -> float:
    """A percentile in milliseconds."""
    return 1000 * statistics.quantiles(values, n=100, method="inclusive")[number - 1]


class Bench:
    def __init__(self, env: Servers, targets: list[Target], seconds: float) -> None:
        self.env, self.targets, self.seconds = env, targets, seconds
        self.bare, self.ours = targets[0], targets[1]
        self.database: dict[str, float] = {}

    def measure(self, target: Target, case: str, plan: Plan) -> Result:
        before, database = self.used(target), self.env.postgres_cpu()
        child = load.start(plan)
        result = load.finish(child)
        if result.wrong > len(result.took) / 100:
            raise SystemExit(f"{target.name}, {case}: {result.wrong} calls failed, such as: {result.sample}")
        # what the warming up took is in it, and so are its calls
        calls = len(result.took) + plan.warm
        target.cpu[case] = 1000 * (self.used(target) - before) / calls
        if target is self.ours:
            self.database[case] = 1000 * (self.env.postgres_cpu() - database) / calls
        if target.pid:
            target.memory[case] = processes.megabytes(target.pid)
        target.results.setdefault(case, []).append(result)
        say(
            f"  {target.name}, {case}: {len(result.took) / result.seconds:.0f}/s, p50 {percent(result.took, 50):.2f} ms"
        )
        return result

    def used(self, target: Target) -> float:
        return processes.cpu_seconds({"it": target.pid})["it"] if target.pid else 0.0

    # --- One at a time ---

    def alone(self) -> str:
        """Added latency at concurrency 1, the targets in turn."""
        for _ in range(3):
            for kind, stream in KINDS.items():
                for target in self.targets:
                    self.measure(target, f"alone {kind}", target.plan(stream, seconds=self.seconds / 3))
        return self.latencies("alone", "one call at a time")

    def latencies(self, case: str, title: str) -> str:
        rows = []
        for kind in KINDS:
            bare = self.values(self.bare, f"{case} {kind}")
            for target in self.targets:
                if f"{case} {kind}" not in target.results:
                    continue
                took = self.values(target, f"{case} {kind}")
                cells = [f"{percent(took, n):.2f}" for n in (50, 95, 99)]
                added = [f"{percent(took, n) - percent(bare, n):.2f}" for n in (50, 95, 99)]
                rows.append(
                    [
                        f"{kind}, {target.name}",
                        str(len(took)),
                        *cells,
                        *(added if target is not self.bare else [""] * 3),
                    ]
                )
        return table([title, "calls", "p50, ms", "p95", "p99", "added p50", "added p95", "added p99"], rows)

    def values(self, target: Target, case: str) -> list[float]:
        return [value for result in target.results[case] for value in result.took]

    # --- As many as it takes ---

    def crowded(self) -> str:
        """Throughput and CPU of a call at concurrency 10 and 50."""
        rows = []
        for kind, stream in KINDS.items():
            for connections in (10, 50):
                case = f"{connections} {kind}"
                for target in self.targets:
                    self.measure(target, case, target.plan(stream, connections=connections, seconds=self.seconds))
                rows += [self.crowd(target, case) for target in self.targets]
        head = ["callers", "calls a second", "times LiteLLM's", "p50, ms", "p99, ms", "CPU of a call, ms",
                "LiteLLM's is so many times that", "PostgreSQL's", "own core", "the load's core"]  # fmt: skip
        return table(head, rows)

    def crowd(self, target: Target, case: str) -> list[str]:
        (result,) = target.results[case]
        rate = len(result.took) / result.seconds
        ratio = cpu = ""
        if target is self.ours and len(self.targets) > 2:
            theirs = self.targets[2]
            (other,) = theirs.results[case]
            ratio = f"{rate / (len(other.took) / other.seconds):.1f}"
            cpu = f"{theirs.cpu[case] / target.cpu[case]:.1f}"
        busy = target.cpu[case] * rate / 1000
        return [
            f"{case.split()[0]}, {case.split()[1]}, {target.name}",
            f"{rate:.0f}",
            ratio,
            f"{percent(result.took, 50):.1f}",
            f"{percent(result.took, 99):.1f}",
            f"{target.cpu[case]:.2f}" if target.pid else "",
            cpu,
            f"{self.database[case]:.2f}" if target is self.ours else "",
            f"{100 * busy:.0f} %" if target.pid else "",
            f"{100 * result.cpu / result.seconds:.0f} %",
        ]

    # --- At moments of their own ---

    def open(self) -> str:
        """Added latency at half of the rate that our own core can do, and at less, at random moments."""
        notes, tables = [], []
        for name, share in SHARES.items():
            for kind, stream in KINDS.items():
                case = f"50 {kind}"
                if case not in self.ours.results:
                    self.measure(self.ours, case, self.ours.plan(stream, connections=50, seconds=self.seconds))
                (most,) = self.ours.results[case]
                rate = len(most.took) / most.seconds / share
                for target in self.targets[:2]:
                    plan = target.plan(stream, connections=20, rate=rate, seconds=2 * self.seconds)
                    result = self.measure(target, f"{name} {kind}", plan)
                    busy = 100 * result.cpu / result.seconds
                    notes.append(
                        f"{name}, {kind}, {target.name}: {rate:.0f} calls a second planned, at most {result.most_open} "
                        f"connections, sent late by {percent(result.late, 99):.2f} ms at p99, "
                        f"the load's core {busy:.0f} %."
                    )
            tables.append(self.latencies(name, f"{name} of saturation, at random moments"))
        return "\n".join([*tables, " ".join(notes), ""])

    def memory(self) -> str:
        rows = []
        for target in self.targets[1:]:
            most = max((v for case, v in target.memory.items() if case != "idle"), default=0.0)
            rows.append([target.name, f"{target.memory['idle']:.0f}", f"{most:.0f}" if most else ""])
        return table(["memory, MB", "idle", "under load, at most"], rows)


def starts(env: Servers, folder: Path, with_litellm: bool) -> str:
    """From the start of a process to its first answer, the best and the worst of some."""
    ours = [start_seconds(env, net.free_port()) for _ in range(3)]
    rows = [["runtime", f"{statistics.median(ours):.1f}", f"{max(ours):.1f}"]]
    if with_litellm:
        theirs = []
        for _ in range(2):
            began = time.monotonic()
            with litellm(folder, env.provider_port, own_core=False) as (port, pid):
                first_answer(port, LITELLM_KEY, pid)
                theirs.append(time.monotonic() - began)
        rows.append(["LiteLLM", f"{statistics.median(theirs):.1f}", f"{max(theirs):.1f}"])
    return table(["first answer after start, s", "median", "longest"], rows)


@contextlib.contextmanager
def targets(env: Servers, folder: Path, with_litellm: bool) -> Iterator[list[Target]]:
    with contextlib.ExitStack() as stack:
        replica = stack.enter_context(env.replica())
        port = int(replica.url.rpartition(":")[2])
        found = [Target("bare", env.provider_port, "x"), Target("runtime", port, env.tenant.key, replica.child.pid)]
        if with_litellm:
            port, pid = stack.enter_context(litellm(folder, env.provider_port))
            first_answer(port, LITELLM_KEY, pid)
            found.append(Target("LiteLLM", port, LITELLM_KEY, pid))
        for target in found:
            if target.pid:
                target.memory["idle"] = processes.megabytes(target.pid)
        yield found


PARTS = ("start", "alone", "crowded", "open")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.runtime", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=8, help="of each figure")
    parser.add_argument("--no-litellm", action="store_true", help="do not compare with it")
    parser.add_argument("--awake", action="store_true", help="let no core sleep meanwhile (root): what do wakes cost?")
    parser.add_argument("--soak", type=float, metavar="SECONDS", help="mixed calls for so long: does anything grow?")
    options = parser.parse_args()
    load_before = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores; load average before: {load_before:.1f}\n", flush=True)
    sleepless = processes.awake() if options.awake else contextlib.nullcontext()
    with tempfile.TemporaryDirectory(prefix="tenantry-bench-") as name, processes.beside(), sleepless:
        folder = Path(name)
        with servers(folder) as env:
            if options.soak:
                raise SystemExit(runtime_soak.soak(env, options.soak))
            if "start" in options.only:
                print(starts(env, folder, not options.no_litellm), flush=True)
            if set(options.only) - {"start"}:
                with targets(env, folder, not options.no_litellm) as found:
                    bench = Bench(env, found, options.seconds)
                    for part in ("alone", "crowded", "open"):
                        if part in options.only:
                            print(getattr(bench, part)(), flush=True)
                    print(bench.memory(), flush=True)


if __name__ == "__main__":
    main()
