"""Debian packages: what is missing, installed by name, without letting their services start."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from dev.cluster import paths
from dev.cluster.progress import ClusterError, run
from dev.cluster.settings import OPTIONAL_PACKAGES, PACKAGES

RECORD = paths.DEV / "packages.json"  # what we installed, to be undone
_POLICY = Path("/usr/sbin/policy-rc.d")
_SERVICES = {"containerd", "prometheus", "prometheus-node-exporter"}
_ENVIRONMENT = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}


def missing() -> list[str]:
    """The packages whose program is not there."""
    return sorted(name for name, file in PACKAGES.items() if not Path(file).exists())


def recorded() -> list[str]:
    """The packages that `install` brought, with those that came along."""
    try:
        names: list[str] = json.loads(RECORD.read_text())
    except (OSError, ValueError):
        return []
    return names


def install(names: list[str]) -> None:
    """Install packages and what they need; none of their services is started or stays enabled to start."""
    if not shutil.which("apt-get"):
        raise ClusterError(f"Install these programs first (there is no apt-get here): {', '.join(names)}.")
    before = _installed()
    run(["apt-get", "update", "-q"], timeout=300, env=_environment())
    known = [name for name in names if name not in OPTIONAL_PACKAGES or _available(name)]
    with _no_services():
        run(
            ["apt-get", "install", "-y", "-q", "--no-install-recommends", *known],
            timeout=900,
            env=_environment(),
        )
    new = _installed() - before
    if Path("/run/systemd/system").exists():  # nor at the next boot
        for service in _SERVICES & new:
            run(["systemctl", "disable", "--quiet", service], timeout=60)
    paths.DEV.mkdir(exist_ok=True)
    RECORD.write_text(json.dumps(sorted(new | set(recorded()))))


def purge() -> list[str]:
    """Remove what `install` brought; the names."""
    names = recorded()
    if names:
        run(["apt-get", "purge", "-y", "-q", *names], timeout=600, env=_environment())
    RECORD.unlink(missing_ok=True)
    return names


def _available(name: str) -> bool:
    policy = run(["apt-cache", "policy", name], timeout=60, env=_environment())
    return "Candidate:" in policy and "Candidate: (none)" not in policy


def _installed() -> set[str]:
    listing = run(["dpkg-query", "-W", "-f", "${db:Status-Abbrev} ${binary:Package}\n"], timeout=60)
    return {line.split()[1] for line in listing.splitlines() if line.startswith("ii")}


def _environment() -> dict[str, str]:
    return {**os.environ, **_ENVIRONMENT}


@contextlib.contextmanager
def _no_services() -> Iterator[None]:
    """While this lasts, packages are told not to start services (Debian's policy-rc.d; 101 means forbidden)."""
    kept = _POLICY.read_bytes() if _POLICY.exists() else None
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        if kept is None:
            _POLICY.unlink(missing_ok=True)
        else:
            _POLICY.write_bytes(kept)
