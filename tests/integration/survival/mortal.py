"""The operator, killed with SIGKILL around each of its effects: ``python -m tests.integration.survival.mortal``.

It runs `tenantry.run` as it is and watches, from outside, the three libraries through which the operator reaches
the world: aiohttp (writes to the API server, the watches' included), psycopg (a commit, or a statement that writes
outside of a transaction) and the Milvus client.  Each effect has a name without UIDs and tenants' names.  Directly
before and directly after the first effect of each name in each phase the process kills itself; a folder remembers
what was survived already, so that every new life comes further.  "Before" nothing was sent; "after" the server has
done it and nobody read the answer.

The parent process stands in for the kubelet: it starts the container again, in the same Pod.  It imports everything
once and forks each life, which saves the imports.

Environment: MORTAL_FOLDER (holds `phase`, written by the test, and the ledgers `seen`, `killed`, `ended`),
MORTAL_SEED and MORTAL_SHARE (of all kills, every how many-th is done, chosen by the seed), MORTAL_MOMENTS (besides,
so many lives end at a random moment; ledger `moments`).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import os
import random
import re
import signal
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
from psycopg import pq, sql

from tenantry import run
from tenantry.backends.milvus import client as milvus_client

_PR_SET_PDEATHSIG = 1
LIFE_SECONDS = (0.3, 5.0)
"""Of a life that ends at a random moment: from before it leads until it has done much."""
_UID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32}|[a-z2-7]{26}")
_SQL = re.compile(
    r"^\s*(INSERT INTO|UPDATE|DELETE FROM|TRUNCATE|MERGE INTO|COPY"
    r"|CREATE (?:OR REPLACE |UNIQUE )?\w+|ALTER DEFAULT|ALTER \w+|DROP \w+|GRANT|REVOKE|REASSIGN|COMMENT ON \w+|DO|CALL"
    r"|COMMIT)\b|(pg_terminate_backend|pg_notify)\b",
    re.MULTILINE,
)
_MILVUS_READS = re.compile(r"(Show|Has|Describe|Get|List|Select|Query|Search|Insert|Upsert|Check|Connect)")
"""Insert and Upsert are the operator's trials of rights: Milvus refuses their content."""


class Ledger:
    """What was seen, and what was survived, by all lives so far."""

    def __init__(self, folder: Path, seed: int, share: int) -> None:
        self._folder = folder
        self._seed = seed
        self._share = share
        self._seen = set(self._lines("seen"))
        self._killed = set(self._lines("killed"))

    def _lines(self, name: str) -> list[str]:
        path = self._folder / name
        return path.read_text().splitlines() if path.exists() else []

    def write(self, name: str, line: str) -> None:
        handle = os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(handle, f"{line}\n".encode())
        os.fsync(handle)
        os.close(handle)

    def moment(self, when: str, effect: str) -> None:
        """One of the two moments around an effect: the process may end here."""
        phase = (self._folder / "phase").read_text().strip()
        line = f"{phase}\t{when}\t{effect}"
        if line not in self._seen:
            self._seen.add(line)
            self.write("seen", line)
        if line not in self._killed and zlib.crc32(f"{self._seed}/{line}".encode()) % self._share == 0:
            self.write("killed", line)
            os.kill(os.getpid(), signal.SIGKILL)


# -- the API server ------------------------------------------------------------------


def of_request(method: str, path: str, content_type: str, data: bytes) -> str:
    """The name of a request that writes, such as ``apply NetworkPolicy ...``: tenant's names are left out."""
    parts = path.strip("/").split("/")
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    where = ""
    if parts[0] == "namespaces" and len(parts) > 2:
        where, parts = re.sub(r"^(tenant|runtime)-.*?(--|$)", r"\1\2", parts[1]), parts[2:]
    plural, name, more = parts[0], (parts[1:2] or [""])[0], "/".join(parts[2:])
    if plural in ("tenants", "events"):
        name = ""
    elif plural == "namespaces":
        name = re.sub(r"^(tenant|runtime)-.*?(--|$)", r"\1\2", name)
    how = {"POST": "create", "DELETE": "delete", "PUT": "replace"}.get(method) or content_type.split("/")[-1].split(
        "-"
    )[0]
    about = ""
    body: Any = {}
    if data:
        body = json.loads(data)
    if plural in ("tenants", "accesskeys") and isinstance(body, dict):
        meta = sorted({*body.get("metadata", {})} & {"finalizers", "annotations", "labels"})
        ready = [c["status"] for c in body.get("status", {}).get("conditions", ()) if c["type"] == "Ready"]
        about = " ".join([*meta, *(f"Ready={status}" for status in ready)])
    elif plural == "leases":
        about = "release" if body.get("spec", {}).get("holderIdentity") == "" else ""
    object_ = "/".join(filter(None, [where, name]))
    return " ".join(filter(None, [how, f"{plural}/{more}" if more else plural, object_, about]))


def watch_requests(ledger: Ledger) -> None:
    original = aiohttp.ClientSession._request

    @functools.wraps(original)
    async def request(self: aiohttp.ClientSession, method: str, url: Any, **options: Any) -> Any:
        method = method.upper()
        if method in ("GET", "HEAD", "OPTIONS"):
            return await original(self, method, url, **options)
        content = dict(options.get("headers") or {}).get("Content-Type", "")
        data = options.get("data")
        if options.get("json") is not None:
            data = json.dumps(options["json"]).encode()
        path = str(url).split("://", 1)[-1].partition("/")[2].partition("?")[0]
        effect = of_request(method, path, content, data or b"")
        ledger.moment("before", effect)
        answer = await original(self, method, url, **options)
        if answer.status < 300:
            ledger.moment("after", effect)
        return answer

    aiohttp.ClientSession._request = request  # type: ignore[method-assign]


# -- PostgreSQL ------------------------------------------------------------------------


def of_statements(texts: list[str], database: str) -> str:
    """The name of what a commit does: the kinds of its statements."""
    kinds = sorted({" ".join((m[1] or m[2]).split()) for t in texts for m in _SQL.finditer(t)} - {"COMMIT"})
    words = ", ".join(kinds)
    if len(words) > 90:
        words = f"{words[:80]}... ({len(kinds)} kinds, {zlib.crc32(words.encode()):08x})"
    return f"PostgreSQL{'' if database == 'tenantry' else ', own database'}: {words or 'nothing'}"


def watch_statements(ledger: Ledger) -> None:
    original = psycopg.AsyncCursor.execute
    open_texts: dict[int, list[str]] = {}
    idle = pq.TransactionStatus.IDLE

    @functools.wraps(original)
    async def execute(self: Any, query: Any, *values: Any, **options: Any) -> Any:
        text = query.as_string(self) if isinstance(query, sql.Composable) else str(query)
        info = self.connection.info
        texts = open_texts.get(id(self.connection), []) if info.transaction_status != idle else []
        texts = [*texts, text]
        writes = any(_SQL.search(t) for t in texts)
        # Outside of a transaction each statement is an effect; inside only its commit is.
        begins = re.match(r"\s*(BEGIN|START TRANSACTION)\b", texts[0]) is not None
        ends = re.search(r"(^|;)\s*COMMIT\s*;?\s*\Z", text) is not None
        effect = writes and (ends or not begins)
        name = of_statements(texts, re.sub("_.*", "", info.dbname)) if effect else ""
        if effect:
            ledger.moment("before", name)
        try:
            answer = await original(self, query, *values, **options)
        finally:
            if info.transaction_status == idle:
                open_texts.pop(id(self.connection), None)
            else:
                open_texts[id(self.connection)] = texts
        if effect:
            ledger.moment("after", name)
        return answer

    psycopg.AsyncCursor.execute = execute  # type: ignore[method-assign]


# -- Milvus ----------------------------------------------------------------------------


def of_call(method: str, request: Any) -> str:
    """The name of a call that changes Milvus; empty for one that does not."""
    if _MILVUS_READS.match(method):
        return ""
    words = [method]
    for field, value in request.ListFields():
        if field.name in ("type", "joins") and field.enum_type:
            words.append(field.enum_type.values_by_number[value].name)
        elif field.name in ("collection_name", "username", "role_name", "db_name"):
            words.append(re.sub(r"^s_\w+", "shared", re.sub(r"^shared_.*", "shared", _UID.sub("own", str(value)))))
        elif field.name == "entity" and method == "OperatePrivilege":
            role = re.sub(r"^s_\w+", "shared", _UID.sub("own", value.role.name))
            words += [role, value.grantor.privilege.name]
        elif field.name == "entity":
            words.append(re.sub(r"^s_\w+", "shared", _UID.sub("own", value.name)))
    return "Milvus: " + " ".join(words)


def watch_calls(ledger: Ledger) -> None:
    original = milvus_client.Client.ask

    @functools.wraps(original)
    async def ask(self: Any, method: str, request: Any, *rest: Any, **options: Any) -> Any:
        effect = of_call(method, request)
        if not effect:
            return await original(self, method, request, *rest, **options)
        ledger.moment("before", effect)
        answer = await original(self, method, request, *rest, **options)
        ledger.moment("after", effect)
        return answer

    milvus_client.Client.ask = ask  # type: ignore[method-assign]


# -- lives ---------------------------------------------------------------------------------


def end_with_parent() -> None:
    """However that ends: nothing of a test that was killed goes on."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def live(folder: Path) -> int:
    """One life."""
    end_with_parent()
    ledger = Ledger(folder, int(os.environ["MORTAL_SEED"]), int(os.environ["MORTAL_SHARE"]))
    for watch in (watch_requests, watch_statements, watch_calls):
        watch(ledger)
    return run.main()


def main() -> int:
    """The parent: starts life after life until it is asked to end."""
    folder = Path(os.environ["MORTAL_FOLDER"])
    child, asked = 0, False
    end_with_parent()

    def end(number: int, _: object) -> None:
        nonlocal asked
        asked = True
        if child:
            os.kill(child, number)

    rng, left = random.Random(int(os.environ["MORTAL_SEED"])), int(os.environ.get("MORTAL_MOMENTS", "0"))
    ledger = Ledger(folder, 0, 1)

    def moment(*_: object) -> None:
        nonlocal left
        if asked:
            return
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself just now
            os.kill(child, signal.SIGKILL)
            left -= 1
            ledger.write("moments", f"{time.monotonic():.2f}")

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGALRM, moment)
    while True:
        child = os.fork()
        if child == 0:
            for number in (signal.SIGTERM, signal.SIGALRM):
                signal.signal(number, signal.SIG_DFL)
            status = 1
            try:
                status = live(folder)
            finally:
                sys.stdout.flush()
                os._exit(status)
        if asked:
            os.kill(child, signal.SIGTERM)
        if left > 0:
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(*LIFE_SECONDS))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        signal.setitimer(signal.ITIMER_REAL, 0)
        by_own_hand = code == -signal.SIGKILL
        if asked:
            return 0 if by_own_hand else code
        if not by_own_hand:
            with (folder / "ended").open("a") as out:
                out.write(f"{code}\n")
            time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(main())
