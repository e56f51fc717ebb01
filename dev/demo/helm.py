"""Helm, and what is shown while it waits."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Sequence
from typing import Any

import httpx

from dev.cluster import paths
from dev.demo.kube import POD, Refused, condition
from dev.demo.show import Show
from dev.demo.target import Target, ToolError
from tenantry.backends import kinds

NAMESPACE = "tenantry-system"
WAIT = "5m"


def upgrade(target: Target, release: str, chart: str, values: str, look: Callable[[], None]) -> None:
    """``helm upgrade --install --wait``; meanwhile look once a second.  Raises ToolError with Helm's words."""
    if target.ours:
        unstick(target, release)
    arguments = ["upgrade", "--install", release, chart, "-n", NAMESPACE, "-f", values, "--wait", "--timeout", WAIT]
    child = subprocess.Popen(
        target.command("helm", *arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=target.environment(),
        cwd=paths.ROOT,
    )
    done = threading.Event()

    def watch() -> None:
        while not done.wait(1):
            look()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        _, said = child.communicate(timeout=420)
    except BaseException:
        child.kill()
        child.wait(10)
        raise
    finally:
        done.set()
        watcher.join(30)
    look()
    if child.returncode:
        raise ToolError(f"helm upgrade {release} failed: {said.strip()}{why(target)}")


def unstick(target: Target, release: str) -> None:
    """Forget an upgrade that was killed under way: Helm would refuse every later one."""
    target.kubectl(
        "-n", NAMESPACE, "delete", "secrets", "--ignore-not-found", "-l",
        f"owner=helm,name={release},status in (pending-install,pending-upgrade,pending-rollback)",
    )  # fmt: skip


def why(target: Target) -> str:
    """What the operator and the tenants say, for an error message."""
    lines: list[str] = []
    try:
        lines += [
            f"Tenant {seen['metadata']['name']}: {condition(seen)['reason']}: {condition(seen)['message']}"
            for seen in target.kube.list(kinds.TENANT)
            if condition(seen)["status"] != "True"
        ]
        lines += target.kubectl("-n", NAMESPACE, "logs", "deploy/tenantry", "--tail=6").splitlines()
    except (Refused, ToolError, httpx.HTTPError) as problem:
        lines.append(str(problem))
    return "".join(f"\n  {line}" for line in lines)


def _silent() -> None:
    return None


def pods_of(target: Target, show: Show | None) -> Callable[[], None]:
    """Says how the operator's Pods are, when that changed."""
    if show is None:
        return _silent
    last = ""

    def look() -> None:
        nonlocal last
        found = []
        try:
            pods = target.kube.list(POD, NAMESPACE, "app.kubernetes.io/name=tenantry")
        except (Refused, httpx.HTTPError):
            return
        for pod in pods:
            states: list[Any] = list(pod["status"].get("containerStatuses", []))
            waiting = [s["state"]["waiting"]["reason"] for s in states if "waiting" in s["state"]]
            ready = bool(states) and all(s["ready"] for s in states)
            found.append("ready" if ready else ", ".join(waiting) or pod["status"]["phase"].lower())
        now = f"operator: {'; '.join(sorted(found)) or 'no Pod yet'}"
        if now != last:
            last = now
            show.line(now, 4)

    return look


def tenants_of(target: Target, show: Show, wanted: Sequence[str]) -> Callable[[], None]:
    """Says what each tenant waits for, when that changed."""
    last: dict[str, str] = {}
    parts = ("Namespaces", "Database", "Vectors", "Runtime")

    def look() -> None:
        for name in wanted:
            try:
                seen = target.kube.get(kinds.TENANT, name)
            except (Refused, httpx.HTTPError):
                return
            if seen is None:
                continue
            ready = condition(seen)
            if ready["status"] == "True":
                now = f"Ready: {ready['message']}"
            else:
                done = [
                    part.removesuffix("Ready").lower() for part in parts if condition(seen, part)["status"] == "True"
                ]
                now = f"{ready['reason']}" + (f"; there are: {', '.join(done)}" if done else "")
            if last.get(name) != now:
                last[name] = now
                show.line(f"{name:9}{now}", 4)

    return look
