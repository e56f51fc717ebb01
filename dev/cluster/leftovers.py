"""What a cluster leaves on a machine when the programs that made it are gone: finding it, and removing it.

Processes, mounts, the bridge and its links, nftables tables, control groups, sockets and folders all outlive
their makers. `clean` ends a running cluster too: nothing here relies on its programs still working.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from dev.cluster import milvus, network, paths, process
from dev.cluster.progress import ClusterError, run
from dev.cluster.record import Record
from dev.cluster.settings import PODS

CGROUPS = Path("/sys/fs/cgroup")
NAMESPACES = Path("/run/netns")
_KUBELETS = {"kubelet", "k3s", "k3s-server", "k0s"}
_PROGRAMS = ("kube", "containerd", "prometheus", "postgres", "milvus", "buildah")
_MODULES = ("dev.provider", "dev.cluster.discovery")
# The node's own programs first, so that nothing is started again; what others build upon last.
_ORDER = ("kubelet", "kube-proxy", "prometheus", "discovery", "coredns", "provider", "milvus", "postgres",
          "kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd", "containerd")  # fmt: skip


def folders(checkout: Path) -> tuple[Path, ...]:
    """Where a checkout's cluster keeps what it has while it lives."""
    return (paths.RUN, paths.VAR, checkout / ".dev" / "state", checkout / ".dev" / "cache" / "buildah")


def scan(checkout: Path = paths.ROOT) -> list[str]:
    """One line for each thing that is left."""
    found = [f"process {pid} ({words[:80]})" for pid, words in _processes(checkout)]
    found += [f"mount {mount}" for mount in _mounts(checkout)]
    found += [f"network namespace {name}" for name in _namespaces()]
    if PODS:
        found += [f"network link {link}" for link in network.leftover_links()]
        found += [f"nftables table {family} {table}" for family, table in network.leftover_tables()]
        found += [f"iptables rule {rule}" for rule in network.leftover_rules()]
    found += [f"control group {group}" for group in _cgroups()]
    found += [f"folder {folder}" for folder in (paths.RUN, paths.VAR) if folder.exists()]
    return found


def stranger() -> str | None:
    """A Kubernetes that is not ours and shares this machine's network: its kubelet's name and pid."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            name = (entry / "comm").read_text().strip()
            same = os.readlink(entry / "ns" / "net") == os.readlink("/proc/self/ns/net")
            if name in _KUBELETS and same:
                return f"{name} (process {entry.name})"
    return None


def clean(record: Record | None, *, timeout: float = 30) -> None:
    """End and remove all of it: of the cluster in `record`, or, without one, of whoever died here."""
    checkout = Path(record.checkout) if record else paths.ROOT
    _end_recorded(record, timeout)
    for pid in _pids_in_cgroups():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for pid, _ in _processes(checkout):
        left = process.find(pid)
        if left:
            process.end(left, 5)
    for mount in reversed(_mounts(checkout)):
        run(["umount", "-l", mount], timeout=30)
    for name in _namespaces():
        run(["umount", "-l", NAMESPACES / name], timeout=30)
        (NAMESPACES / name).unlink(missing_ok=True)
    if PODS:
        network.stop()
    _remove_cgroups()
    if record:
        for file, value in record.sysctls.items():
            with contextlib.suppress(OSError):
                Path(file).write_text(value)
        for created in record.created:
            shutil.rmtree(created, ignore_errors=True)
    for folder in (checkout / ".dev" / "state", paths.VAR, paths.RUN):
        _remove(folder)


def _end_recorded(record: Record | None, timeout: float) -> None:
    alive = record.alive() if record else {}
    for name in sorted(alive, key=lambda name: _ORDER.index(name) if name in _ORDER else -1):
        if name == "containerd":  # it would hold its shims' mounts
            _end_containers()
        # PostgreSQL takes SIGINT for "now, but in order"; SIGTERM waits for its clients.
        first = signal.SIGINT if name == "postgres" else signal.SIGTERM
        # Milvus waits for half a minute for what nobody will need again.
        process.end(alive[name], 2 if name == "milvus" else timeout, (first,))
    if record and "milvus" in record.processes:
        milvus.forget(record.processes["milvus"].pid)


def _end_containers() -> None:
    for pid in _pids_in_cgroups():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while _pids_in_cgroups() and time.monotonic() < deadline:
        time.sleep(0.1)


def _remove(folder: Path) -> None:
    """Remove a folder, also one in which a dying program still writes."""
    deadline = time.monotonic() + 10
    while folder.exists():
        try:
            shutil.rmtree(folder)
        except OSError as error:
            if time.monotonic() > deadline:
                raise ClusterError(f"{folder} can't be removed: {error}") from error
            time.sleep(0.2)


def _processes(checkout: Path) -> list[tuple[int, str]]:
    """Our programs, by their name and the folder that they were told: pid and command line."""
    marks = [f"{folder}/" for folder in (*folders(checkout)[:3], checkout / ".dev" / "secrets")]
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            name = (entry / "comm").read_text()
            ours = name.startswith(_PROGRAMS) or any(f"-m {module}" in words for module in _MODULES)
            ours = ours and any(mark in words for mark in marks)
            pid = int(entry.name)
            if ours and process.started(pid):
                found.append((pid, words))
    return found


def _mounts(checkout: Path) -> list[str]:
    """What is mounted beneath our folders, outer before inner."""
    with contextlib.suppress(FileNotFoundError):
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        places = [line.split()[4].encode().decode("unicode_escape") for line in lines]
        mine = [f"{folder}/" for folder in folders(checkout)]
        return sorted(place for place in places if f"{place}/".startswith(tuple(mine)))
    return []


def _namespaces() -> list[str]:
    """The Pods' network namespaces, which containerd names cni-UUID."""
    if not PODS or not NAMESPACES.exists():
        return []
    return sorted(entry.name for entry in NAMESPACES.iterdir() if entry.name.startswith("cni-"))


def _cgroups() -> list[Path]:
    """The root of the Pods' control groups in each hierarchy."""
    if not PODS:
        return []
    return sorted({*CGROUPS.glob("kubepods"), *CGROUPS.glob("*/kubepods")})


def _pids_in_cgroups() -> list[int]:
    pids: set[int] = set()
    for group in _cgroups():
        for folder, _, _ in os.walk(group):  # which passes over groups that go meanwhile
            with contextlib.suppress(OSError):
                pids.update(int(line) for line in Path(folder, "cgroup.procs").read_text().split())
    return sorted(pids - {0})


def _deepest_first(group: Path) -> Iterator[Path]:
    for folder, _, _ in os.walk(group, topdown=False):
        yield Path(folder)


def _remove_cgroups() -> None:
    deadline = time.monotonic() + 10
    while groups := _cgroups():
        for group in groups:
            for folder in _deepest_first(group):
                with contextlib.suppress(OSError):
                    folder.rmdir()
        if time.monotonic() > deadline:
            return  # `scan` names them
        time.sleep(0.1)
