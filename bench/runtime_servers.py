"""What a measurement of the runtime runs on: PostgreSQL, Milvus, the instant provider, one replica, LiteLLM's proxy.

What is measured has a core of its own (the first one), all else the others.
"""

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from bench import processes
from bench.servers import say, wait
from dev.cluster import net
from dev.cluster.postgres import Server, embedded_bin
from tenantry_runtime.config import NANO, Budget, Cache, Limits
from tests.integration.runtime.stack import ROOT, Replica, Stack, Tenant, process
from tests.integration.runtime.test_guard import LeakList

MUCH = 10**9
"""A limit that is there, is taken from with every call, and is never reached."""
LOCK = ROOT / "requirements" / "litellm.lock"
LITELLM = ROOT / ".dev" / "litellm"


def confine(pid: int, cores: set[int]) -> None:
    processes.confine([pid], cores)


@dataclass
class Servers:
    """Everything but LiteLLM; `tenant` has every limit and a budget, none of which is reached, and a cache."""

    folder: Path
    postgres: Server
    provider_port: int
    milvus: "subprocess.Popen[bytes]"
    stack: Stack
    tenant: Tenant

    @contextlib.contextmanager
    def replica(self, own_core: bool = True) -> Iterator[Replica]:
        """A ready replica, its vectors loaded."""
        with self.tenant.replica() as replica:
            if own_core:
                confine(replica.child.pid, processes.HALVES[0])
            wait(lambda: b'"vectors":true' in httpx.get(f"{replica.url}/readyz").content, "vectors", 60)
            yield replica

    def postgres_cpu(self) -> float:
        """Seconds that the server and all its backends have used."""
        found = self.postgres.process()
        return processes.cpu_seconds({"PostgreSQL": found.pid})["PostgreSQL"] if found else 0.0


@contextlib.contextmanager
def servers(folder: Path) -> Iterator[Servers]:
    """Durable commits, as in production: what the ledger says is on the disk before a call is made."""
    milvus_port, provider_port = net.free_port(), net.free_port()
    postgres = Server(embedded_bin(), folder / "postgres", settings={"max_connections": "100"})
    words = ["-m", "milvus_lite", "server", "--data-dir", str(folder / "milvus"), "--host", "127.0.0.1"]
    with (
        process([*words, "--port", str(milvus_port)], folder / "milvus.log") as milvus,
        process(["-m", "bench.instant", str(provider_port)], folder / "provider.log"),
    ):
        try:
            postgres.start()
            postgres.sql("CREATE DATABASE tenantry")
            for port in (milvus_port, provider_port):
                wait(lambda port=port: net.answers("127.0.0.1", port), f"port {port}", 120)
            stack = Stack(folder, postgres, f"http://127.0.0.1:{milvus_port}", f"http://127.0.0.1:{provider_port}/v1")
            tenant = stack.tenant(
                limits=Limits(requests_per_minute=MUCH, tokens_per_minute=MUCH, tokens_per_day=MUCH, concurrency=MUCH),
                budget=Budget(monthly_nano=MUCH * NANO),
                cache=Cache(mode="All"),
            )
            LeakList(stack).write({f"tenant-neighbour-{n}": "other" for n in range(1000)})
            yield Servers(folder, postgres, provider_port, milvus, stack, tenant)
        finally:
            postgres.stop()


def install_litellm() -> Path:
    """Its own environment under .dev/, as the lock says; a minute or two the first time."""
    stamp = LITELLM / "made-from"
    if not stamp.exists() or stamp.read_text() != LOCK.read_text():
        say("installing LiteLLM's proxy into .dev/litellm")
        shutil.rmtree(LITELLM, ignore_errors=True)
        uv = Path(sys.executable).with_name("uv")
        subprocess.run([uv, "venv", "-q", "--python", sys.executable, LITELLM], check=True)
        subprocess.run(
            [
                uv,
                "pip",
                "install",
                "-q",
                "--python",
                LITELLM / "bin" / "python",
                "--require-hashes",
                "--compile-bytecode",
                "-r",
                LOCK,
            ],
            check=True,
        )
        stamp.write_text(LOCK.read_text())
    return LITELLM / "bin" / "litellm"


CONFIGURATION = """
model_list:
  - model_name: gpt-4o-mini
    litellm_params: {{model: openai/gpt-4o-mini, api_base: "http://127.0.0.1:{port}/v1", api_key: stand-in-key}}
litellm_settings: {{telemetry: false, drop_params: true}}
general_settings: {{master_key: {key}}}
"""
LITELLM_KEY = "sk-" + secrets.token_urlsafe(32)
"""It starts without one only where it is told that this is dangerous."""


@contextlib.contextmanager
def litellm(folder: Path, provider_port: int, own_core: bool = True) -> Iterator[tuple[int, int]]:
    """Its port and its pid: one worker, no database, limits or logging: less than we do."""
    program, port = install_litellm(), net.free_port()
    file = folder / "litellm.yaml"
    file.write_text(CONFIGURATION.format(port=provider_port, key=LITELLM_KEY))
    env = {
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "NO_DOCS": "True",
    }
    words = [program, "--config", file, "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    with (folder / "litellm.log").open("ab") as log:
        child = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **env}
        )
    try:
        if own_core:
            confine(child.pid, processes.HALVES[0])
        yield port, child.pid
    finally:
        child.terminate()
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait(20)


def first_answer(port: int, key: str, pid: int = 0, seconds: float = 120) -> None:
    """Return as soon as a chat request is answered; ends the program where the process `pid` has ended."""
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Are you there?"}], "max_tokens": 50}
    headers = {"Authorization": f"Bearer {key}"}

    def answered() -> bool:
        if pid and processes.ended(pid):
            raise SystemExit("LiteLLM's proxy has ended.")
        with contextlib.suppress(httpx.HTTPError):
            url = f"http://127.0.0.1:{port}/v1/chat/completions"
            return httpx.post(url, json=body, headers=headers, timeout=30, trust_env=False).status_code == 200
        return False

    wait(answered, "a first answer", seconds, 0.02)


def start_seconds(env: Servers, port: int) -> float:
    """From the start of a process of ours to its first answer."""
    settings = {
        "TENANTRY_CREDENTIALS": str(env.tenant.file),
        "TENANTRY_HOST": "127.0.0.1",
        "TENANTRY_PORT": str(port),
        "TENANTRY_METRICS_PORT": "0",
        "TENANTRY_DRAIN_SECONDS": "0",
    }
    began = time.monotonic()
    with process(["-m", "tenantry_runtime"], env.folder / "start.log", settings):
        first_answer(port, env.tenant.key)
        return time.monotonic() - began
