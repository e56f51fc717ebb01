"""What the query of `catalog` saw, as types."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

Acl = frozenset[tuple[str, str, bool]]
"""(role or '' for PUBLIC, privilege, whether it may be passed on); the owner's own rights are left out."""


@dataclass(frozen=True)
class SeenRole:
    flags: frozenset[str]
    """Attributes that are on, such as login, inherit, superuser."""
    connection_limit: int
    expires: bool
    comment: str | None
    usable: bool
    """Whether the admin has the role's rights; asked of few (`catalog.observe`), and False for the others."""
    settings: Mapping[str, Mapping[str, str]]
    """By database ('' for all): setting -> value."""


@dataclass(frozen=True)
class SeenThing:
    """A database, schema, table or function."""

    owner: str
    acl: Acl
    comment: str | None = None
    open: bool = True
    """Of a database: whether anybody may connect."""
    name: str = ""
    """Of a function: without arguments."""
    kind: str = ""
    """Of a relation: as in pg_class.relkind."""
    partition: bool = False
    """Of a table: whether it is attached to a partitioned one."""


@dataclass(frozen=True)
class Membership:
    group: str
    member: str
    admin: bool
    inherit: bool
    grantor: str | None
    """From 16 on a membership is taken back in this role's name only; None for one that is gone, which 15 allows."""


@dataclass(frozen=True)
class Shared:
    """What all databases of the server share."""

    admin: str
    roles: Mapping[str, SeenRole]
    members: tuple[Membership, ...]
    """Without the admin's own, the maker's, and those of an admin before this one, of whom it is a member."""
    databases: Mapping[str, SeenThing]
    made: frozenset[str] = frozenset()
    """The tenant's roles of which its maker is a member."""
    settable: frozenset[str] = frozenset()
    """Those of them that the maker may become, and with it the admin."""
    options: bool = True
    """Whether the server knows memberships without that right (16 and later)."""
    maker_grants: bool = False
    """Whether the maker may let roles connect."""


@dataclass(frozen=True)
class DefaultAcl:
    """What objects that `role` makes in `schema` ('' for all) will grant; `kind` as in pg_default_acl."""

    role: str
    schema: str
    kind: str
    acl: Acl


@dataclass(frozen=True)
class Removal:
    """The last deletion of vectors in Milvus, after which nobody has asked for their space."""

    at: str
    """As PostgreSQL writes a time, exactly."""
    seconds_ago: float
    """On the server's clock, when it was seen."""


@dataclass(frozen=True)
class Inside:
    """What is in the database that holds the tenant's schemas."""

    schemas: Mapping[str, SeenThing]
    relations: Mapping[str, SeenThing]
    """Tables, views and sequences of the runtime's schema."""
    functions: Mapping[str, SeenThing]
    """By signature, with schema and quoted."""
    defaults: tuple[DefaultAcl, ...]
    migrations: frozenset[int] = frozenset()
    configuration: Mapping[str, str] = field(default_factory=dict)
    """`digest` as the row says, `true_digest` of its document; empty without a row."""
    month: str | None = None
    """The month (YYYY-MM) of `spent_nano`, in the tenant's time zone."""
    spent_nano: int | None = None
    removal: Removal | None = None
    today: date = date.min
    """UTC, on the server's clock."""
    strays_since: date | None = None
    """The oldest row (UTC) in the audit's default partition; None where it is empty."""
    readable: bool = True
    """Whether the admin could read the rows; it can't where it lost its membership of the owner."""


def shared(document: Mapping[str, Any]) -> Shared:
    settings: dict[str, dict[str, dict[str, str]]] = {}
    for role, database, lines in document["settings"]:
        settings.setdefault(role, {})[database] = dict(line.split("=", 1) for line in lines)
    return Shared(
        admin=document["admin"],
        roles={name: _role(role, settings.get(name, {})) for name, role in document["roles"].items()},
        members=tuple(Membership(*row) for row in document["members"]),
        databases=_things(document["databases"]),
        made=frozenset(role for role, _ in document["made"]),
        settable=frozenset(role for role, settable in document["made"] if settable),
        options=document["options"],
        maker_grants=bool(document["grants"]),
    )


def inside(document: Mapping[str, Any], rows: Mapping[str, Any], *, readable: bool = True) -> Inside:
    month, spent = rows.get("month") or (None, None)
    strays, removal = rows.get("strays"), rows.get("removal")
    return Inside(
        schemas=_things(document["schemas"]),
        relations=_things(document["relations"]),
        functions=_things(document["functions"]),
        defaults=tuple(DefaultAcl(role, schema, kind, _acl(acl)) for role, schema, kind, acl in document["defaults"]),
        migrations=frozenset(rows.get("migrations") or ()),
        configuration=rows.get("configuration") or {},
        month=month,
        spent_nano=spent,
        removal=Removal(removal[0], float(removal[1])) if removal else None,
        today=date.fromisoformat(document["today"]),
        strays_since=date.fromisoformat(strays) if strays else None,
        readable=readable,
    )


def _role(document: Mapping[str, Any], settings: Mapping[str, Mapping[str, str]]) -> SeenRole:
    return SeenRole(
        flags=frozenset(name for name, on in document["flags"].items() if on),
        connection_limit=document["limit"],
        expires=document["until"] is not None,
        comment=document["comment"],
        usable=bool(document["usable"]),
        settings=settings,
    )


def _things(documents: Mapping[str, Mapping[str, Any]]) -> dict[str, SeenThing]:
    return {
        name: SeenThing(
            owner=document["owner"],
            acl=_acl(document["acl"]),
            comment=document.get("comment"),
            open=document.get("open", True),
            name=document.get("name", name),
            kind=document.get("kind", ""),
            partition=document.get("partition", False),
        )
        for name, document in documents.items()
    }


def _acl(rows: list[list[Any]]) -> Acl:
    return frozenset((grantee, privilege, bool(grantable)) for grantee, privilege, grantable in rows)
