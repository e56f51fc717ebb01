"""A tenant's plan, a backend at a real server, and connections as every role."""

from __future__ import annotations

import functools
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import psycopg
from psycopg import pq, sql

from dev.cluster import postgres
from tenantry.backends.postgres import Admin, PostgresBackend
from tenantry.credentials import FIRST, Logins
from tenantry.desired import database
from tenantry.desired.database import DatabasePlan
from tenantry.desired.postgres.things import Things
from tenantry.resolve import Resolved
from tenantry_runtime import config
from tests import samples

ADMIN_PASSWORD = "the admin's own"
CREDENTIALS = samples.credentials()
LEVELS = ("Schema", "Database")


@functools.cache
def _sample() -> Resolved:
    return samples.resolved()


def resolved(name: str, uid: str, level: str, replicas: int = 1) -> Resolved:
    """The sample tenant; the sample region's application database is the server's."""
    return replace(_sample(), name=name, uid=uid, database_isolation=cast(Any, level), replicas=replicas)


def configuration(
    name: str, uid: str, instructions: str = "100% polite; don't \\ guess", **more: Any
) -> config.Configuration:
    return config.Configuration(
        **more,
        tenant=name,
        tenant_uid=uid,
        display_name=name,
        tier="free",
        region="us",
        default_model="small",
        allowed_models=("small",),
        prices={"small": config.ModelPrice(input_nano=1, output_nano=2)},
        prompt=config.Prompt(template="You serve {{ tenantName }}.", custom_instructions=instructions),
        documents=config.Documents(max_files=10, max_file_bytes=1000),
        embedding=config.Embedding(model="small", dimension=8),
    )


@dataclass
class Tenant:
    """One tenant of one test, and everything that a test asks of it."""

    server: postgres.Server
    level: str
    name: str = field(default_factory=lambda: f"t-{uuid.uuid4().hex[:12]}")
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))
    home: str = postgres.DATABASE
    """The application database."""

    def plan(self, *, logins: Logins = FIRST, replicas: int = 1, **more: Any) -> DatabasePlan:
        wanted = resolved(self.name, self.uid, self.level, replicas)
        made = database.plan(wanted, CREDENTIALS, configuration(self.name, self.uid, **more), logins)
        return replace(made, application_database=self.home)

    @property
    def things(self) -> Things:
        return Things(self.name, self.uid)

    @property
    def database(self) -> str:
        return self.things.database if self.level == "Database" else self.home

    @contextmanager
    def session(self, role: str = "tenant", dbname: str = "") -> Iterator[psycopg.Connection[Any]]:
        """As `tenant`, or as the runtime's login `a` or `b`, with the password of generation 0 or 1."""
        if role == "tenant":
            user, password = self.things.login, CREDENTIALS.tenant_postgres(self.uid)
        else:
            user, password = self.things.slot(role), CREDENTIALS.runtime_postgres(self.uid, "ab".index(role))
        with self.server.connect(user, password, dbname or self.database) as connection:
            yield connection

    def superuser(self, statement: str, **names: str) -> list[tuple[Any, ...]]:
        """Run a statement in the tenant's database; ``{name}`` stands for an identifier."""
        known = {
            "schema": self.things.schema,
            "runtime": self.things.runtime_schema,
            "owner": self.things.owner,
            "runtime_owner": self.things.runtime_owner,
            "login": self.things.login,
            "group": self.things.group,
            "a": self.things.slot("a"),
            "b": self.things.slot("b"),
            "maker": self.things.maker,
            "other_maker": next(name for name in self.things.makers if name != self.things.maker),
            "database": self.database,
            **names,
        }
        query = sql.SQL(cast(Any, statement)).format(**{key: sql.Identifier(name) for key, name in known.items()})
        return self.server.sql(query, dbname=self.database)

    def leftovers(self) -> list[str]:
        """Every role, schema and database that carries this tenant's name."""
        pattern = self.things.schema.replace("_", r"\_") + "%"
        found = self.server.sql(
            "SELECT rolname FROM pg_roles WHERE rolname LIKE %s"
            " UNION ALL SELECT datname FROM pg_database WHERE datname LIKE %s",
            (pattern, pattern),
        )
        found += self.server.sql("SELECT nspname FROM pg_namespace WHERE nspname LIKE %s", (pattern,), "tenantry")
        return sorted(str(row[0]) for row in found)

    def retained_database(self) -> str:
        return self.things.retained_database if self.level == "Database" else "tenantry"


Kind = type[psycopg.AsyncConnection[Any]]


def backend(
    server: postgres.Server, kind: Kind = psycopg.AsyncConnection, database: str = postgres.DATABASE
) -> PostgresBackend:
    admin = Admin("127.0.0.1", server.port, database, postgres.ADMIN, ADMIN_PASSWORD)
    return PostgresBackend(admin, kind)


def recording() -> tuple[Kind, list[str]]:
    """A kind of connection, and the statements that all of its kind have run."""
    statements: list[str] = []

    class Recording(psycopg.AsyncConnection[Any]):
        async def execute(self, query: Any, params: Any = None, **more: Any) -> Any:
            statements.append(query if isinstance(query, str) else query.as_string(self))
            return await super().execute(query, params, **more)

    return Recording, statements


def newest(server: postgres.Server) -> bool:
    """Whether this is the version that is tested most."""
    return bool(server.sql("SELECT current_setting('server_version_num')::int >= 160000")[0][0])


class Crash(Exception):
    """The operator's process ended here."""


def crashing(at: int, server: postgres.Server, level: str) -> tuple[Kind, list[int]]:
    """A kind of connection that is lost just before its `at`-th statement; the list holds the number run.

    The newest version at level Schema counts every statement.  Elsewhere, to save time, those inside a
    transaction count as one, at its COMMIT: losing the connection at any of them undoes the same.
    """
    count = [0]
    every = level == "Schema" and newest(server)

    class Crashing(psycopg.AsyncConnection[Any]):
        async def execute(self, query: Any, params: Any = None, **more: Any) -> Any:
            inside = self.info.transaction_status == pq.TransactionStatus.INTRANS
            if every or not inside or query.as_string(self) == "COMMIT":
                count[0] += 1
            if count[0] >= at:
                self.pgconn.finish()
                raise Crash
            return await super().execute(query, params, **more)

    return Crashing, count


MOST = 80


async def crashes(
    server: postgres.Server,
    level: str,
    begin: Callable[[], Awaitable[Tenant]],
    work: Callable[[PostgresBackend, Tenant], Awaitable[object]],
    every: int = 0,
) -> AsyncIterator[tuple[Tenant, int]]:
    """What a crash of `work` before each of its statements in turn left: the tenant, and the statement's number.

    Every point on the newest version, every third on the other, to save time; or every `every`-th.
    """
    for at in range(1, MOST, every or (1 if newest(server) else 3)):
        tenant = await begin()
        kind, count = crashing(at, server, level)
        dying = backend(server, kind)
        try:
            await work(dying, tenant)
        except Crash:
            assert count[0] == at
        else:
            assert at > 4
            return
        finally:
            await dying.close()
        yield tenant, at
    raise AssertionError(f"more than {MOST} statements")
