"""CPU and memory of programs with all their children, from /proc (Linux)."""

import contextlib
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")

CORES = sorted(os.sched_getaffinity(0))
HALVES = {*CORES[: len(CORES) // 2]} or {*CORES}, {*CORES[len(CORES) // 2 :]}
"""The control plane's cores and everything else's, where the two are kept apart."""


def _stat(pid: int) -> list[str]:
    """The fields after the name, from `state` on (proc(5)); empty for a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def ended(pid: int) -> bool:
    """Whether a process is gone, or was not waited for yet."""
    return _stat(pid)[:1] in ([], ["Z"])


def _families() -> dict[int, list[int]]:
    """Parent -> children, of all processes."""
    found: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := _stat(int(entry))):
            found.setdefault(int(fields[1]), []).append(int(entry))
    return found


def cpu_seconds(roots: Mapping[str, int]) -> dict[str, float]:
    """Seconds of CPU of each program (its name -> its pid) since it began, ended children included."""
    families, found = _families(), {}
    for name, root in roots.items():
        ticks, left = 0, [root]
        while left:
            pid = left.pop()
            left += families.get(pid, ())
            # utime, stime, and those of the children that were waited for
            ticks += sum(int(field) for field in _stat(pid)[11:15])
        found[name] = ticks / TICKS
    return found


@contextlib.contextmanager
def beside() -> Iterator[None]:
    """This process, and what it starts meanwhile, leaves the control plane's cores alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, HALVES[1])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def awake() -> Iterator[None]:
    """No core sleeps meanwhile (Linux, as root): as cyclictest(8) does, for what wakes are not the program's own."""
    with Path("/dev/cpu_dma_latency").open("wb", buffering=0) as asked:  # holds for as long as it is open
        asked.write(struct.pack("i", 0))
        yield


def confine(pids: Iterable[int], cores: set[int]) -> None:
    """Every thread of these processes runs on these cores only, and so do those that it starts."""
    for pid in pids:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread), cores)


def megabytes(pid: int) -> float:
    """Resident memory of one process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024
