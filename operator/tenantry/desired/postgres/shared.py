"""Roles and databases: what a plan asks for, less what is there."""

from collections.abc import Iterator, Sequence
from typing import LiteralString

from psycopg import sql

from tenantry.credentials import SLOTS, Logins, slot
from tenantry.desired.database import DatabasePlan, Role
from tenantry.desired.postgres import scram
from tenantry.desired.postgres.seen import Membership, SeenRole, SeenThing, Shared
from tenantry.desired.postgres.statements import Correction, Statement, comment, grants, statement
from tenantry.desired.postgres.things import CONNECT_COMMENT, CONNECT_ROLE, Things

GENERATION = "generation="
PASSWORD = "password="  # noqa: S105 - a note's name
LONGEST_GENERATION = 9
"""Digits."""

_OFF = {
    "superuser": "NOSUPERUSER",
    "inherit": "NOINHERIT",
    "createrole": "NOCREATEROLE",
    "createdb": "NOCREATEDB",
    "login": "NOLOGIN",
    "replication": "NOREPLICATION",
    "bypassrls": "NOBYPASSRLS",
}


def foreign(plan: DatabasePlan, seen: Shared) -> tuple[str, str] | None:
    """A role or database that has a name of ours and is not ours, and the UID of the Tenant whose it is, if any."""
    for name in plan.things.roles:
        if name in seen.roles and not plan.things.owns(seen.roles[name].comment):
            return f"Role {name}", Things.owner_said(seen.roles[name].comment)
    for name in (CONNECT_ROLE, *plan.things.makers):
        if name in seen.roles and seen.roles[name].comment != CONNECT_COMMENT:
            return f"Role {name}", ""
    home = seen.databases.get(plan.database)
    if home and plan.isolation == "Database" and not owns_database(plan.things, home):
        return f"Database {plan.database}", Things.owner_said(home.comment)
    return None


def owns_database(things: Things, database: SeenThing) -> bool:
    """Ours by its comment, or made a moment ago: its owner is a role of ours and it has no comment yet."""
    return things.owns(database.comment) or (database.comment is None and database.owner == things.owner)


def maker(plan: DatabasePlan, seen: Shared) -> str | None:
    """In whose name the tenant's roles are made and changed; None: the admin's own, which made them.

    A tenant that was there before there were makers stays the admin's.
    """
    there = seen.roles.keys() & set(plan.things.roles)
    return plan.things.maker if seen.made or not there else None


def closes(plan: DatabasePlan, seen: Shared) -> bool:
    """Whether nobody may become the tenant's owners but within a transaction that changes something of it.

    Whoever may SET ROLE to some roles has PostgreSQL read them all before it becomes one, after each change of any
    role; the admin would read the owners of all tenants.  It has their rights without that.  Not at level Database,
    where databases are made outside transactions.
    """
    return seen.options and plan.isolation == "Schema" and maker(plan, seen) is not None


def opening(plan: DatabasePlan, seen: Shared) -> Correction | None:
    """Goes before what changes a tenant that is closed; in the maker's name."""
    shut = [name for name in plan.things.owners if name in seen.made - seen.settable]
    return _settable(shut, "TRUE") if shut and closes(plan, seen) else None


def closing(plan: DatabasePlan, seen: Shared) -> Correction | None:
    """Comes after all else that a transaction changes."""
    there = [name for name in plan.things.owners if name in seen.made or name not in seen.roles]
    return _settable(there, "FALSE") if there and closes(plan, seen) else None


def _settable(owners: Sequence[str], word: LiteralString) -> Correction:
    whose = sql.SQL(", ").join(map(sql.Identifier, owners))
    change = statement("GRANT {roles} TO CURRENT_USER WITH SET {word}", roles=whose, word=sql.SQL(word))
    return Correction(f"the operator's own membership of {owners[0]}", (change,), drift=False)


def corrections(plan: DatabasePlan, seen: Shared) -> list[Correction]:
    """In the order in which they can run.  Requires that nothing is foreign."""
    return [
        *_region(plan, seen),
        *_roles(plan, seen),
        *(_database(plan, seen) if plan.isolation == "Database" else ()),
    ]


def _region(plan: DatabasePlan, seen: Shared) -> Iterator[Correction]:
    """Once for all tenants: nobody connects to the application database but members of one role."""
    name = plan.application_database
    if CONNECT_ROLE not in seen.roles:
        yield Correction(
            f"role {CONNECT_ROLE}",
            (
                statement("CREATE ROLE {} NOLOGIN", CONNECT_ROLE),
                comment("ROLE", CONNECT_ROLE, CONNECT_COMMENT),
            ),
            drift=False,
            shared=True,
        )
    yield from _maker(plan, seen)
    acl = seen.databases[name].acl
    of_ours = frozenset(entry for entry in acl if entry[0] in ("", CONNECT_ROLE, *plan.things.roles))
    if found := grants(statement("DATABASE {}", name), {(CONNECT_ROLE, "CONNECT")}, of_ours):
        yield Correction(f"grants on database {name}", found, shared=True)


def _maker(plan: DatabasePlan, seen: Shared) -> Iterator[Correction]:
    """Made for the first tenant that needs it."""
    name = maker(plan, seen)
    if name is None:
        return
    grant = "GRANT {} TO {} WITH ADMIN OPTION"
    role = seen.roles.get(name)
    if role is None:
        made: list[Statement] = []
        for new in (name for name in plan.things.makers if name not in seen.roles):
            made.append(statement("CREATE ROLE {} WITH NOLOGIN INHERIT CREATEROLE ROLE CURRENT_USER", new))
            made.append(comment("ROLE", new, CONNECT_COMMENT))
            made.append(statement(grant, CONNECT_ROLE, new))
        yield Correction(f"role {name}", tuple(made), drift=False, shared=True)
        return
    found: list[Statement] = []
    if words := _attributes(role, frozenset({"inherit", "createrole"})):
        found.append(statement("ALTER ROLE {} WITH {changes}", name, changes=sql.SQL(" ").join(words)))
    if not role.usable:
        found.append(statement("GRANT {} TO CURRENT_USER", name))
    if not seen.maker_grants:
        found.append(statement(grant, CONNECT_ROLE, name))
    if found:
        yield Correction(f"role {name}", tuple(found), shared=True)


def _roles(plan: DatabasePlan, seen: Shared) -> Iterator[Correction]:
    unusable = [name for name in plan.things.owners if name in seen.roles and not seen.roles[name].usable]
    missing = [role for role in plan.roles if role.name not in seen.roles]
    if missing:
        made = tuple(_create(missing, plan.things, itself=maker(plan, seen) is None))
        yield Correction(f"roles {', '.join(role.name for role in missing)}", made)
    if unusable:
        whose = sql.SQL(", ").join(map(sql.Identifier, unusable))
        yield Correction("the operator's own membership", (statement("GRANT {roles} TO CURRENT_USER", roles=whose),))
    for role in plan.roles:
        if role.name in seen.roles:
            yield from _role(plan.things, role, seen.roles[role.name])


def _create(roles: Sequence[Role], things: Things, *, itself: bool) -> Iterator[Statement]:
    """In few statements and in this order, the membership of who makes them included.

    For each statement that changes a role PostgreSQL 16 and later goes through all roles that the current role may
    administer, and after each one that makes or grants a role it reads them all anew.  `itself`: where that is the
    admin, and so has many, a role changes its own settings, which asks for no such look.
    """
    for role in roles:
        changes: list[sql.Composable] = [sql.SQL("LOGIN INHERIT" if role.login else "NOLOGIN INHERIT")]
        if role.connection_limit != -1:
            changes.append(sql.SQL("CONNECTION LIMIT {}").format(sql.Literal(role.connection_limit)))
        if role.login:
            changes.append(sql.SQL("PASSWORD {}").format(sql.Literal(_verifier(role))))
        if itself or role.name in things.owners:
            changes.append(sql.SQL("ROLE CURRENT_USER"))
        yield statement("CREATE ROLE {} WITH {changes}", role.name, changes=sql.SQL(" ").join(changes))
    for role in roles:
        yield comment("ROLE", role.name, role_comment(things, role))
    for role in roles:
        if role.settings and itself:
            yield statement("SET LOCAL ROLE {}", role.name)
        for name, value in role.settings.items():
            yield statement("ALTER ROLE {} SET {} = {value}", role.name, name, value=sql.Literal(value))
        if role.settings and itself:
            yield sql.SQL("RESET ROLE")


def _role(things: Things, role: Role, seen: SeenRole) -> Iterator[Correction]:
    words = _attributes(seen, frozenset({"inherit", "login"} if role.login else {"inherit"}))
    if seen.expires:
        words.append(sql.SQL("VALID UNTIL 'infinity'"))
    changes: list[sql.Composable] = list(words)
    if seen.connection_limit != role.connection_limit:
        changes.append(sql.SQL("CONNECTION LIMIT {}").format(sql.Literal(role.connection_limit)))
    if changes:
        yield Correction(
            f"attributes of role {role.name}",
            (statement("ALTER ROLE {} WITH {changes}", role.name, changes=sql.SQL(" ").join(changes)),),
            admin=True,  # who takes CREATEDB away must have it
        )
    note = role_comment(things, role)
    if seen.comment != note:
        secret = sql.Literal(_verifier(role)) if role.login else sql.SQL("NULL")
        set_password = statement("ALTER ROLE {} WITH PASSWORD {secret}", role.name, secret=secret)
        yield Correction(
            f"password of role {role.name}",
            (*((set_password,) if role.login or seen.comment else ()), comment("ROLE", role.name, note)),
            drift=False,
        )
    if found := tuple(_settings(role, seen)):
        yield Correction(f"settings of role {role.name}", found)


def _attributes(seen: SeenRole, wanted: frozenset[str]) -> list[sql.SQL]:
    words = [sql.SQL(_OFF[flag]) for flag in sorted(seen.flags - wanted)]
    return words + [sql.SQL(flag.upper()) for flag in sorted(wanted - seen.flags)]


def role_comment(things: Things, role: Role) -> str:
    """The UID, whose turn it is, and a digest of the password: what is set can't be read back, so it is kept here."""
    notes = [things.comment]
    if role.generation:
        notes.append(f"{GENERATION}{role.generation}")
    if role.login:
        notes.append(f"{PASSWORD}{scram.digest(role.password, role.name)}")
    return " ".join(notes)


def generation(comment: str | None) -> int:
    """What `role_comment` noted; 0 where it noted none."""
    for word in (comment or "").split(" "):
        digits = word.removeprefix(GENERATION)
        if word != digits and digits.isascii() and digits.isdigit() and len(digits) <= LONGEST_GENERATION:
            return int(digits)
    return 0


def newest(things: Things, seen: Shared) -> Logins:
    """The runtime's logins as they were last set: the newest generation, and whether the one before is accepted."""
    slots = {name: seen.roles[name] for name in map(things.slot, SLOTS) if name in seen.roles}
    current = max((generation(role.comment) for role in slots.values() if things.owns(role.comment)), default=0)
    before = slots.get(things.slot(slot(current - 1)))
    return Logins(
        current,
        database_previous=current > 0
        and before is not None
        and generation(before.comment) == current - 1
        and PASSWORD in (before.comment or ""),
    )


def ahead(plan: DatabasePlan, seen: Shared) -> Logins | None:
    """What the server has, where the plan would go back to a login whose time is over."""
    has, wants = newest(plan.things, seen), plan.logins
    reopens = wants.generation > 0 and wants.database_previous and not has.database_previous
    return has if has.generation > wants.generation or (has.generation == wants.generation and reopens) else None


def reset_password(things: Things, role: Role) -> Correction:
    """For a role that may log in but is refused with its password."""
    secret = sql.Literal(_verifier(role))
    return Correction(
        f"password of role {role.name}",
        (
            statement("ALTER ROLE {} WITH PASSWORD {secret}", role.name, secret=secret),
            comment("ROLE", role.name, role_comment(things, role)),
        ),
    )


def _verifier(role: Role) -> str:
    return scram.verifier(role.password, role.name, role.iterations)


def _settings(role: Role, seen: SeenRole) -> Iterator[Statement]:
    for name, value in role.settings.items():
        if seen.settings.get("", {}).get(name) != value:
            yield statement("ALTER ROLE {} SET {} = {value}", role.name, name, value=sql.Literal(value))
        for database, settings in seen.settings.items():
            if database and name in settings:
                yield statement("ALTER ROLE {} IN DATABASE {} RESET {}", role.name, database, name)


def memberships(plan: DatabasePlan, seen: Shared) -> Iterator[Correction]:
    """For the end of the transaction: from 16 on PostgreSQL locks CONNECT_ROLE, which all tenants share, until then."""
    wanted = {(group, role.name) for role in plan.roles for group in role.member_of}
    fine = {(m.group, m.member) for m in seen.members if (m.group, m.member) in wanted and m.inherit and not m.admin}
    wrong = [m for m in seen.members if m.admin or (m.group, m.member) not in fine]
    what = f"memberships of the roles of {plan.things.schema}"
    if wrong:
        # The admin has the rights of all whom it lets grant; a maker has its own only.
        yield Correction(what, tuple(map(_revoke, dict.fromkeys(wrong))), admin=True, last=True)
    found: list[Statement] = []
    missing = sorted(wanted - fine)
    for group in dict.fromkeys(group for group, _ in missing):
        whom = sql.SQL(", ").join(sql.Identifier(m) for g, m in missing if g == group)
        found.append(statement("GRANT {} TO {whom}", group, whom=whom))
    if found:
        # A grant locks the granted role, and one is every tenant's.
        yield Correction(what, tuple(found), last=True)


def _revoke(membership: Membership) -> Statement:
    by = statement(" GRANTED BY {}", membership.grantor) if membership.grantor else sql.SQL("")
    return statement("REVOKE {} FROM {}{by} CASCADE", membership.group, membership.member, by=by)


def _database(plan: DatabasePlan, seen: Shared) -> Iterator[Correction]:
    """Closed until PUBLIC may no longer connect.  Its owner marks it as ours until it has its comment."""
    name, things = plan.database, plan.things
    database = seen.databases.get(name)
    if database is None:
        create = statement("CREATE DATABASE {} OWNER {} TEMPLATE template0 ALLOW_CONNECTIONS false", name, things.owner)
        yield Correction(f"database {name}", (create,), alone=True, admin=True)
        return
    found: list[Statement] = []
    if database.owner != things.owner:
        found.append(statement("ALTER DATABASE {} OWNER TO {}", name, things.owner))
    wanted = {(things.login, "CONNECT"), (things.group, "CONNECT")}
    found += grants(statement("DATABASE {}", name), wanted, database.acl)
    if not things.owns(database.comment):
        found.append(comment("DATABASE", name, things.comment))
    if not database.open:
        found.append(statement("ALTER DATABASE {} WITH ALLOW_CONNECTIONS true", name))
    if found:
        yield Correction(f"grants on database {name}", tuple(found), admin=True)
