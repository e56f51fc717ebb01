"""What `up` decides before it touches anything, and what images are made from."""

from __future__ import annotations

from pathlib import Path

import pytest

from dev.cluster import golang, info, leftovers, paths, process, record
from dev.cluster import up as up_module
from dev.cluster.progress import ClusterError
from dev.images import build as images

DEB822 = """Types: deb
URIs: http://one/debian
Suites: bookworm bookworm-updates
Components: main

Types: deb
URIs: http://one/security
Suites: bookworm-security
Components: main
"""


def test_a_cluster_of_the_users_own_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/somewhere/config")
    assert up_module.foreign_kubeconfig() == "/somewhere/config"
    monkeypatch.setenv("KUBECONFIG", str(paths.KUBECONFIG))
    assert up_module.foreign_kubeconfig() is None
    monkeypatch.delenv("KUBECONFIG")
    assert up_module.foreign_kubeconfig() is None


def test_another_checkouts_running_cluster_is_named_and_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Alive(process.Process):
        def alive(self) -> bool:
            return True

    other = record.Record("/elsewhere/tenantry", {"etcd": Alive(1, "1")})
    monkeypatch.setattr(record, "load", lambda: other)
    monkeypatch.delenv(up_module.TAKE_OVER, raising=False)
    monkeypatch.setattr(leftovers, "clean", lambda found: pytest.fail("it was touched"))
    with pytest.raises(ClusterError, match="/elsewhere/tenantry"):
        up_module._make_way()


def test_the_plan_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up_module.packages, "missing", lambda: ["runc"])
    monkeypatch.setattr(up_module, "PODS", True)
    assert any("Debian packages runc" in line for line in up_module.plan())
    monkeypatch.setattr(up_module, "PODS", False)
    assert any("no Pods" in line for line in up_module.plan())


def test_information_is_written_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cluster.json"
    monkeypatch.setattr(paths, "INFO", file)
    with pytest.raises(ClusterError, match="make cluster-up"):
        info.load(file)
    info.write()
    assert info.load(file) == info.describe()


def test_sources_of_other_vendors_stay_out(tmp_path: Path) -> None:
    folder = tmp_path / "sources.list.d"
    folder.mkdir()
    (folder / "debian.sources").write_text(DEB822)
    (folder / "node.sources").write_text("Types: deb\nURIs: https://x\nSuites: nodistro\nComponents: main\n")
    (folder / "cloud.list").write_text("deb [signed-by=/k] https://y cloud-sdk-bookworm main\n")
    (folder / "readme.txt").write_text("deb https://z bookworm main\n")
    found = images.debian_sources("bookworm", tmp_path)
    assert found.count("Types: deb") == 2
    assert "nodistro" not in found
    assert "cloud-sdk" not in found

    (folder / "debian.sources").unlink()
    (tmp_path / "sources.list").write_text("deb [arch=amd64] http://one/debian bookworm main\n# deb http://no\n")
    assert images.debian_sources("bookworm", tmp_path) == "deb [arch=amd64] http://one/debian bookworm main\n"


def test_an_image_is_made_anew_only_when_its_sources_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(images, "CACHE", tmp_path / "cache")
    containerfile, code = tmp_path / "Containerfile", tmp_path / "code"
    containerfile.write_text("FROM scratch\n")
    code.mkdir()
    (code / "main.py").write_text("print(1)\n")
    image = images.Image("localhost/x:dev", containerfile, (code,))
    assert not image.current()
    image.archive.parent.mkdir()
    image.archive.touch()
    image.archive.with_suffix(".digest").write_text(image.digest())
    assert image.current()
    (code / "__pycache__").mkdir()
    (code / "__pycache__" / "main.pyc").touch()
    assert image.current()
    (code / "main.py").write_text("print(2)\n")
    assert not image.current()


def test_images_see_only_what_they_are_made_from() -> None:
    """A file that an image takes but whose change would not be noticed would go stale unseen."""
    for image in (images.OPERATOR, images.RUNTIME):
        taken = {line.split()[1] for line in image.containerfile.read_text().splitlines() if line.startswith("COPY ")}
        assert taken == {str(source.relative_to(paths.ROOT)) for source in image.sources[:-1]}
        ignore = image.containerfile.with_name("Containerfile.dockerignore").read_text().split()
        assert {line[1:] for line in ignore if line.startswith("!")} == taken


def test_programs_are_built_anew_only_when_their_module_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(golang, "SOURCES", tmp_path)
    monkeypatch.setattr(paths, "BIN", tmp_path / "bin")
    (tmp_path / "kube").mkdir()
    (tmp_path / "kube" / "main.go").write_text("package main\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "kube").touch()
    assert not golang.current("kube")
    (tmp_path / "bin" / "kube.digest").write_text(golang._digest("kube"))
    assert golang.current("kube")
    (tmp_path / "kube" / "main.go").write_text("package main // changed\n")
    assert not golang.current("kube")


def test_go_modules_name_no_address() -> None:
    assert golang.go_needed() >= (1, 26)
    for file in golang.SOURCES.rglob("go.*"):
        assert "://" not in file.read_text()
