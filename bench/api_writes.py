"""Why the operator writes plain dicts over aiohttp: ``python -m bench.api_writes [--writes N]``.

The same server-side applies of small ConfigMaps, 16 at a time, to one API server of our own: once through the
operator's `Connection`, once through the official library's dynamic client on 16 threads.  Each round runs in a
process of its own, and the two take turns, so that a slow minute of the machine meets both.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

AT_ONCE = 16
NAMESPACE = "bench"


def manifest(number: int, round_name: str) -> dict[str, Any]:
    """About the size of what the operator writes: 600 bytes."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": f"{round_name}-{number}",
            "namespace": NAMESPACE,
            "labels": {"tenantry.dev/tenant": "bench", "app.kubernetes.io/managed-by": "bench"},
        },
        "data": {f"key-{i}": "x" * 40 for i in range(8)},
    }


def ours(kubeconfig: str, objects: list[dict[str, Any]]) -> None:
    from tenantry.backends.connection import Connection, from_kubeconfig

    async def run() -> None:
        connection = Connection(from_kubeconfig(kubeconfig))
        waiting = iter(objects)

        async def work() -> None:
            for obj in waiting:
                await connection.request(
                    "apply",
                    f"/api/v1/namespaces/{NAMESPACE}/configmaps/{obj['metadata']['name']}",
                    resource="configmaps",
                    body=obj,
                    content_type="application/apply-patch+yaml",
                    params={"fieldManager": "bench", "force": "true"},
                )

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
        await connection.close()

    asyncio.run(run())


def official(kubeconfig: str, objects: list[dict[str, Any]]) -> None:
    from kubernetes import client, config, dynamic

    made = client.Configuration()
    config.load_kube_config(config_file=kubeconfig, client_configuration=made)
    made.connection_pool_maxsize = AT_ONCE
    maps = dynamic.DynamicClient(client.ApiClient(made)).resources.get(api_version="v1", kind="ConfigMap")

    def apply(obj: dict[str, Any]) -> None:
        maps.server_side_apply(body=obj, namespace=NAMESPACE, field_manager="bench", force_conflicts=True)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(apply, objects))


VARIANTS: dict[str, Callable[[str, list[dict[str, Any]]], None]] = {"ours": ours, "official": official}
TITLES = {"ours": "plain dicts over aiohttp (ours)", "official": "official dynamic client, 16 threads"}


def child(variant: str, kubeconfig: str, writes: int, round_name: str) -> None:
    """One round; prints seconds, CPU seconds of this process and its memory (MB) as JSON.

    The first eighth of the writes warms up connections, schemas and caches and is not counted.
    """
    objects = [manifest(number, f"{variant}-{round_name}") for number in range(writes + writes // 8)]
    run = VARIANTS[variant]
    run(kubeconfig, objects[writes:])
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    run(kubeconfig, objects[:writes])
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"seconds": seconds, "cpu": cpu, "memory": after.ru_maxrss / 1024}))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.api_writes", description=__doc__.splitlines()[0])
    parser.add_argument("--writes", type=int, default=2000, help="of each round")
    parser.add_argument("--rounds", type=int, default=3, help="of each client; the median counts")
    parser.add_argument("--child", nargs=3, metavar=("CLIENT", "KUBECONFIG", "ROUND"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child[0], options.child[1], options.writes, options.child[2])
        return

    from tests.controlplane import ControlPlane

    found: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory() as folder, ControlPlane(Path(folder)) as plane:
        plane.kubectl("create", "namespace", NAMESPACE)
        for number in range(options.rounds):
            for name in VARIANTS:
                print(f"round {number + 1} of {options.rounds}: {TITLES[name]}", file=sys.stderr, flush=True)
                answer = subprocess.run(
                    [sys.executable, "-m", "bench.api_writes", "--writes", str(options.writes),
                     "--child", name, str(plane.kubeconfig), str(number)],
                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True, timeout=600,
                )  # fmt: skip
                found[name].append(json.loads(answer.stdout.splitlines()[-1]))

    print("| client | writes a second | client's CPU for a write, ms | memory, MB |")
    print("|---|---|---|---|")
    for name, rounds in found.items():
        middle = sorted(rounds, key=lambda r: r["seconds"])[len(rounds) // 2]
        cpu = sorted(r["cpu"] for r in rounds)[len(rounds) // 2]
        memory = max(r["memory"] for r in rounds)
        print(
            f"| {TITLES[name]} | {options.writes / middle['seconds']:.0f} | "
            f"{1000 * cpu / options.writes:.2f} | {memory:.0f} |"
        )


if __name__ == "__main__":
    main()
