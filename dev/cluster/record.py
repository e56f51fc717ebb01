"""What this machine's development cluster consists of: who started it, which processes, what it changed.

One machine holds one cluster, so the record lies outside any checkout, in RUN.
"""

from __future__ import annotations

import contextlib
import json
import threading
from dataclasses import dataclass, field
from pathlib import Path

from dev.cluster import paths
from dev.cluster.process import Process

_lock = threading.Lock()


@dataclass
class Record:
    """The checkout that owns the cluster, its processes by name, and what `down` puts back or removes."""

    checkout: str
    processes: dict[str, Process] = field(default_factory=dict)
    sysctls: dict[str, str] = field(default_factory=dict)  # file -> the value it had before
    created: list[str] = field(default_factory=list)  # folders outside the checkout that were not there

    @property
    def ours(self) -> bool:
        """Whether this checkout started it."""
        return self.checkout == str(paths.ROOT)

    def alive(self) -> dict[str, Process]:
        """Those of the processes that run."""
        return {name: process for name, process in self.processes.items() if process.alive()}

    def add(self, name: str, process: Process) -> None:
        """Note a process that was just started, before anything else can fail."""
        with _lock:
            self.processes[name] = process
            self._save()

    def change(self, sysctl: Path, value: str) -> None:
        """Set a kernel setting and remember what it was; a read-only one is left alone."""
        with contextlib.suppress(OSError):
            before = sysctl.read_text().strip()
            if before != value:
                sysctl.write_text(value)
                with _lock:
                    self.sysctls.setdefault(str(sysctl), before)
                    self._save()

    def will_create(self, *folders: Path) -> None:
        """Note folders that programs are about to make, so that `down` removes those that were not there."""
        with _lock:
            self.created += [str(f) for f in folders if not f.exists() and str(f) not in self.created]
            self._save()

    def save(self) -> None:
        """Write the record."""
        with _lock:
            self._save()

    def _save(self) -> None:
        paths.RUN.mkdir(parents=True, exist_ok=True, mode=0o755)
        document = {
            "checkout": self.checkout,
            "processes": {name: [p.pid, p.started] for name, p in self.processes.items()},
            "sysctls": self.sysctls,
            "created": self.created,
        }
        new = paths.OWNER.with_suffix(".new")
        new.write_text(json.dumps(document, indent=1))
        new.replace(paths.OWNER)


def load() -> Record | None:
    """The record of the cluster on this machine, running or dead; None when there is none."""
    try:
        document = json.loads(paths.OWNER.read_text())
        return Record(
            document["checkout"],
            {name: Process(pid, started) for name, (pid, started) in document["processes"].items()},
            document["sysctls"],
            document["created"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
