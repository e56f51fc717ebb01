"""Processes that outlive the program which started them: started detached, ended by pid and start time.

A pid alone names nobody for long: numbers are used again. The kernel's start time beside it does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

POLL = 0.05  # seconds between two looks at a process


@dataclass(frozen=True)
class Process:
    """One process: its pid and its start time as the system tells it (clock ticks on Linux)."""

    pid: int
    started: str

    def alive(self) -> bool:
        """Whether this very process still runs. A zombie has ended."""
        return started(self.pid) == self.started


def started(pid: int) -> str | None:
    """When the process with this pid started; None when there is none, or only its zombie."""
    if sys.platform == "linux":
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
            fields = stat.rpartition(")")[2].split()  # the name before it may hold spaces and brackets
            # While threads of an ended process remain, so do its ports and files.
            gone = fields[0] in "ZX" and len(os.listdir(f"/proc/{pid}/task")) <= 1
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if gone else fields[19]
    found = subprocess.run(
        ["ps", "-o", "stat=", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.strip()
    return None if not found or found.startswith("Z") else found.partition(" ")[2].strip()


def find(pid: int) -> Process | None:
    """The process that has this pid now."""
    when = started(pid)
    return Process(pid, when) if when else None


def spawn(
    command: Sequence[str | Path],
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | str = "/",
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, without input, its output appended to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        return subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=str(cwd),
            env=dict(env) if env is not None else None,
            start_new_session=True,
        )


def reap(pid: int) -> None:
    """Collect our own ended child, so that it does not stay behind as a zombie."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def end(process: Process, timeout: float, signals: Sequence[signal.Signals] = (signal.SIGTERM,)) -> None:
    """End a process and wait until it is gone.

    Each signal gets an equal share of `timeout` seconds; SIGKILL follows. Raises TimeoutError when the
    process survives even that for ten seconds.
    """
    for number, limit in [*((s, timeout / len(signals)) for s in signals), (signal.SIGKILL, 10.0)]:
        if not process.alive():
            break
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:
            break
        if wait_gone(process, limit):
            break
    else:
        raise TimeoutError(f"Process {process.pid} is still there after SIGKILL; look at it with ps.")
    reap(process.pid)


def wait_gone(process: Process, timeout: float) -> bool:
    """Wait at most `timeout` seconds for a process to end; whether it did."""
    deadline = time.monotonic() + timeout
    while process.alive():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL)
    return True


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log, for an error message; empty when there is none."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
