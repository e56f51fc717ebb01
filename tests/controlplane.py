"""A Kubernetes control plane for tests: etcd, API server and, on demand, the controller manager.

Real programs with real certificates on free loopback ports, their data in a folder of the test's own.  There is no
node: Pods stay Pending.  The programs end with the test run even when it is killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import ssl
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import yaml

from dev.cluster import net, process
from tests.certificates import Authority, Pair

ROOT = Path(__file__).resolve().parents[1]
KUBE = ROOT / ".dev" / "bin" / "kube"
KWOK = ROOT / ".dev" / "bin" / "kwok"
STAGES = Path(__file__).with_name("kwok.yaml")
CRDS = ROOT / "crds"
HOST = "127.0.0.1"
ATTEMPTS = 3
"""A free port may be taken between looking and listening: then everything starts again on others."""


class StartError(RuntimeError):
    """A part of the control plane did not come up; the message ends with its log's last lines."""


def poll(condition: Callable[[], bool], what: str, timeout: float = 60, every: float = 0.1) -> None:
    """Wait until `condition` holds; AssertionError that names `what` when it does not within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:.0f} s: {what}")
        time.sleep(every)


class ControlPlane:
    """Start with `start()` or as a context manager; `kubeconfig` is the admin's.

    Start it from a thread that lives as long as it shall: the kernel ends the programs with the thread.
    """

    def __init__(
        self, folder: Path, *, controllers: bool = False, environment: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self._environment = {**_environment(folder), **(environment or {})}
        self.kubeconfig = folder / "kubeconfig"
        self._wants_controllers = controllers
        self._running: dict[str, process.Process] = {}
        self._children: list[subprocess.Popen[bytes]] = []
        self._clients: list[httpx.Client] = []
        self._flags: dict[str, tuple[str, ...]] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        if not KUBE.exists():
            raise StartError(f"{KUBE} is missing: run `make cluster-up` once, which builds it.")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.authority = Authority(self.folder)
        self._server = self.authority.issue(
            "server", "kube-apiserver", hosts=[HOST, "localhost", "10.96.0.1", "kubernetes.default.svc"]
        )
        self.admin = self.authority.issue("admin", "admin", groups=["system:masters"])
        self._manager = self.authority.issue("manager", "system:kube-controller-manager")
        self._accounts = self.authority.issue("service-accounts", "service-accounts")
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._start_servers(attempt)
                break
            except StartError:
                self.stop()
                if attempt == ATTEMPTS:
                    raise
        if self._wants_controllers:
            self.start_controllers()

    def stop(self) -> None:
        """End every part, the API server's clients first.  May be called twice."""
        while self._clients:
            self._clients.pop().close()
        for name in reversed(list(self._running)):
            # Nothing of the data is wanted afterwards: a server that waits for its watches is not waited for.
            process.end(self._running.pop(name), timeout=2)
        while self._children:
            self._children.pop().wait(10)

    def restart(self, down_seconds: float = 0) -> None:
        """Kill the API server and start it on the same port with the same data, after `down_seconds`."""
        part = "kube-apiserver"
        process.end(self._running.pop(part), 10, (signal.SIGKILL,))
        time.sleep(down_seconds)
        self._spawn(part, *self._flags[part])
        self._wait(lambda: self._get("/readyz").status_code == 200, part)

    def start_controllers(self) -> None:
        """Start the controller manager, with all controllers that need no cloud, unless it runs."""
        if "kube-controller-manager" in self._running:
            return
        config = self._write_kubeconfig(self.folder / "manager.kubeconfig", self._manager)
        self._spawn(
            "kube-controller-manager",
            f"--kubeconfig={config}",
            f"--authentication-kubeconfig={config}",
            f"--authorization-kubeconfig={config}",
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={self._accounts.key}",
            f"--root-ca-file={self.authority.certificate}",
            "--leader-elect=false",
            "--secure-port=0",
            "--kube-api-qps=200",
            "--kube-api-burst=400",
        )
        name = "serviceaccounts/default"
        self._wait(
            lambda: self._get("/api/v1/namespaces/default/" + name).status_code == 200,
            "kube-controller-manager",
        )

    def start_fake_nodes(self, count: int = 2) -> None:
        """Nodes whose Pods run at once and cost nothing: kwok plays them, the scheduler fills them.

        kwok must be built: `dev.cluster.golang.build("kwok")`.  Start the controllers first.
        """
        scheduler = self.authority.issue("scheduler", "system:kube-scheduler")
        config = self._write_kubeconfig(self.folder / "scheduler.kubeconfig", scheduler)
        settings = self.folder / "scheduler.yaml"
        document = {
            "apiVersion": "kubescheduler.config.k8s.io/v1",
            "kind": "KubeSchedulerConfiguration",
            "clientConnection": {"kubeconfig": str(config), "qps": 200, "burst": 400},
            "leaderElection": {"leaderElect": False},
        }
        settings.write_text(yaml.safe_dump(document))
        self._spawn(
            "kube-scheduler",
            f"--config={settings}",
            f"--authentication-kubeconfig={config}",
            f"--authorization-kubeconfig={config}",
            "--secure-port=0",
        )
        self._spawn(
            "kwok",
            f"--kubeconfig={self.kubeconfig}",
            "--manage-all-nodes=true",
            "--cidr=10.64.0.0/12",
            "--node-ip=127.0.0.1",
            "--node-lease-duration-seconds=40",
            f"--config={STAGES}",
            "-v=WARN",
            program=[KWOK],
        )
        room = {"cpu": "100k", "memory": "100Ti", "ephemeral-storage": "1Pi", "pods": "1M"}
        for number in range(count):
            name = f"fake-{number}"
            answer = self._clients[0].post(
                "/api/v1/nodes",
                json={
                    "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}},
                    "status": {"capacity": room, "allocatable": room},
                },
            )
            if answer.status_code >= 300:
                raise StartError(f"node {name} was refused: {answer.text}")
        self._wait(lambda: self._nodes_ready() == count, "kwok")

    def _nodes_ready(self) -> int:
        nodes = self._get("/api/v1/nodes").json()["items"]
        conditions = [c for node in nodes for c in node["status"].get("conditions", ())]
        return sum(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    def pids(self) -> dict[str, int]:
        """Of the programs that run, by name."""
        return {name: running.pid for name, running in self._running.items()}

    def client(self, user: str = "", groups: Sequence[str] = ()) -> httpx.Client:
        """An HTTP client of the API server: the admin's, or one that acts as somebody else.  Closed by `stop()`."""
        headers = [("Impersonate-User", user)] if user else []
        headers += [("Impersonate-Group", group) for group in groups]
        tls = ssl.create_default_context(cafile=str(self.authority.certificate))
        tls.load_cert_chain(self.admin.certificate, self.admin.key)
        client = httpx.Client(base_url=self.url, verify=tls, headers=headers, timeout=30, trust_env=False)
        self._clients.append(client)
        return client

    def kubectl(
        self, *arguments: str, stdin: str = "", check: bool = True, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as the admin; `stdin` is its standard input."""
        found = subprocess.run(
            [KUBE, "kubectl", f"--kubeconfig={self.kubeconfig}", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            env=self._environment,
        )
        if check and found.returncode:
            raise AssertionError(f"kubectl {' '.join(arguments)} failed: {found.stderr.strip()}")
        return found

    def install_crds(self, folder: Path = CRDS) -> None:
        """Apply the CRDs and wait until their kinds are served."""
        self.kubectl("apply", "--server-side", "-f", str(folder))
        self.kubectl("wait", "--for=condition=Established", "--timeout=60s", "-f", str(folder), timeout=90)

    def _start_servers(self, attempt: int) -> None:
        etcd, peer, port = (net.free_port(HOST) for _ in range(3))
        self.url = f"https://{HOST}:{port}"
        self._write_kubeconfig(self.kubeconfig, self.admin)
        self._spawn(
            "etcd",
            f"--data-dir={self.folder}/etcd-{attempt}",
            f"--listen-client-urls=https://{HOST}:{etcd}",
            f"--advertise-client-urls=https://{HOST}:{etcd}",
            f"--listen-peer-urls=http://{HOST}:{peer}",
            f"--initial-advertise-peer-urls=http://{HOST}:{peer}",
            f"--initial-cluster=default=http://{HOST}:{peer}",
            f"--cert-file={self._server.certificate}",
            f"--key-file={self._server.key}",
            f"--trusted-ca-file={self.authority.certificate}",
            "--client-cert-auth",
            "--unsafe-no-fsync",
            "--log-level=warn",
        )
        self._spawn(
            "kube-apiserver",
            f"--etcd-servers=https://{HOST}:{etcd}",
            f"--etcd-cafile={self.authority.certificate}",
            f"--etcd-certfile={self.admin.certificate}",
            f"--etcd-keyfile={self.admin.key}",
            f"--bind-address={HOST}",
            f"--advertise-address={HOST}",
            f"--secure-port={port}",
            "--endpoint-reconciler-type=none",
            f"--tls-cert-file={self._server.certificate}",
            f"--tls-private-key-file={self._server.key}",
            f"--client-ca-file={self.authority.certificate}",
            "--authorization-mode=Node,RBAC",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self._accounts.certificate}",
            f"--service-account-signing-key-file={self._accounts.key}",
            "--allow-privileged=true",
        )
        self._wait(lambda: self._get("/readyz").status_code == 200, "kube-apiserver")

    def _spawn(self, part: str, *flags: str, program: Sequence[Path | str] = ()) -> None:
        self._flags[part] = flags
        log = self.folder / f"{part}.log"
        words = [*_ends_with_us(), *(program or (KUBE, part)), *flags]
        child = process.spawn(words, log, env=self._environment, cwd=self.folder)
        self._children.append(child)
        found = process.find(child.pid)
        if found is None:
            raise StartError(f"{part} ended at once:\n{process.tail(log)}")
        self._running[part] = found

    def _wait(self, ready: Callable[[], bool], part: str, timeout: float = 120) -> None:
        deadline = time.monotonic() + timeout
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if ready():
                    return
            dead = [name for name, found in self._running.items() if not found.alive()]
            if dead or time.monotonic() > deadline:
                name = dead[0] if dead else part
                what = "has ended" if dead else f"is not ready after {timeout:.0f} s"
                raise StartError(f"{name} {what}:\n{process.tail(self.folder / f'{name}.log')}")
            time.sleep(0.1)

    def _get(self, path: str) -> httpx.Response:
        if not self._clients:
            self.client()
        return self._clients[0].get(path, timeout=5)

    def _write_kubeconfig(self, path: Path, pair: Pair) -> Path:
        path.touch(mode=0o600)
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "tests",
                    "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "tests"}}],
                    "clusters": [
                        {
                            "name": "tests",
                            "cluster": {
                                "server": self.url,
                                "certificate-authority": str(self.authority.certificate),
                            },
                        }
                    ],
                    "users": [
                        {
                            "name": "tests",
                            "user": {"client-certificate": str(pair.certificate), "client-key": str(pair.key)},
                        }
                    ],
                }
            )
        )
        return path


def _ends_with_us() -> list[str]:
    """A prefix that has the kernel end the program when the test run ends, however that ends."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


def _environment(folder: Path) -> Mapping[str, str]:
    """Nothing of the caller's KUBECONFIG, proxies or kubectl's caches; memory is given for CPU, of which tests lack."""
    return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": str(folder), "GOGC": "400", "GOMEMLIMIT": "3GiB"}
