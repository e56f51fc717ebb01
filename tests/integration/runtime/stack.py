"""What the runtime's tests run on: PostgreSQL 18, Milvus Lite, the stand-in provider, and replicas as processes.

A tenant here is made as the operator makes one: a schema with an owner that cannot log in, a login with the
granted rights and no more, a partition of one shared collection, a configuration row, key hashes, a NOTIFY.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import psycopg

from dev.cluster import net
from dev.cluster.postgres import Server, embedded_bin
from tenantry_runtime import migrations
from tenantry_runtime.config import Configuration, Credentials, Milvus, Postgres, Provider, channel, key_sha256
from tests.unit.runtime.configuration import configuration

ROOT = Path(__file__).resolve().parents[3]
COLLECTION = "shared_wordllama_256"
PROVIDER_KEY = "stand-in-key"
SELDOM = {"grpc.keepalive_permit_without_calls": False}
"""pymilvus asks an idle server every 10 seconds whether it is there, for which Milvus Lite hangs up."""
SCOPES = ("chat", "embeddings", "documents", "conversations", "usage", "audit", "admin")


def eventually(check: Callable[[], Any], timeout: float = 60, every: float = 0.1) -> Any:
    """The first true answer of `check`; fails after `timeout` seconds with the last one."""
    deadline = time.monotonic() + timeout
    while True:
        answer = check()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"still {answer!r} after {timeout} s"
        time.sleep(every)


def get(url: str, timeout: float = 10) -> tuple[int, bytes]:
    """Status and body; 0 where nothing answers."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""


@contextmanager
def process(words: list[str], log: Path, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended, by its pid, with the block."""
    with log.open("ab") as output:
        child = subprocess.Popen(
            [sys.executable, *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env={**os.environ, **(env or {})},
        )
    try:
        yield child
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(30)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait(30)


class Replica:
    """One process of the service; `url` and `metrics_url` are its ports."""

    def __init__(self, child: subprocess.Popen[bytes], log: Path) -> None:
        self.child, self.log = child, log
        api, metrics = eventually(self._ports)
        self.url, self.metrics_url = f"http://127.0.0.1:{api}", f"http://127.0.0.1:{metrics}/metrics"

    def _ports(self) -> list[int] | None:
        assert self.child.poll() is None, f"the service ended:\n{self.log.read_text()}"
        for line in self.log.read_text().splitlines():
            if "serving on ports" in line:
                words = json.loads(line)["message"].split()
                return [int(words[3]), int(words[5])]
        return None

    def ready(self) -> bool:
        return get(f"{self.url}/readyz")[0] == 200

    def client(self, key: str, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, **{"max_retries": 0, "timeout": 60, **options})

    def metrics(self) -> str:
        status, body = get(self.metrics_url)
        assert status == 200
        return body.decode()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        from prometheus_client.parser import text_string_to_metric_families

        return sum(
            sample.value
            for family in text_string_to_metric_families(self.metrics())
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


class Tenant:
    """One tenant's schema, partition and keys."""

    def __init__(
        self, stack: "Stack", name: str, provider_url: str, provider_timeout: float, isolation: str = "Partition"
    ) -> None:
        self.stack, self.name = stack, name
        self.uid = str(uuid.uuid4())
        self.tag = self.uid.replace("-", "")
        self.schema = f"tenant_{name.replace('-', '_')}__runtime"
        own = f"t_{self.tag}"
        self.partition = own if isolation == "Partition" else None
        self.collection = COLLECTION if self.partition else own
        self.vectors_database = own if isolation == "Database" else "default"
        self.configuration = configuration(tenant=name, tenant_uid=self.uid, display_name=f"{name.title()} Inc")
        password = secrets.token_urlsafe(16)
        login = f"{self.schema}_a"
        self.credentials = Credentials(
            postgres=Postgres(
                host="127.0.0.1",
                port=stack.postgres.port,
                database="tenantry",
                user=login,
                password=password,
                schema_name=self.schema,
                sslmode="disable",
            ),
            milvus=Milvus(
                uri=stack.milvus_uri,
                database=self.vectors_database,
                collection=self.collection,
                partition=self.partition,
                tag=self.tag,
            ),
            provider=Provider(base_url=provider_url, api_key=PROVIDER_KEY, timeout_seconds=provider_timeout),
        )
        self.file = stack.folder / f"{name}.json"
        self.file.write_text(self.credentials.to_json())
        with self.connect() as connection:
            owner, group = f"{self.schema}_owner", self.schema
            for statement in (
                f"CREATE ROLE {owner} NOLOGIN",
                f"CREATE ROLE {group} NOLOGIN",
                f"CREATE ROLE {login} LOGIN PASSWORD '{password}' IN ROLE {group}",
                f"CREATE SCHEMA {self.schema} AUTHORIZATION {owner}",
                f"GRANT USAGE ON SCHEMA {self.schema} TO {group}",
                f"ALTER DEFAULT PRIVILEGES FOR ROLE {owner} REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC",
                f"SET ROLE {owner}",
                f"SET search_path = {self.schema}",
            ):
                connection.execute(statement.encode())
            migrations.apply(connection)
            for table, rights in migrations.GRANTS.items():
                connection.execute(f"GRANT {', '.join(rights)} ON {table} TO {group}".encode())
            for function in migrations.FUNCTIONS:
                connection.execute(f"GRANT EXECUTE ON FUNCTION {function} TO {group}".encode())
        if self.partition:
            stack.vectors.create_partition(COLLECTION, self.partition)
        else:
            if isolation == "Database":
                stack.vectors.create_database(own)
            with self.vectors() as client:
                make_collection(client, own)
        self.configure()
        self.key = self.add_key("default")

    @contextmanager
    def vectors(self) -> Iterator[Any]:
        """Milvus as its administrator, in this tenant's database."""
        from pymilvus import MilvusClient

        client = MilvusClient(uri=self.stack.milvus_uri, db_name=self.vectors_database, timeout=30, grpc_options=SELDOM)
        try:
            yield client
        finally:
            client.close()

    def chunks(self) -> list[str]:
        """The ids of the tenant's rows in Milvus."""
        with self.vectors() as client:
            partitions = [self.partition] if self.partition else None
            rows = client.query(
                self.collection,
                filter=f'tenant == "{self.tag}"',
                output_fields=["id"],
                partition_names=partitions,
                consistency_level="Strong",
            )
            return sorted(row["id"] for row in rows)

    def connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        """The superuser's connection, in this tenant's schema."""
        connection = self.stack.postgres.connect(dbname="tenantry")
        connection.execute(f"SET search_path = {self.schema}".encode())
        return connection

    def sql(self, statement: str, values: Any = ()) -> list[tuple[Any, ...]]:
        with self.connect() as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def notify(self) -> None:
        self.sql(f'NOTIFY "{channel(self.uid)}"')

    def configure(self, **changes: Any) -> Configuration:
        """Write the configuration with these changes, and say so."""
        self.configuration = configuration(
            **{name: getattr(self.configuration, name) for name in Configuration.model_fields} | changes
        )
        self.write(self.configuration.canonical(), self.configuration.digest())
        return self.configuration

    def write(self, document: str, digest: str) -> None:
        self.sql(
            "INSERT INTO configuration (document, digest) VALUES (%s, %s) "
            "ON CONFLICT (id) DO UPDATE SET document = excluded.document, digest = excluded.digest",
            (document, digest),
        )
        self.notify()

    def add_key(
        self,
        name: str,
        scopes: tuple[str, ...] = SCOPES,
        user: str = "",
        act: bool = False,
        expires_at: float | None = None,
    ) -> str:
        key = f"tk-{secrets.token_urlsafe(32)}"
        self.sql(
            "INSERT INTO access_keys VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
            (str(uuid.uuid4()), name, f"tenant-{self.name}", key_sha256(key), user, list(scopes), act, expires_at),
        )
        return key

    def delete_key(self, key: str) -> None:
        self.sql("DELETE FROM access_keys WHERE key_sha256 = %s", (key_sha256(key),))

    def apply(self, replicas: "tuple[Replica, ...]", /, **changes: Any) -> None:
        """Change the configuration and wait until each of these replicas has it; the ledger starts anew."""
        digest = self.configure(**changes).digest()
        for replica in replicas:
            eventually(lambda replica=replica: f"configuration {digest[:12]} is in force" in replica.log.read_text())
        self.reset()

    def reset(self) -> None:
        """As if nothing had been called yet (documents stay)."""
        self.sql("TRUNCATE ledger, totals, meter, audit")

    def spent(self) -> int:
        """Nano-dollars that the ledger's settled rows add up to."""
        return int(self.sql("SELECT coalesce(sum(cost_nano), 0) FROM ledger WHERE status = 'settled'")[0][0])

    def settled(self) -> None:
        """Wait until no call is open."""
        eventually(lambda: self.sql("SELECT count(*) FROM ledger WHERE status = 'reserved'")[0][0] == 0)

    @contextmanager
    def replica(self, module: str = "tenantry_runtime", **env: str) -> Iterator[Replica]:
        """A running, ready process of this tenant's service; `module`: what runs it."""
        log = self.stack.folder / f"{self.name}-{secrets.token_hex(4)}.log"
        settings = {
            "TENANTRY_CREDENTIALS": str(self.file),
            "TENANTRY_HOST": "127.0.0.1",
            "TENANTRY_PORT": "0",
            "TENANTRY_METRICS_PORT": "0",
            "TENANTRY_DRAIN_SECONDS": "0",
        }
        with process(["-m", module], log, settings | env) as child:
            replica = Replica(child, log)
            eventually(replica.ready)
            yield replica


class Stack:
    """The servers that all tenants share."""

    def __init__(self, folder: Path, postgres: Server, milvus_uri: str, provider_url: str) -> None:
        from pymilvus import MilvusClient

        self.folder, self.postgres = folder, postgres
        self.milvus_uri, self.provider_url = milvus_uri, provider_url
        self.vectors = MilvusClient(uri=milvus_uri, timeout=30, grpc_options=SELDOM)
        make_collection(self.vectors)

    def tenant(
        self,
        provider_url: str | None = None,
        provider_timeout: float = 60,
        isolation: str = "Partition",
        **changes: Any,
    ) -> Tenant:
        """A new tenant, its vectors isolated at one of the three levels; `changes` are of its configuration."""
        name = f"t{secrets.token_hex(5)}"
        tenant = Tenant(self, name, provider_url or self.provider_url, provider_timeout, isolation)
        if changes:
            tenant.configure(**changes)
        return tenant


def make_collection(client: Any, name: str = COLLECTION) -> None:
    """A collection as the operator makes it."""
    from pymilvus import DataType

    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", DataType.VARCHAR, max_length=64, is_primary=True)
    for field, length in (("tenant", 32), ("file_id", 64), ("store_id", 64), ("text", 8192)):
        schema.add_field(field, DataType.VARCHAR, max_length=length)
    schema.add_field("chunk", DataType.INT64)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=256)
    index = client.prepare_index_params()
    index.add_index("vector", index_type="AUTOINDEX", metric_type="COSINE")
    client.create_collection(name, schema=schema, index_params=index)
    client.load_collection(name)


@contextmanager
def running(folder: Path) -> Iterator[Stack]:
    """Start the shared servers; all are ended with the block."""
    key = folder / "provider-key"
    key.write_text(PROVIDER_KEY)
    milvus_port, provider_port = net.free_port(), net.free_port()
    postgres = Server(embedded_bin(), folder / "postgres", settings={"max_connections": "200", "fsync": "off"})
    words = ["-m", "milvus_lite", "server", "--data-dir", str(folder / "milvus"), "--host", "127.0.0.1"]
    provider = ["-m", "dev.provider", "--port", str(provider_port), "--api-key-file", str(key)]
    with (
        process([*words, "--port", str(milvus_port)], folder / "milvus.log") as milvus,
        process(provider, folder / "provider.log") as stand_in,
    ):
        try:
            postgres.start()
            postgres.sql("CREATE DATABASE tenantry")
            for child, port, log in ((milvus, milvus_port, "milvus"), (stand_in, provider_port, "provider")):

                def up(child: subprocess.Popen[bytes] = child, port: int = port, log: str = log) -> bool:
                    assert child.poll() is None, (folder / f"{log}.log").read_text()
                    return net.answers("127.0.0.1", port)

                eventually(up)
            yield Stack(folder, postgres, f"http://127.0.0.1:{milvus_port}", f"http://127.0.0.1:{provider_port}/v1")
        finally:
            postgres.stop()
