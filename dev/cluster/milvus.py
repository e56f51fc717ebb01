"""A Milvus 2.3.5 server of our own, for the development cluster and for tests.

It is the server from PyPI's package `milvus`, run without its wrapper, which takes fixed ports and
leaves its child behind. Each server here has ports of its own, so that several run side by side. The
server listens on every interface, whatever it is told; `dev.cluster.network` closes the cluster's ports to
other machines.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import re
import shutil
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dev.cluster import net, process
from dev.cluster.milvus_program import MilvusError, programs

DEFAULT_PASSWORD = "Milvus"  # what every new server gives its user root
RAISED = {  # enough for hundreds of tenants with a user of their own; the defaults are 10, 100 and 64
    "proxy.maxRoleNum": 2000,
    "proxy.maxUserNum": 4000,
    "rootCoord.maxDatabaseNum": 1000,
}
FOLDERS = (Path("/run/milvus"), Path("/tmp/milvus"))
_INNER_PORTS = {  # setting -> the port's name in our record
    "proxy.internalPort": "internal",
    "rootCoord.port": "root_coord",
    "queryCoord.port": "query_coord",
    "queryNode.port": "query_node",
    "dataCoord.port": "data_coord",
    "dataNode.port": "data_node",
    "indexNode.port": "index_node",
}


def forget(pid: int) -> None:
    """Remove what an ended server leaves in the two folders that it writes to whatever it is told."""
    for folder in FOLDERS:
        mark = folder / f"server_id_{pid}"
        named = folder / "standalone.pid"
        with contextlib.suppress(OSError):
            mark.unlink(missing_ok=True)
            if named.exists() and named.read_text().strip() == str(pid):
                named.unlink()
            folder.rmdir()  # stays while another server has a file there


class Server:
    """One standalone server: `start()` makes its data directory, `stop()` leaves no process behind.

    `port` 0 takes a free one. `settings` are milvus.yaml's, with dots: `{"proxy.maxRoleNum": 100}`. Another
    process can make the same object (same `data`) and stop the server or ask it.
    """

    def __init__(
        self,
        data: Path,
        port: int = 0,
        listen: str = "127.0.0.1",
        authorization: bool = True,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.data = data.absolute()
        self.listen = listen
        self.authorization = authorization
        self.settings = dict(settings or {})
        self.log = self.data / "milvus.log"
        self._record = self.data / "process.json"
        recorded = self._read_record()
        self.port = port or int(recorded.get("port") or net.free_port())

    @property
    def uri(self) -> str:
        """Where a client connects."""
        return f"http://{self.listen}:{self.port}"

    # Life

    def start(self, timeout: float = 120) -> None:
        """Start the server and wait, at most `timeout` seconds, until it is healthy; fine when it is.

        A server that starts over old data now and then hangs: it is started a second time.
        """
        if self.ready():
            return
        self.stop()
        try:
            self._start_once(timeout)
        except MilvusError:
            self.stop()
            self._start_once(timeout)

    def stop(self, timeout: float = 30) -> None:
        """Stop the server and wait until its process is gone; fine when there is none."""
        running = self.process()
        if running:
            self._forget_sessions()
            process.end(running, timeout, (signal.SIGTERM,))
            forget(running.pid)
        if self._record.exists():
            self._write_record({"port": self.port})

    def process(self) -> process.Process | None:
        """The running server's process, by our own record; None when it does not run."""
        recorded = self._read_record()
        if "pid" not in recorded:
            return None
        found = process.Process(int(recorded["pid"]), str(recorded["started"]))
        return found if found.alive() else None

    def ready(self) -> bool:
        """Whether our server, not just any on that port, says that it is healthy."""
        recorded = self._read_record()
        if not self.process() or "metrics" not in recorded:
            return False
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{recorded['metrics']}/healthz", timeout=5) as answer:
                healthy = b"OK" in answer.read()
        except (OSError, urllib.error.URLError):
            return False
        return healthy and net.answers("127.0.0.1", self.port)

    # Use

    def prepare(self, password: str) -> None:
        """Give user `root` this password instead of the well-known one. Safe to repeat."""
        from pymilvus import MilvusClient  # 130 MB: only where it is needed

        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs a traceback for a refused password
        deadline = time.monotonic() + 60
        while True:
            for known in (password, DEFAULT_PASSWORD):
                try:
                    client = MilvusClient(uri=f"http://127.0.0.1:{self.port}", user="root", password=known)
                    try:
                        if known != password:
                            client.update_password("root", old_password=known, new_password=password)
                            continue
                        client.list_users()
                    finally:
                        client.close()
                    return
                except Exception as error:
                    last = error
            if time.monotonic() > deadline:
                raise MilvusError(
                    f"Milvus on port {self.port} took neither the new nor the default root password: "
                    f"{type(last).__name__}. Is it another server's data in {self.data}?"
                )
            time.sleep(1)

    # Set-up

    def _start_once(self, timeout: float) -> None:
        folder = programs()
        if FOLDERS[1].exists() and not os.access(FOLDERS[1], os.W_OK):
            raise MilvusError(f"Milvus writes to {FOLDERS[1]}, which is another user's: remove that folder.")
        if not net.can_bind("", self.port):
            raise MilvusError(f"Port {self.port} is in use: end what listens there.")
        ports = {name: net.free_port() for name in (*_INNER_PORTS.values(), "metrics", "etcd", "etcd_peer")}
        self._write_configuration(folder, ports)
        environment = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": str(self.data),
            "LD_LIBRARY_PATH": str(folder),
            "DEPLOY_MODE": "STANDALONE",
            "MILVUSCONF": str(self.data / "configs"),
            "MILVUS_RUN_DIR": str(self.data / "run"),
            "METRICS_PORT": str(ports["metrics"]),
        }
        self.log.unlink(missing_ok=True)
        child = process.spawn([folder / "milvus", "run", "standalone"], self.log, env=environment, cwd=self.data)
        found = process.find(child.pid)
        self._write_record(
            {
                "port": self.port,
                "metrics": ports["metrics"],
                "etcd": ports["etcd"],
                "pid": child.pid,
                "started": found.started if found else "",
            }
        )
        deadline = time.monotonic() + timeout
        while not self.ready():
            if child.poll() is not None:
                raise MilvusError(f"Milvus ended at once. {self.log} ends:\n{process.tail(self.log)}")
            if time.monotonic() > deadline:
                raise MilvusError(
                    f"Milvus was not healthy within {timeout:.0f} s. {self.log} ends:\n{process.tail(self.log)}"
                )
            time.sleep(0.2)

    def _write_configuration(self, folder: Path, ports: Mapping[str, int]) -> None:
        configs = self.data / "configs"
        for made in (configs, self.data / "logs", self.data / "run", self.data / "data"):
            made.mkdir(parents=True, exist_ok=True)
        etcd = configs / "etcd.yaml"
        client, peer = (f"http://127.0.0.1:{ports[name]}" for name in ("etcd", "etcd_peer"))
        etcd.write_text(
            yaml.safe_dump(
                {
                    "name": "default",
                    "listen-client-urls": client,
                    "advertise-client-urls": client,
                    "listen-peer-urls": peer,
                    "initial-advertise-peer-urls": peer,
                    "initial-cluster": f"default={peer}",
                }
            )
        )
        template = re.sub(r"\{\{.*?\}\}", "0", (folder / "config.yaml.template").read_text())
        document: dict[str, Any] = yaml.safe_load(template)
        for name, value in {
            "etcd.endpoints": f"127.0.0.1:{ports['etcd']}",
            "etcd.config.path": str(etcd),
            "etcd.data.dir": str(self.data / "data" / "etcd"),
            "etcd.log.level": "warn",
            "etcd.log.path": str(self.data / "logs" / "etcd.log"),
            "localStorage.path": str(self.data / "data" / "storage"),
            "rocksmq.path": str(self.data / "data" / "rocksmq"),
            "log.level": "warn",
            "log.file.rootPath": "",
            "common.security.authorizationEnabled": self.authorization,
            "common.security.tlsMode": 0,
            "common.gracefulStopTimeout": 3,
            "queryCoord.bindIndexNodeMode.address": f"127.0.0.1:{ports['data_coord']}",
            "proxy.port": self.port,
            **{f"{part}.ip": "127.0.0.1" for part in
               ("proxy", "rootCoord", "queryCoord", "queryNode", "dataCoord", "dataNode", "indexNode")},
            **{setting: ports[name] for setting, name in _INNER_PORTS.items()},
            **self.settings,
        }.items():  # fmt: skip
            *parents, last = name.split(".")
            place = document
            for parent in parents:
                if not isinstance(place.get(parent), dict):
                    place[parent] = {}
                place = place[parent]
            place[last] = value
        (configs / "milvus.yaml").write_text(yaml.safe_dump(document))
        shutil.copy(folder / "glog.conf", configs / "glog.conf")

    def _forget_sessions(self) -> None:
        """Delete the server's own registrations, which makes it end at once.

        They would outlive it by half a minute, and the next start waits until they are gone: 55 s, not 4.
        """
        port, folder = self._read_record().get("etcd"), "by-dev/meta/session/"
        # All but `id`, the counter that gives each run of a component a number of its own.
        for first, end in ((folder, f"{folder}id"), (f"{folder}id\0", "by-dev/meta/session0")):
            keys = {"key": first, "range_end": end}
            body = {name: base64.b64encode(key.encode()).decode() for name, key in keys.items()}
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/v3/kv/deleterange",
                json.dumps(body).encode(),
                {"Content-Type": "application/json"},
            )
            with contextlib.suppress(OSError, ValueError):  # then the server is ended without it
                urllib.request.urlopen(request, timeout=5).close()

    def _read_record(self) -> dict[str, Any]:
        try:
            recorded: dict[str, Any] = json.loads(self._record.read_text())
        except (OSError, ValueError):
            return {}
        return recorded

    def _write_record(self, record: Mapping[str, Any]) -> None:
        self.data.mkdir(parents=True, exist_ok=True)
        self._record.write_text(json.dumps(record))
