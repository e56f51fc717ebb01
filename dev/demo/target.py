"""Which cluster: ours (`make cluster-up`), or the one that KUBECONFIG names."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

from dev.cluster import paths
from dev.demo.kube import POD, SERVICE, Kube, running

KUBE = paths.BIN / "kube"


class ToolError(Exception):
    """A program failed; the text is its own last words."""


class Target:
    """One cluster, how to reach what runs in it, and the programs to handle it with."""

    def __init__(self, kubeconfig: Path, *, ours: bool, prometheus: str = "") -> None:
        self.kubeconfig = kubeconfig
        self.ours = ours
        self.prometheus = prometheus
        self.kube = Kube(kubeconfig)
        self._forwards: dict[tuple[str, str, int], tuple[subprocess.Popen[str], str]] = {}

    def close(self) -> None:
        """End the port-forwards."""
        self.kube.close()
        while self._forwards:
            child, _ = self._forwards.popitem()[1]
            child.terminate()
            child.wait(10)

    # -- programs ----------------------------------------------------------------

    def command(self, program: str, *arguments: str) -> list[str]:
        """kubectl or helm as the development cluster built them, else those on PATH."""
        if KUBE.exists():
            return [str(KUBE), program, *arguments]
        found = shutil.which(program)
        if not found:
            raise ToolError(f"{program} is not on PATH; install it, or run `make cluster-up` once, which builds it.")
        return [found, *arguments]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig)}

    def run(self, program: str, *arguments: str, stdin: str | None = None, timeout: float = 120) -> str:
        """Its output.  Raises ToolError with what it said on failure."""
        done = subprocess.run(
            self.command(program, *arguments),
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            env=self.environment(),
            cwd=paths.ROOT,
        )
        if done.returncode:
            raise ToolError(f"{program} {arguments[0]} failed: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.run("kubectl", *arguments, stdin=stdin)

    # -- ways in -----------------------------------------------------------------

    def service(self, namespace: str, name: str, port: int) -> str:
        """A URL at which this machine reaches a Service; raises ToolError where there is none."""
        found = self.kube.get(SERVICE, name, namespace)
        if found is None:
            raise ToolError(f"There is no Service {namespace}/{name}.")
        if not self.ours:
            # A forward to a Service stays with the Pod that it began with, also when that is gone.
            selector = ",".join(f"{key}={value}" for key, value in found["spec"]["selector"].items())
            pods = [pod["metadata"]["name"] for pod in self.kube.list(POD, namespace, selector) if running(pod)]
            if not pods:
                raise ToolError(f"Service {namespace}/{name} has no Pod that is ready.")
            return self._forward(namespace, f"pod/{min(pods)}", port)
        return f"http://{found['spec']['clusterIP']}:{port}"

    def pod(self, namespace: str, name: str, port: int) -> str:
        """The same for one Pod: kube-proxy's choice is not asked."""
        if not self.ours:
            return self._forward(namespace, f"pod/{name}", port)
        found = self.kube.get(POD, name, namespace)
        address = (found or {}).get("status", {}).get("podIP")
        if not address:
            raise ToolError(f"Pod {namespace}/{name} has no address.")
        return f"http://{address}:{port}"

    def runtime(self, tenant: str) -> str:
        """The base URL of a tenant's runtime, as the openai client takes it."""
        return self.service(f"runtime-{tenant}", "runtime", 8000) + "/v1"

    def _forward(self, namespace: str, what: str, port: int) -> str:
        key = (namespace, what, port)
        if key in self._forwards and self._forwards[key][0].poll() is None:
            return self._forwards[key][1]
        child = subprocess.Popen(
            self.command("kubectl", "-n", namespace, "port-forward", "--address=127.0.0.1", what, f":{port}"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment(),
        )
        assert child.stdout is not None
        limit = threading.Timer(30, child.kill)
        limit.start()
        said: list[str] = []
        for line in child.stdout:
            said.append(line.strip())
            found = re.match(r"Forwarding from (127\.0\.0\.1:\d+)", line)
            if found:
                limit.cancel()
                threading.Thread(target=_drain, args=(child,), daemon=True).start()
                url = f"http://{found[1]}"
                self._forwards[key] = (child, url)
                return url
        limit.cancel()
        child.wait(10)
        raise ToolError(f"kubectl port-forward {what} in {namespace} ended: {' '.join(said)}")


def _drain(child: subprocess.Popen[str]) -> None:
    """It writes a line for each connection, and would stop when nobody reads them."""
    assert child.stdout is not None
    for _ in child.stdout:
        pass


def run_module(arguments: Sequence[str]) -> int:
    """Another of our programs, with our output and no input; its exit status."""
    import sys

    return subprocess.run(
        [sys.executable, "-m", *arguments], stdin=subprocess.DEVNULL, check=False, cwd=paths.ROOT
    ).returncode
