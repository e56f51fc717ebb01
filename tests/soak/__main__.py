"""Half an hour of everything at once: ``python -m tests.soak [--seconds N] [--seed N] [--junk N]``.

Servers of its own (API server with its controllers, PostgreSQL 18, Milvus 2.3.5; no node: Pods are reported as
running by a stand-in for the kubelet) and two replicas of the operator.  At random moments tenants are made, changed,
moved between tiers and deleted, keys made, rotated and deleted, objects of every sort edited and deleted behind the
operator's back, replicas killed, and PostgreSQL, Milvus and the API server stopped and started.

Before that, 500 junk manifests are sent (some minutes more; `--junk 0`: none): each must be refused or end as a
condition, with a good tenant among them Ready in time.

It ends with status 0 if after that every tenant is Ready with exactly what is its own, the scan finds nothing, no
replica ended by itself but for its Lease, nothing unforeseen was logged, and the leader's memory stayed flat in the
second half.  So that this can be measured, in the second half only the replica that stands by is killed, and the API
server, whose absence costs the leader its Lease, is left alone.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
from pathlib import Path

from dev.cluster import golang
from tests.controlplane import KUBE
from tests.integration.operator.world import World, running
from tests.integration.survival import junk
from tests.soak.chaos import Chaos


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Random work and faults; see the source.")
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--tenants", type=int, default=20, help="at most at once")
    parser.add_argument("--junk", type=int, default=500, help="junk manifests at its start")
    parser.add_argument("--folder", help="where the servers keep data and logs; else a temporary one")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Ended on request."))  # so that no server stays behind
    seed = options.seed if options.seed is not None else random.randrange(10**6)
    if not KUBE.exists():
        print("Kubernetes is built first, which takes some minutes.", flush=True)
        golang.build()
    with tempfile.TemporaryDirectory(prefix="tenantry-soak-") as made:
        folder = Path(options.folder or made)
        folder.mkdir(parents=True, exist_ok=True)
        print(f"seed {seed}, {options.seconds:.0f} s, at most {options.tenants} tenants, logs in {folder}", flush=True)
        with running(folder, roles=2000) as world:
            try:
                wrong = endure(world, options.junk) if options.junk else []
                wrong = wrong or Chaos(world, random.Random(seed), options.tenants, options.seconds).run()
            finally:
                for replica in world.replicas:
                    replica.kill()
            if wrong and not options.folder:
                kept = Path(tempfile.mkdtemp(prefix="tenantry-soak-failed-"))
                for log in folder.glob("*.log"):
                    (kept / log.name).write_bytes(log.read_bytes())
                print(f"the operator's logs are kept in {kept}")
    for line in wrong:
        print(f"WRONG: {line}")
    print(f"soak of {options.seconds:.0f} s with seed {seed}: {'FAILED' if wrong else 'passed'}")
    return 1 if wrong else 0


def endure(world: World, count: int) -> list[str]:
    """What is wrong after so many junk manifests."""
    replica = world.start("junk", lease_seconds=20)
    try:
        junk.endure(world, replica, count)
        world.stop()
    except AssertionError as error:
        return [f"junk: {str(error)[:3000]}"]
    return []


if __name__ == "__main__":
    sys.exit(main())
