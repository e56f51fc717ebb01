"""Starting one of the cluster's programs: only when it does not run, recorded at once, waited for."""

from __future__ import annotations

import os
import ssl
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dev.cluster import net, paths, process
from dev.cluster.progress import ClusterError
from dev.cluster.record import Record


@dataclass(frozen=True)
class Service:
    """A program that runs in the background: its command, the ports it takes, how to tell that it is ready."""

    name: str
    command: Sequence[str | Path]
    ready: Callable[[], bool]
    ports: Sequence[tuple[str, int]] = ()
    env: Mapping[str, str] | None = None
    timeout: float = 60

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return paths.LOGS / f"{self.name}.log"

    def start(self, record: Record) -> bool:
        """Start it unless it runs, and wait until it is ready; whether it had to be started."""
        running = record.processes.get(self.name)
        fresh = not (running and running.alive())
        if fresh:
            for host, port in self.ports:
                if not net.can_bind(host, port):
                    raise ClusterError(
                        f"{self.name} needs port {port} on {host}, which is in use: "
                        "end what listens there (`ss -tlnp` tells)."
                    )
            child = process.spawn(self.command, self.log, env={**os.environ, **(self.env or {})})
            running = process.find(child.pid)
            if running is None:
                raise ClusterError(f"{self.name} ended at once. {self._last_words()}")
            record.add(self.name, running)
        deadline = time.monotonic() + self.timeout
        while not self.ready():
            if not (running and running.alive()):
                raise ClusterError(f"{self.name} ended. {self._last_words()}")
            if time.monotonic() > deadline:
                raise ClusterError(f"{self.name} was not ready within {self.timeout:.0f} s. {self._last_words()}")
            time.sleep(0.2)
        return fresh

    def _last_words(self) -> str:
        return f"{self.log} ends:\n{process.tail(self.log)}"


def http_ok(url: str, authority: Path | None = None, pair: tuple[Path, Path] | None = None) -> bool:
    """Whether an HTTP server answers 200 there; `authority` and `pair` for TLS."""
    context = None
    if authority:
        context = ssl.create_default_context(cafile=str(authority))
        if pair:
            context.load_cert_chain(*pair)
    try:
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        with opener.open(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
