"""``python -m dev.cluster up|down|status``."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import shutil
import sys
from collections.abc import Iterator

from dev.cluster import leftovers, packages, paths, record
from dev.cluster.progress import ClusterError, say, step
from dev.cluster.up import expected, foreign_kubeconfig, up


def main() -> int:
    """Run one command; 0 when it did what it says."""
    parser = argparse.ArgumentParser(prog="python -m dev.cluster", description="The development cluster.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start what does not run")
    ending = commands.add_parser("down", help="stop it and leave nothing behind")
    ending.add_argument("--packages", action="store_true", help="also remove the Debian packages that up brought")
    commands.add_parser("status", help="say what runs; 0 when all does")
    options = parser.parse_args()
    try:
        if options.command == "status":
            return status()
        with one_at_a_time():
            if options.command == "up":
                up()
                return 0
            return down(remove_packages=options.packages)
    except (ClusterError, RuntimeError, OSError) as error:
        say(f"\n{error}", sys.stderr)
        return 1
    except KeyboardInterrupt:
        say("\nInterrupted. `make cluster-up` goes on from here, `make cluster-down` removes it.", sys.stderr)
        return 130


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Only one `up` or `down` on this machine: the second waits. A lock on a folder leaves no file behind."""
    handle = os.open(paths.RUN.parent, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Waiting for another cluster command on this machine to end.")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def status() -> int:
    """Print each part and whether it runs."""
    if given := foreign_kubeconfig():
        say(f"KUBECONFIG is set: {given} is used.")
        return 0
    found = record.load()
    if found is None or not found.alive():
        say("The cluster is down.")
        return 1
    if not found.ours:
        say(f"The cluster of {found.checkout} is running on this machine, not this checkout's.")
        return 1
    alive = found.alive()
    for name in expected():
        say(f"  {name:25} " + (f"up (process {alive[name].pid})" if name in alive else "DOWN"))
    complete = set(alive) >= set(expected())
    say("All up." if complete else "Not complete: `make cluster-up` starts what is down.")
    return 0 if complete else 1


def down(*, remove_packages: bool) -> int:
    """End the cluster of this checkout and remove every trace of it but the caches."""
    found = record.load()
    if found and found.alive() and not found.ours:
        say(f"The cluster of {found.checkout} is running on this machine; end it there.")
        return 1
    before = leftovers.scan()
    if before or paths.STATE.exists():
        with step("cluster ended, its traces removed"):
            leftovers.clean(found)
    shutil.rmtree(paths.SECRETS, ignore_errors=True)
    for file in (paths.KUBECONFIG, paths.INFO):
        file.unlink(missing_ok=True)
    if remove_packages and (names := packages.purge()):
        say(f"Removed the Debian packages that cluster-up had brought: {', '.join(names)}.")
    elif packages.recorded():
        say("The Debian packages stay; `make cluster-down PACKAGES=1` removes those that cluster-up brought.")
    left = leftovers.scan()
    for line in left:
        say(f"Left behind: {line}")
    if not left:
        say("Nothing left.")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
