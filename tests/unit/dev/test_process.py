"""Processes by pid and start time: alive, ended, a zombie, stubborn; and the record that names them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dev.cluster import net, paths, process, record
from dev.cluster.progress import ClusterError, run, wait_for
from dev.cluster.service import Service


def started(code: str = "import time; time.sleep(60)") -> tuple[subprocess.Popen[bytes], process.Process]:
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    found = process.find(child.pid)
    assert found is not None
    return child, found


def test_a_process_ends_and_another_with_its_pid_is_not_it() -> None:
    child, found = started()
    assert found.alive()
    assert not process.Process(found.pid, "0").alive()
    process.end(process.Process(found.pid, "0"), 1)  # somebody else's by now: left alone
    assert found.alive()
    process.end(found, 20)
    assert not found.alive()
    child.wait(10)


def test_a_zombie_has_ended() -> None:
    child, found = started("pass")
    assert process.wait_gone(found, 30)
    assert process.find(child.pid) is None
    assert child.wait(10) == 0


def test_a_stubborn_process_is_killed() -> None:
    child, found = started(
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    )
    assert child.stdout is not None
    child.stdout.readline()
    process.end(found, 0.3)
    assert not found.alive()
    assert child.wait(10) in (-signal.SIGKILL, 0)


def test_record_survives_and_knows_its_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "RUN", tmp_path)
    monkeypatch.setattr(paths, "OWNER", tmp_path / "owner.json")
    assert record.load() is None
    made = record.Record(str(paths.ROOT))
    me = process.find(os.getpid())
    assert me is not None
    made.add("me", me)
    made.add("dead", process.Process(me.pid, "0"))
    setting = tmp_path / "setting"
    setting.write_text("0\n")
    made.change(setting, "1")
    made.change(setting, "1")
    made.will_create(tmp_path, tmp_path / "new")
    read = record.load()
    assert read is not None
    assert read.ours
    assert read.alive() == {"me": me}
    assert read.sysctls == {str(setting): "0"}
    assert read.created == [str(tmp_path / "new")]
    (tmp_path / "owner.json").write_text("{")
    assert record.load() is None


def test_a_service_that_ends_says_what_it_last_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "RUN", tmp_path)
    monkeypatch.setattr(paths, "OWNER", tmp_path / "owner.json")
    monkeypatch.setattr(paths, "LOGS", tmp_path)
    dies = Service("dies", [sys.executable, "-c", "raise SystemExit('no such file')"], lambda: False)
    with pytest.raises(ClusterError, match="no such file"):
        dies.start(record.Record("x"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        busy = Service("busy", ["true"], lambda: True, [("127.0.0.1", port)])
        with pytest.raises(ClusterError, match=f"needs port {port}"):
            busy.start(record.Record("x"))


def test_ports() -> None:
    port = net.free_port()
    assert net.can_bind("127.0.0.1", port)
    assert not net.answers("127.0.0.1", port)
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
        server.listen()
        assert not net.can_bind("127.0.0.1", port)
        assert net.answers("127.0.0.1", port)


def test_errors_say_what_failed() -> None:
    with pytest.raises(ClusterError, match="because of this"):
        run([sys.executable, "-c", "raise SystemExit('because of this')"], timeout=30)
    with pytest.raises(ClusterError, match="is missing"):
        run(["no-such-program-anywhere"], timeout=30)
    with pytest.raises(ClusterError, match="did not end within"):
        run([sys.executable, "-c", "import time; time.sleep(60)"], timeout=0.5)
    began = time.monotonic()
    with pytest.raises(ClusterError, match="The moon was not ready"):
        wait_for("The moon", lambda: False, 0.3)
    assert time.monotonic() - began < 10
