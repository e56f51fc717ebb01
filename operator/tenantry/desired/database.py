"""Resolved tenant -> everything that PostgreSQL should hold for it.  Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Protocol

from tenantry.credentials import FIRST, Credentials, Logins, slot
from tenantry.desired.postgres import scram
from tenantry.desired.postgres.things import CONNECT_ROLE, Isolation, Things
from tenantry.desired.quota import rollout_pods
from tenantry.resolve import Resolved
from tenantry_runtime import migrations as runtime_migrations
from tenantry_runtime.config import Configuration

TENANT_CONNECTIONS = 20
RUNTIME_CONNECTIONS = 20
RUNTIME_CONNECTIONS_PER_POD = 10
"""For as many Pods as the quota lets be there during a rollout.  Each has a pool of 6, four that its requests share and
one that listens: eleven where all are open, for which the 20 leave room."""


class Migration(Protocol):
    """One numbered file of the runtime's tables, with unqualified names."""

    @property
    def number(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def sql(self) -> str: ...


@dataclass(frozen=True)
class Role:
    """One role as it should be; `password` set means that it may log in."""

    name: str
    password: str = field(default="", repr=False)
    connection_limit: int = -1
    settings: Mapping[str, str] = field(default_factory=dict)
    """Settings of the role's sessions in every database, as pg_db_role_setting shows them."""
    member_of: tuple[str, ...] = ()
    generation: int = 0
    """Of a login that is rotated: whose turn it is, or was last."""
    iterations: int = scram.ITERATIONS
    """Of the password's verifier.  A role that is there keeps what it has until its password changes."""

    @property
    def login(self) -> bool:
        return bool(self.password)


@dataclass(frozen=True)
class DatabasePlan:
    """What `ensure` compares with what it sees."""

    things: Things
    isolation: Isolation
    application_database: str
    roles: tuple[Role, ...]
    migrations: tuple[Migration, ...]
    schema_migrations: str
    """The statement that makes the table of applied migrations."""
    grants: Mapping[str, tuple[str, ...]]
    """By table of the runtime's schema: the privileges of the runtime's group role; others get nothing."""
    functions: tuple[str, ...]
    """Functions of the runtime's schema that its group role may execute."""
    configuration: str
    configuration_digest: str
    audit_retention_days: int
    logins: Logins
    """Of the runtime's two, which may log in."""
    changed_by: str = ""
    """The field manager that wrote to the Tenant's spec last."""
    tenant_generation: int = 0
    """One that stays the same says that a change came from the tier or the region."""
    values: bool = False
    """Whether the audit of a change has the values too, not only which fields changed."""

    @property
    def database(self) -> str:
        """The database that holds the tenant's schemas."""
        return self.things.database if self.isolation == "Database" else self.application_database


def plan(
    resolved: Resolved,
    credentials: Credentials,
    configuration: Configuration,
    logins: Logins = FIRST,
    *,
    changed_by: str = "",
    tenant_generation: int = 0,
) -> DatabasePlan:
    """`logins`: which of the runtime's two may log in; both while a rotation is under way."""
    things = Things(resolved.name, resolved.uid)
    own_database = resolved.database_isolation == "Database"
    connect = () if own_database else (CONNECT_ROLE,)
    runtime_connections = RUNTIME_CONNECTIONS + RUNTIME_CONNECTIONS_PER_POD * rollout_pods(resolved.replicas)
    roles = [
        Role(things.owner),
        Role(things.runtime_owner),
        Role(things.group, member_of=connect),
        Role(
            things.login,
            credentials.tenant_postgres(things.uid),
            TENANT_CONNECTIONS,
            _settings(things.schema, {"idle_session_timeout": "1h"}),
            connect,
        ),
    ]
    for generation in sorted({logins.generation, abs(logins.generation - 1)}, key=slot):
        accepted = generation in logins.database
        roles.append(
            Role(
                things.slot(slot(generation)),
                credentials.runtime_postgres(things.uid, generation) if accepted else "",
                runtime_connections,
                _settings(things.runtime_schema),
                (things.group,),
                # Of a slot that was never used there is nothing to remember.
                min(generation, logins.generation),
                scram.FEW,
            )
        )
    return DatabasePlan(
        things=things,
        isolation=resolved.database_isolation,
        application_database=resolved.region_spec.postgres.database,
        roles=tuple(roles),
        migrations=_migrations(),
        schema_migrations=runtime_migrations.SCHEMA_MIGRATIONS,
        grants=MappingProxyType(runtime_migrations.GRANTS),
        functions=runtime_migrations.FUNCTIONS,
        configuration=configuration.canonical(),
        configuration_digest=configuration.digest(),
        audit_retention_days=resolved.compliance.retention_days,
        logins=logins,
        changed_by=changed_by,
        tenant_generation=tenant_generation,
        values=configuration.compliance.logging_level != "Basic",
    )


@cache
def _migrations() -> tuple[Migration, ...]:
    return tuple(runtime_migrations.load())


def _settings(schema: str, more: Mapping[str, str] | None = None) -> Mapping[str, str]:
    """The runtime keeps an idle session for LISTEN, so that only the tenant's sessions end when idle."""
    return {
        "search_path": schema,
        "statement_timeout": "60s",
        "idle_in_transaction_session_timeout": "60s",
        **(more or {}),
    }
