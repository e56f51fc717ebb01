"""Schemas, default privileges, the runtime's tables and its configuration row: a plan less what is there."""

from collections.abc import Iterator, Mapping, Sequence
from typing import LiteralString

from psycopg import sql

from tenantry.desired.database import DatabasePlan, Migration
from tenantry.desired.postgres import audit
from tenantry.desired.postgres.seen import Inside, SeenThing
from tenantry.desired.postgres.statements import (
    Correction,
    Statement,
    as_member,
    comment,
    grants,
    same,
    statement,
    trusted,
)

_KINDS: Mapping[str, sql.SQL] = {
    "r": sql.SQL("TABLES"),
    "S": sql.SQL("SEQUENCES"),
    "f": sql.SQL("FUNCTIONS"),
    "T": sql.SQL("TYPES"),
    "n": sql.SQL("SCHEMAS"),
    "L": sql.SQL("LARGE OBJECTS"),
}
_BUILT_IN = {"f": frozenset({("", "EXECUTE", False)}), "T": frozenset({("", "USAGE", False)})}
"""What PostgreSQL grants to PUBLIC where nothing else is said."""

_FOR_THE_TENANT = {
    "r": ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"),
    "S": ("SELECT", "UPDATE", "USAGE"),
    "f": ("EXECUTE",),
    "T": ("USAGE",),
}
"""What the tenant may do with things that the platform makes in its schema as the schema's owner."""


def foreign(plan: DatabasePlan, seen: Inside) -> tuple[str, str] | None:
    """A schema that has a name of ours and is not ours, and the UID of the Tenant whose it is, if any."""
    for name in plan.things.schemas:
        if name in seen.schemas and not plan.things.owns(seen.schemas[name].comment):
            return f"Schema {name}", plan.things.owner_said(seen.schemas[name].comment)
    return None


def corrections(plan: DatabasePlan, seen: Inside) -> list[Correction]:
    """In the order in which they can run.  Requires that nothing is foreign and that the roles are there."""
    return [
        *_public(seen),
        *_defaults(plan, seen),
        *_schemas(plan, seen),
        *_migrations(plan, seen),
        *_tables(plan, seen),
        *_functions(plan, seen),
        *_configuration(plan, seen),
    ]


def _public(seen: Inside) -> Iterator[Correction]:
    """Once a database: nobody makes or uses anything in the schema public."""
    acl = seen.schemas["public"].acl if "public" in seen.schemas else frozenset()
    if found := grants(statement("SCHEMA {}", "public"), (), frozenset(e for e in acl if not e[0])):
        yield Correction("grants on schema public", found, shared=True)


def _defaults(plan: DatabasePlan, seen: Inside) -> Iterator[Correction]:
    """Nothing that a role of ours makes is PUBLIC's."""
    things = plan.things
    rows = {(row.role, row.schema, row.kind): row.acl for row in seen.defaults}
    for owner in (things.owner, things.login, things.runtime_owner):
        found: list[Statement] = []
        kinds = {kind for role, schema, kind in rows if role == owner and not schema}
        for kind in sorted(kinds | set(_BUILT_IN) | set(_FOR_THE_TENANT if owner == things.owner else ())):
            wanted = _FOR_THE_TENANT.get(kind, ()) if owner == things.owner else ()
            acl = rows.get((owner, "", kind), _BUILT_IN.get(kind, frozenset()))
            granted = {(things.login, privilege) for privilege in wanted}
            if not same(granted, acl):
                prefix = statement("ALTER DEFAULT PRIVILEGES FOR ROLE {} ", owner)
                found += grants(_KINDS[kind], granted, acl, prefix)
        for (role, schema, kind), acl in rows.items():
            if role == owner and schema:
                prefix = statement("ALTER DEFAULT PRIVILEGES FOR ROLE {} IN SCHEMA {} ", owner, schema)
                found += grants(_KINDS[kind], (), acl, prefix)
        if found:
            made = as_member(owner, *found) if owner not in things.owners else tuple(found)
            yield Correction(f"default privileges of role {owner}", made)


def _schemas(plan: DatabasePlan, seen: Inside) -> Iterator[Correction]:
    things = plan.things
    for name, owner, wanted in (
        (things.schema, things.owner, {(things.login, "USAGE"), (things.login, "CREATE")}),
        (things.runtime_schema, things.runtime_owner, {(things.group, "USAGE")}),
    ):
        schema = seen.schemas.get(name)
        target = statement("SCHEMA {}", name)
        if schema is None:
            create = statement("CREATE SCHEMA {} AUTHORIZATION {}", name, owner)
            rest = (comment("SCHEMA", name, things.comment), *grants(target, wanted, frozenset()))
            made: tuple[Statement, ...] = (create, statement("SET LOCAL ROLE {}", owner), *rest, sql.SQL("RESET ROLE"))
            yield Correction(f"schema {name}", made, admin=True)
            continue
        if schema.owner != owner:
            back = statement("ALTER SCHEMA {} OWNER TO {}", name, owner)
            yield Correction(f"owner of schema {name}", (back,), admin=True)
        if found := grants(target, wanted, schema.acl):
            yield Correction(f"grants on schema {name}", found)


def _fresh(plan: DatabasePlan, seen: Inside) -> bool:
    """The runtime's schema is made now, with all that is in it."""
    return plan.things.runtime_schema not in seen.schemas and not seen.relations and not seen.functions


def _migrations(plan: DatabasePlan, seen: Inside) -> Iterator[Correction]:
    """As the schema's owner, who so owns the tables; what an owner may not do, a migration may not."""
    missing = [m for m in plan.migrations if m.number not in seen.migrations]
    if not missing:
        return
    things = plan.things
    give: tuple[Statement, ...] = ()
    take: tuple[Statement, ...] = ()
    if plan.functions and _fresh(plan, seen):
        # A GRANT by name has PostgreSQL read the functions of that name in all schemas, of which each tenant has one.
        group = sql.Identifier(things.group)
        give = (sql.SQL("ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO {}").format(group),)
        take = (sql.SQL("ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM {}").format(group),)
    yield Correction(
        f"migrations {missing[0].number} to {missing[-1].number} of schema {things.runtime_schema}",
        (
            statement("SET LOCAL ROLE {}", things.runtime_owner),
            statement("SET LOCAL search_path TO {}", things.runtime_schema),
            # Tests have them checked.  To name what it checks, PL/pgSQL reads all tenants' functions of that name.
            sql.SQL("SET LOCAL check_function_bodies = off"),
            *give,
            *(() if "schema_migrations" in seen.relations else (trusted(plan.schema_migrations),)),
            *(trusted(migration.sql) for migration in missing),
            _applied(missing),
            *take,
            sql.SQL("RESET search_path"),
            sql.SQL("RESET ROLE"),
        ),
        drift=False,
    )


def _applied(migrations: Sequence[Migration]) -> Statement:
    """Their rows in one statement: each costs PostgreSQL a plan, and all are of one transaction."""
    rows = (sql.SQL("({}, {})").format(sql.Literal(m.number), sql.Literal(m.name)) for m in migrations)
    return sql.SQL("INSERT INTO schema_migrations (number, name) VALUES {}").format(sql.SQL(", ").join(rows))


def _tables(plan: DatabasePlan, seen: Inside) -> Iterator[Correction]:
    things = plan.things
    alike: dict[tuple[str, ...], list[str]] = {}
    for name in sorted(plan.grants.keys() - seen.relations.keys()):
        alike.setdefault(plan.grants[name], []).append(name)
    fresh: list[Statement] = []
    for privileges, names in alike.items():
        wanted = {(things.group, privilege) for privilege in privileges}
        fresh += grants(_in_runtime_schema("TABLE {}", plan, *names), wanted, frozenset())
    if fresh:
        yield Correction(f"grants on the new tables of schema {things.runtime_schema}", tuple(fresh), drift=False)
    for name, relation in sorted(seen.relations.items()):
        if name not in plan.grants and relation.owner != things.runtime_owner:
            continue  # somebody else's, such as a superuser's; the schema keeps others away from it
        wanted = {(things.group, privilege) for privilege in plan.grants.get(name, ())}
        stolen = relation.owner != things.runtime_owner
        if not stolen and same(wanted, relation.acl):
            continue
        target = _in_runtime_schema("SEQUENCE {}" if relation.kind == "S" else "TABLE {}", plan, name)
        if found := _owned(target, wanted, relation, things.runtime_owner):
            yield Correction(f"grants on table {things.runtime_schema}.{name}", found, admin=stolen)


def _functions(plan: DatabasePlan, seen: Inside) -> Iterator[Correction]:
    things = plan.things
    execute = {(things.group, "EXECUTE")}
    known = {function.name for function in seen.functions.values()}
    missing = sorted(set(plan.functions) - known)
    if missing and not _fresh(plan, seen):
        fresh = grants(_in_runtime_schema("ROUTINE {}", plan, *missing), execute, frozenset())
        yield Correction(f"grants on the new functions of schema {things.runtime_schema}", fresh, drift=False)
    for signature, function in sorted(seen.functions.items()):
        if function.name not in plan.functions and function.owner != things.runtime_owner:
            continue
        wanted = execute if function.name in plan.functions else set()
        stolen = function.owner != things.runtime_owner
        if not stolen and same(wanted, function.acl):
            continue
        target = statement("ROUTINE {signature}", signature=trusted(signature))
        if found := _owned(target, wanted, function, things.runtime_owner):
            yield Correction(f"grants on function {things.runtime_schema}.{function.name}", found, admin=stolen)


def _in_runtime_schema(text: LiteralString, plan: DatabasePlan, *names: str) -> sql.Composed:
    return sql.SQL(text).format(sql.SQL(", ").join(sql.Identifier(plan.things.runtime_schema, n) for n in names))


def _owned(target: sql.Composable, wanted: set[tuple[str, str]], seen: SeenThing, owner: str) -> tuple[Statement, ...]:
    """Owner and grants; who owns a table could grant itself anything on it."""
    back = () if seen.owner == owner else (statement("ALTER {on} OWNER TO {}", owner, on=target),)
    return (*back, *grants(target, wanted, seen.acl))


def _configuration(plan: DatabasePlan, seen: Inside) -> Iterator[Correction]:
    """Drift is a row whose document does not fit its digest, or that is gone; else the plan is newer."""
    row = seen.configuration
    if row.get("digest") == row.get("true_digest") == plan.configuration_digest:
        return
    fresh = "configuration" not in seen.relations
    tampered = not fresh and (not row or row["digest"] != row["true_digest"])
    yield Correction("configuration row", (*audit.configuration(plan), notify(plan.things.channel)), drift=tampered)


def notify(channel: str) -> Statement:
    """Without payload: other tenants of the database could read one."""
    return statement("NOTIFY {}", channel)
