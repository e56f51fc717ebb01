"""Everything that must pass, in parts: ``python -m dev.checks [lint|unit|integration|e2e ...]``.

Without a part all run, one after the other; a part that fails does not keep the next ones from running, and
makes the exit status 1.  What is up of the development cluster stays up; what was not is stopped again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from dev.cluster import paths

PYTHON = sys.executable
BIN = str(paths.DEV / "venv" / "bin")
KUBE = str(paths.BIN / "kube")

PYTEST = [PYTHON, "-m", "pytest", "--durations=5"]
SERVERS = ["--reruns=1"]
"""Real servers now and then answer late: a test that fails is tried once more, and is shown as a rerun to mend."""
AT_ONCE = 2
"""Integration suites at a time: each has servers of its own, and most of its time is waiting for them."""
LONG = ("tests/integration/operator", "tests/integration/survival")
"""Begun first."""
LINT: tuple[tuple[str, ...], ...] = (
    (f"{BIN}/ruff", "check", "."),
    (f"{BIN}/ruff", "format", "--check", "."),
    (f"{BIN}/mypy",),
    (f"{BIN}/lint-imports", "--no-cache"),
    (PYTHON, "-m", "tenantry.api.crd", "--check", "crds", "charts/tenantry/crds"),
)
CHARTS = {
    "charts/tenantry": "region.postgres.host=10.0.0.1,region.milvus.uri=http://10.0.0.1,region.provider.baseUrl=http://10.0.0.1",
    "charts/tenants": "tenants[0].name=acme,tenants[0].spec.displayName=Acme",
}
"""Each chart with the values that it can't do without."""


def lint() -> bool:
    """Every check, so that one run names everything there is to mend."""
    results = [run(command) for command in LINT]
    if os.path.exists(KUBE):
        results += [
            run((KUBE, "helm", "lint", "--strict", "--quiet", chart, "--set", given)) for chart, given in CHARTS.items()
        ]
    else:
        print("  The charts were not looked at: that needs `make cluster-up` once.")
    return all(results)


def unit() -> bool:
    return run([*PYTEST, "tests/unit"])


def integration() -> bool:
    """One process for each folder, so that no suite's servers outlive it; two at a time, since they mostly wait."""
    folders = sorted({test.parent for test in (paths.ROOT / "tests" / "integration").glob("*/test_*.py")})
    suites = sorted((str(f.relative_to(paths.ROOT)) for f in folders), key=lambda f: f not in LONG)
    lock = threading.Lock()

    def suite(folder: str) -> bool:
        began = time.monotonic()
        with lock:
            print(f"  $ {shown([*PYTEST, *SERVERS, folder])}    (begun; what it says comes at its end)", flush=True)
        done = subprocess.run(
            [*PYTEST, *SERVERS, folder],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=paths.ROOT, check=False,
        )  # fmt: skip
        with lock:
            sys.stdout.write(done.stdout.decode(errors="replace"))
            print(f"  {folder} ended after {time.monotonic() - began:.0f} s", flush=True)
        return done.returncode == 0

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return all(list(pool.map(suite, suites)))


def e2e() -> bool:
    return run([*PYTEST, *SERVERS, "tests/e2e"])


PARTS = {"lint": lint, "unit": unit, "integration": integration, "e2e": e2e}
NEED_PROGRAMS = frozenset({"integration", "e2e"})


def shown(command: Sequence[str]) -> str:
    """As somebody would type it."""
    text = " ".join(word.removeprefix(f"{BIN}/").replace(PYTHON, "python") for word in command)
    return text.replace(KUBE + " helm", "helm")


def run(command: Sequence[str]) -> bool:
    """Run one program with our output and no input; whether it succeeded."""
    print(f"  $ {shown(command)}", flush=True)
    return subprocess.run(command, stdin=subprocess.DEVNULL, cwd=paths.ROOT, check=False).returncode == 0


def cluster_is_up() -> bool:
    return (
        subprocess.run(
            [PYTHON, "-m", "dev.cluster", "status"],
            stdin=subprocess.DEVNULL, capture_output=True, cwd=paths.ROOT, check=False,
        ).returncode == 0
    )  # fmt: skip


def cluster(what: str) -> bool:
    return run([PYTHON, "-m", "dev.cluster", what])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dev.checks", description="Lint and test.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all when none is named")
    wanted: list[str] = parser.parse_args(arguments).parts or list(PARTS)
    if unknown := [part for part in wanted if part not in PARTS]:
        parser.error(f"there is no part {unknown[0]!r}; there are {', '.join(PARTS)}")

    started_here, failed = False, []
    try:
        if NEED_PROGRAMS & set(wanted) and not os.environ.get("KUBECONFIG") and not cluster_is_up():
            print("== cluster: it is not up, so it is started for these tests and stopped afterwards", flush=True)
            started_here = True
            if not cluster("up"):
                failed.append("cluster")
                wanted = [part for part in wanted if part not in NEED_PROGRAMS]
        for number, part in enumerate(wanted, 1):
            print(f"== {part} ({number} of {len(wanted)})", flush=True)
            began = time.monotonic()
            good = PARTS[part]()
            print(f"== {part}: {'passed' if good else 'FAILED'} after {time.monotonic() - began:.0f} s", flush=True)
            if not good:
                failed.append(part)
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        failed.append("interrupted")
    finally:
        if started_here and not cluster("down"):
            failed.append("cluster-down")
    if failed:
        print(f"Not everything passed: {', '.join(failed)}.", file=sys.stderr)
        return 1
    print(f"Everything passed: {', '.join(wanted)}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
