"""Small parts of which the builders are made.  Every name goes through psycopg.sql."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import LiteralString

from psycopg import sql

from tenantry.desired.postgres.seen import Acl

Statement = sql.SQL | sql.Composed


@dataclass(frozen=True)
class Correction:
    """What differs, and the statements that mend it."""

    what: str
    statements: tuple[Statement, ...]
    drift: bool = True
    """Somebody else changed it; False for what a changed plan asks for."""
    alone: bool = False
    """PostgreSQL refuses it inside a transaction."""
    shared: bool = False
    """It makes what all tenants share: it gets a transaction of its own, which others wait for."""
    admin: bool = False
    """Only the admin itself may do it, not a maker of roles in its name."""
    last: bool = False
    """It locks what all tenants share until the transaction ends, so it comes last in it."""


def word(text: str) -> sql.SQL:
    """A keyword as PostgreSQL itself reported it, such as SELECT.  Raises ValueError for anything else."""
    if not text.replace(" ", "").isalpha():
        raise ValueError(f"{text!r} is no keyword")
    return sql.SQL(text)


def trusted(text: str) -> sql.SQL:
    """SQL that we wrote (a migration), or that PostgreSQL quoted (a signature)."""
    return sql.SQL(text)


def statement(text: LiteralString, /, *names: str, **parts: sql.Composable) -> sql.Composed:
    """`names` fill ``{}`` as identifiers; `parts` fill by name as they are."""
    return sql.SQL(text).format(*(sql.Identifier(name) for name in names), **parts)


def role(name: str) -> sql.Composable:
    """The role, or PUBLIC for the empty name."""
    return sql.Identifier(name) if name else sql.SQL("PUBLIC")


def comment(kind: LiteralString, name: str, text: str) -> sql.Composed:
    return statement("COMMENT ON {kind} {} IS {text}", name, kind=sql.SQL(kind), text=sql.Literal(text))


def joined(statements: Iterable[Statement]) -> sql.Composed:
    """One text, which PostgreSQL runs as one transaction where none is begun."""
    return sql.SQL("\n;\n").join(statements)


def as_role(role: str, *statements: Statement) -> tuple[Statement, ...]:
    """In the role's name, until the transaction ends."""
    return (statement("SET LOCAL ROLE {}", role), *statements)


def as_member(role: str, *statements: Statement) -> tuple[Statement, ...]:
    """What takes the rights of a role of which the operator is no member for good."""
    give, take = statement("GRANT {} TO CURRENT_USER", role), statement("REVOKE {} FROM CURRENT_USER", role)
    return (give, *statements, take)


def same(want: Iterable[tuple[str, str]], seen: Acl) -> bool:
    """Whether `grants` has nothing to do; so that a steady tenant costs no statement that is thrown away."""
    return seen == {(grantee, privilege, False) for grantee, privilege in want}


def grants(
    target: sql.Composable, want: Iterable[tuple[str, str]], seen: Acl, prefix: sql.Composable | None = None
) -> tuple[sql.Composed, ...]:
    """From what is granted on `target` (such as ``SCHEMA "x"``) to exactly `want`: (role, privilege).

    `prefix` goes before GRANT and REVOKE (ALTER DEFAULT PRIVILEGES).  The owner's own rights are not touched.
    """
    wanted = set(want)
    revoke, keep_only, grant = defaultdict(set), defaultdict(set), defaultdict(set)
    for grantee, privilege, grantable in seen:
        if (grantee, privilege) not in wanted:
            revoke[grantee].add(privilege)
        elif grantable:
            keep_only[grantee].add(privilege)
    for grantee, privilege in wanted - {(grantee, privilege) for grantee, privilege, _ in seen}:
        grant[grantee].add(privilege)
    forms: tuple[tuple[LiteralString, dict[str, set[str]]], ...] = (
        ("{prefix}REVOKE {what} ON {on} FROM {who} CASCADE", revoke),
        ("{prefix}REVOKE GRANT OPTION FOR {what} ON {on} FROM {who} CASCADE", keep_only),
        ("{prefix}GRANT {what} ON {on} TO {who}", grant),
    )
    return tuple(
        sql.SQL(form).format(
            prefix=prefix or sql.SQL(""),
            what=sql.SQL(", ").join(map(word, sorted(privileges))),
            on=target,
            who=role(grantee),
        )
        for form, by_role in forms
        for grantee, privileges in sorted(by_role.items())
    )
