"""What the commands of this folder have in common: a seed, a folder, and a world of their own that ends with them."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.integration.operator.world import World, running

SEED = 20261122


def parser(name: str, what: str) -> argparse.ArgumentParser:
    """Of the module `name` of this folder; `what` must converge within ``--seconds``."""
    made = argparse.ArgumentParser(prog=f"python -m tests.integration.survival.{name}")
    made.add_argument("seed", nargs="?", type=int, default=SEED)
    made.add_argument("--folder", help="where the servers keep their data and logs")
    made.add_argument("--seconds", type=float, default=900, help=f"for each {what} to converge")
    return made


@contextlib.contextmanager
def alone(folder: str | None) -> Iterator[tuple[World, Path]]:
    """A world in `folder`, or in one that is removed, and the folder; SIGTERM ends its servers too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Ended on request."))
    with tempfile.TemporaryDirectory(prefix="tenantry-survival-") as made:
        place = Path(folder or made)
        place.mkdir(parents=True, exist_ok=True)
        with running(place / "world") as world:
            yield world, place
