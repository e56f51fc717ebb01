"""Installing the Milvus server: PyPI's package `milvus`, unpacked into the checkout's cache."""

from __future__ import annotations

import fcntl
import hashlib
import lzma
import shutil
import subprocess
import sys
from pathlib import Path

from dev.cluster import paths

LOCK = Path(__file__).with_name("milvus.lock")


class MilvusError(RuntimeError):
    """The server could not be installed, started or stopped; the message says what to look at."""


def programs() -> Path:
    """The folder with the server's program and libraries, installed and unpacked when it is not there yet."""
    digest = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]
    place = paths.CACHE / f"milvus-{digest}"
    if (place / "milvus").exists():
        return place
    paths.CACHE.mkdir(parents=True, exist_ok=True)
    with (paths.CACHE / "milvus.lock").open("w") as guard:  # two test runs may want it at once
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not (place / "milvus").exists():
            _install(place)
    return place


def _install(place: Path) -> None:
    package, new = place.with_suffix(".package"), place.with_suffix(".new")
    for folder in (package, new):
        shutil.rmtree(folder, ignore_errors=True)
    installed = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--target",
         str(package), "-r", str(LOCK)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    if installed.returncode:
        raise MilvusError(
            "The Milvus server could not be installed (it exists for Linux on x86_64 only): " + installed.stderr.strip()
        )
    new.mkdir()
    data = package / "milvus" / "data"
    for packed in sorted((data / "bin").glob("*.lzma")):
        with lzma.open(packed) as source, (new / packed.stem).open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        (new / packed.stem).chmod(0o755)
    for name in ("config.yaml.template", "glog.conf"):
        shutil.copy(data / name, new / name)
    shutil.rmtree(package)
    new.rename(place)
