"""The cluster's images, from the same Containerfiles that a user builds, without a registry or a container engine.

What is slow is kept: the base image, the wheels, the layers with the libraries, the archives. A change of code
rebuilds one layer and its archive.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dev.cluster import golang, paths
from dev.cluster.progress import ClusterError, run
from dev.cluster.settings import BASE_IMAGE, OPERATOR_IMAGE, PAUSE_IMAGE, RUNTIME_IMAGE

FOLDER = Path(__file__).parent
CACHE = paths.CACHE / "images"
STORAGE = paths.CACHE / "buildah"
INCLUDED = ("ca-certificates", "libstdc++6", "python3", "python3-venv")
_EXCLUDED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")


@dataclass(frozen=True)
class Image:
    """One image: its name, its Containerfile, the files it is made from, and its lock where it has one."""

    name: str
    containerfile: Path
    sources: tuple[Path, ...]
    lock: Path | None = None

    @property
    def archive(self) -> Path:
        """Where the built image is kept."""
        return CACHE / f"{self.name.split('/')[-1].split(':')[0]}.tar"

    def digest(self) -> str:
        """What the image is made from, as one number; another one means building again."""
        total = hashlib.sha256(self.containerfile.read_bytes())
        for source in self.sources:
            for file in sorted(_files(source)):
                total.update(f"{file.relative_to(paths.ROOT)}\0{file.stat().st_mode & 0o111}\0".encode())
                total.update(hashlib.sha256(file.read_bytes()).digest())
        return total.hexdigest()

    def current(self) -> bool:
        """Whether the archive is there and made from the sources as they are now."""
        stamp = self.archive.with_suffix(".digest")
        return self.archive.exists() and stamp.exists() and stamp.read_text() == self.digest()


def _files(source: Path) -> Iterator[Path]:
    if source.is_file():
        yield source
    for file in source.rglob("*") if source.is_dir() else ():
        if file.is_file() and "__pycache__" not in file.parts:
            yield file


def _of(part: str, *folders: str) -> Image:
    lock = paths.ROOT / "requirements" / f"{part}.lock"
    sources = (lock, *(paths.ROOT / folder for folder in folders), FOLDER / "Containerfile.base")
    return Image(f"localhost/tenantry-{part}:dev", paths.ROOT / part / "Containerfile", sources, lock)


OPERATOR = _of("operator", "operator/tenantry", "runtime/tenantry_runtime")
RUNTIME = _of("runtime", "runtime/tenantry_runtime")
PAUSE = Image(PAUSE_IMAGE, FOLDER / "Containerfile.pause", (golang.SOURCES / "pause",))
assert (OPERATOR.name, RUNTIME.name) == (OPERATOR_IMAGE, RUNTIME_IMAGE)


def build(image: Image) -> bool:
    """Build one image and write its archive, unless it is current; whether that was needed."""
    if image.current():
        return False
    CACHE.mkdir(parents=True, exist_ok=True)
    digest = image.digest()
    if image.lock is None:
        _buildah_bud(image, golang.PAUSE.parent, [])
    else:
        wheels = _wheels(image.lock)
        arguments = [
            f"--build-arg=BASE={BASE_IMAGE}",
            "--build-arg=PIP_FIND_LINKS=/wheels",
            "--build-arg=PIP_NO_INDEX=1",
            f"--volume={wheels}:/wheels:ro",
            f"--ignorefile={image.containerfile}.dockerignore",
        ]
        _buildah_bud(image, paths.ROOT, arguments)
    new = image.archive.with_suffix(".new")
    new.unlink(missing_ok=True)
    buildah("push", "--quiet", image.name, f"docker-archive:{new}:{image.name}", timeout=300)
    new.replace(image.archive)
    image.archive.with_suffix(".digest").write_text(digest)
    return True


def _buildah_bud(image: Image, context: Path, arguments: list[str]) -> None:
    buildah("bud", "--quiet", "--layers", *arguments, f"--file={image.containerfile}", f"--tag={image.name}",
            context, timeout=1200)  # fmt: skip


def buildah(*words: str | Path, timeout: float) -> str:
    """Run buildah with a storage of its own."""
    place = [f"--root={STORAGE}", f"--runroot={paths.RUN / 'buildah'}", "--storage-driver=overlay"]
    environment = {**os.environ, "BUILDAH_ISOLATION": "chroot", "TMPDIR": str(_temporary())}
    return run(["buildah", *place, *words], timeout=timeout, env=environment)


def _temporary() -> Path:
    folder = paths.CACHE / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def has_base() -> bool:
    """Whether the base image was made."""
    return BASE_IMAGE in buildah("images", "--format", "{{.Name}}:{{.Tag}}", timeout=60).split()


def make_base() -> None:
    """Make the base image from this machine's own package sources."""
    archive = _base_archive()
    buildah("bud", "--quiet", f"--file={FOLDER / 'Containerfile.base'}", f"--tag={BASE_IMAGE}", archive.parent,
            timeout=300)  # fmt: skip


def _base_archive() -> Path:
    archive = CACHE / "base" / "base.tar"
    if archive.exists():
        return archive
    archive.parent.mkdir(parents=True, exist_ok=True)
    codename = _codename()
    sources = archive.parent / "machine.sources"
    sources.write_text(debian_sources(codename))
    options = archive.parent / "apt.conf"
    options.write_text(_apt_settings())
    new = archive.with_suffix(".new.tar")
    run(
        [
            "mmdebstrap", "--variant=minbase", f"--include={','.join(INCLUDED)}", f"--aptopt={options}",
            *(f"--dpkgopt=path-exclude={pattern}" for pattern in _EXCLUDED), codename, new, sources,
        ],
        timeout=900,
        env={**os.environ, "TMPDIR": str(_temporary()), "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    new.replace(archive)
    return archive


def _codename() -> str:
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("VERSION_CODENAME="):
            return shlex.split(line.partition("=")[2])[0]
    raise ClusterError("/etc/os-release names no VERSION_CODENAME: the base image needs Debian's or Ubuntu's.")


def debian_sources(codename: str, etc: Path = Path("/etc/apt")) -> str:
    """The machine's own sources of its release, updates and security fixes; other vendors' are left out."""
    wanted = {codename, f"{codename}-updates", f"{codename}-security"}
    lines, stanzas = [], []
    for file in sorted([etc / "sources.list", *(etc / "sources.list.d").glob("*")]):
        if not file.is_file() or file.suffix not in (".list", ".sources"):
            continue
        text = file.read_text()
        if file.suffix == ".list":
            for line in text.splitlines():
                words = re.sub(r"\[.*?\]", "", line).split()
                if len(words) > 2 and words[0] == "deb" and words[2] in wanted:
                    lines.append(line)
            continue
        for stanza in re.split(r"\n\s*\n", text):
            suites = re.search(r"^Suites:(.*)$", stanza, re.MULTILINE)
            if suites and wanted & set(suites[1].split()):
                stanzas.append(stanza.strip())
    if stanzas and lines:
        raise ClusterError("/etc/apt mixes both formats of sources for this release; convert one to the other.")
    return "\n\n".join(stanzas or lines) + "\n"


def _apt_settings() -> str:
    """How this machine reaches its sources: proxies and certificates."""
    dump = run(["apt-config", "dump"], timeout=60)
    kept = r"^Acquire::(http|https|ftp|Retries)(::.*)? \".+\";$"
    return "\n".join(line for line in dump.splitlines() if re.match(kept, line)) + "\n"


def _wheels(lock: Path) -> Path:
    """A folder with exactly the wheels of a lock, for the base image's Python, fetched by this machine's pip."""
    base = _base_archive()
    with tarfile.open(base) as archive:
        found = [re.fullmatch(r"\./usr/bin/python3\.(\d+)", name) for name in archive.getnames()]
    minor = next(match[1] for match in found if match)
    digest = hashlib.sha256(lock.read_bytes() + minor.encode()).hexdigest()[:12]
    place = paths.CACHE / "wheels" / f"{lock.stem}-{digest}"
    if place.exists():
        return place
    new = place.with_suffix(".new")
    shutil.rmtree(new, ignore_errors=True)
    other: list[str] = []
    if sys.version_info[:2] != (3, int(minor)):
        platforms = [f"manylinux_2_{glibc}_{os.uname().machine}" for glibc in range(5, 37)]
        other = [f"--python-version=3.{minor}", *(f"--platform={platform}" for platform in platforms)]
    run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
         "--require-hashes", "--requirement", lock, "--dest", new, *other],
        timeout=900,
    )  # fmt: skip
    new.rename(place)
    return place
