"""The PostgreSQL server that the development cluster and other suites start, in hostile places."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from dev.cluster import net, postgres

ROOT = Path(__file__).parents[3]
FAST = {"fsync": "off", "shared_buffers": "16MB"}


def programs(version: str) -> Path:
    if version == "18":
        return postgres.embedded_bin()
    found = postgres.debian_bin(version)
    if found is None:
        pytest.skip(f"Debian's postgresql-{version} is not installed: make cluster-up installs it.")
    return found


@pytest.fixture
def closed() -> Iterator[Path]:
    """A folder inside one that only its owner may enter, as a checkout of root's may be."""
    with tempfile.TemporaryDirectory(prefix="tenantry-closed-") as outer:
        Path(outer).chmod(0o700)
        inner = Path(outer) / "state"
        inner.mkdir()
        yield inner


@pytest.fixture(params=["18", "15"])
def server(request: pytest.FixtureRequest, closed: Path) -> Iterator[postgres.Server]:
    made = postgres.Server(programs(request.param), closed / "pg", settings=FAST)
    made.start()
    yield made
    made.stop()


def test_life_in_a_closed_folder(server: postgres.Server) -> None:
    running = server.process()
    assert running is not None
    assert server.ready()
    server.start()  # a second start leaves the running server alone
    assert server.process() == running

    postgres.prepare_admin(server, "first")
    postgres.prepare_admin(server, "not a secret")  # repeating it changes the password and nothing else
    with server.connect("tenantry_admin", "not a secret", "tenantry") as admin:
        row = admin.execute(
            "SELECT rolsuper, rolcreaterole, rolcreatedb FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
        assert row == (False, True, True)
        admin.execute("CREATE ROLE somebody LOGIN PASSWORD 'x'")
        admin.execute("CREATE TABLE kept AS SELECT 7 AS number")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        server.connect("tenantry_admin", "wrong", "tenantry")
    for closed_database in ("postgres", "template1"):
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            server.connect("somebody", "x", closed_database)
    assert "not a secret" not in server.log.read_text()

    server.stop()
    assert not running.alive()
    assert not net.answers("127.0.0.1", server.port)
    assert not server.ready()
    assert not server.socket_dir.exists()
    server.stop()  # stopping what does not run is fine

    server.start()
    assert server.sql("SELECT number FROM kept", dbname="tenantry") == [(7,)]


def test_a_stranger_on_the_port_is_not_our_server(server: postgres.Server, closed: Path) -> None:
    other = postgres.Server(server.bin_dir, closed / "other", server.port)
    assert not other.ready()
    with pytest.raises(postgres.PostgresError, match="is in use"):
        other.start(timeout=0.2)
    other.stop()
    assert server.ready()


def test_a_killed_server_starts_again(server: postgres.Server) -> None:
    killed = server.process()
    assert killed is not None
    server.sql("SELECT pg_catalog.pg_sleep(0)")
    subprocess.run(["kill", "-KILL", str(killed.pid)], check=True)
    server.stop()
    assert not server.ready()
    server.start()
    assert server.process() != killed


STARTS = """
import sys
from pathlib import Path
from dev.cluster import postgres
postgres.Server(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), settings={"fsync": "off"}).start()
"""


@pytest.mark.parametrize("version", ["18", "15"])
def test_stops_when_interrupts_are_ignored_and_the_starter_is_gone(version: str, closed: Path) -> None:
    """As under a job control that ignores SIGINT, without a terminal, started by a program that has ended."""
    bin_dir, port = programs(version), net.free_port()
    if version == "18":  # its programs lie in the checkout, which others may not enter either
        package = bin_dir.parents[1]
        for folder in (f"{package.name}.libs", f"{package.name}/pginstall18"):
            shutil.copytree(package.parent / folder, closed / folder)
        bin_dir = closed / package.name / "pginstall18" / "bin"
    subprocess.run(
        [sys.executable, "-c", STARTS, str(bin_dir), str(closed / "pg"), str(port)],
        cwd=ROOT,
        check=True,
        timeout=120,
        close_fds=True,
        preexec_fn=_hostile,
    )
    server = postgres.Server(bin_dir, closed / "pg", port)
    assert server.ready()
    running = server.process()
    server.stop()
    assert running is not None
    assert not running.alive()
    assert not net.answers("127.0.0.1", port)


def _hostile() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.close(0)
