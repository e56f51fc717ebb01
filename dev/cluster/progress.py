"""What a person sees: one line per step, with seconds, and a sign of life in the long ones."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

ALIVE_EVERY = 30.0  # seconds
_lock = threading.Lock()


class ClusterError(RuntimeError):
    """Something that the person at the keyboard can act on; the message says how."""


def say(text: str = "", stream: TextIO | None = None) -> None:
    """Print one line, whole, also from several threads."""
    with _lock:
        print(text, file=stream or sys.stdout, flush=True)


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
    """Say when a step is done and how many seconds it took; every half minute that it is still under way."""
    began, done = time.monotonic(), threading.Event()

    def sign_of_life() -> None:
        while not done.wait(ALIVE_EVERY):
            say(f"  … {name}: {time.monotonic() - began:.0f} s so far")

    watcher = threading.Thread(target=sign_of_life, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
    say(f"  ✓ {name} ({time.monotonic() - began:.1f} s)")


def wait_for(what: str, ready: Callable[[], bool], timeout: float, why: Callable[[], str] = str) -> None:
    """Poll until `ready()`; after `timeout` seconds raise ClusterError with what `why()` adds."""
    deadline = time.monotonic() + timeout
    while not ready():
        if time.monotonic() > deadline:
            raise ClusterError(f"{what} was not ready within {timeout:.0f} s. {why()}".rstrip())
        time.sleep(0.2)


def run(
    command: Sequence[str | Path],
    *,
    timeout: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    text: str | None = None,
) -> str:
    """Run a program to its end; what it printed. Raises ClusterError with its last words when it fails."""
    words = [str(word) for word in command]
    try:
        ended = subprocess.run(
            words,
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            env=dict(env) if env is not None else None,
            cwd=cwd,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        raise ClusterError(f"`{' '.join(words[:4])} …` did not end within {timeout:.0f} s.") from late
    except FileNotFoundError as missing:
        raise ClusterError(f"The program {words[0]} is missing.") from missing
    if ended.returncode:
        last = "\n".join((ended.stderr or ended.stdout).strip().splitlines()[-15:])
        raise ClusterError(f"`{' '.join(words[:4])} …` failed ({ended.returncode}):\n{last}")
    return ended.stdout
