"""Where a tenant's vectors lie in Milvus, who may reach them, and what these things are called.  Pure.

The levels: `Partition` is a partition of a collection that tenants share, `Collection` a collection of the
tenant's own, `Database` a database of its own with one collection.  What Milvus walls off at each is in
docs/milvus.md.
"""

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tenantry import names
from tenantry.api.region import DataRegionSpec
from tenantry.api.tier import VectorIsolation
from tenantry.credentials import FIRST, SLOTS, Credentials, Logins
from tenantry.resolve import Resolved, VectorChoice

DEFAULT_DATABASE = "default"

ID_LENGTH = 64
TAG_LENGTH = 32
TEXT_LENGTH = 8192
_LONGEST_SLUG = 128
_DIGITS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Place:
    """Where one tenant's vectors lie; `partition` is set where the collection is shared."""

    database: str
    collection: str
    partition: str | None
    """Set where the collection is shared; empty for the collection alone, before it has tenants."""
    tag: str
    """The Tenant's UID without dashes, carried by every chunk."""


@dataclass(frozen=True, order=True)
class Grant:
    """One right of a role; `scope` and `target` are Milvus' object type and object name."""

    scope: Literal["Collection", "Global"]
    target: str
    privilege: str
    database: str


@dataclass(frozen=True)
class SharedUsers:
    """Of a shared collection, by number: whom a tenant's runtime uses, and who came before and is over."""

    used: int = 0
    ended: tuple[int, ...] = ()


@dataclass(frozen=True)
class VectorPlan:
    """All that must exist for one tenant."""

    place: Place
    mark: str
    """The collection's description, by which we know it as ours."""
    dimension: int
    metric: str
    role: str
    user: str
    """Empty where the region has no Milvus credentials: then nobody logs in."""
    password: str = field(repr=False)
    grants: tuple[Grant, ...]
    ended: tuple[str, ...] = ()
    """Users that came before this one, whose time is over."""

    @property
    def login(self) -> tuple[str, str]:
        """User and password for the runtime; two empty strings without authentication."""
        return self.user, self.password

    @property
    def shared(self) -> bool:
        return self.place.partition is not None


def own_name(uid: str) -> str:
    """Partition, collection or database of one tenant: ``t_`` and 32 hexadecimal digits."""
    return "t_" + names.bare(uid)


def own_role(uid: str) -> str:
    """Also the stem of the tenant's users (Milvus: under 32 characters)."""
    return "t_" + names.short(uid)


def own_users(uid: str) -> tuple[str, ...]:
    return tuple(f"{own_role(uid)}_{slot}" for slot in SLOTS)


def shared_role(collection: str) -> str:
    """The role of the runtimes on one shared collection; also the stem of its users."""
    return "s_" + _digest(collection, 12)


def _digest(text: str, size: int) -> str:
    """So many bytes of a digest, in base32."""
    return base64.b32encode(hashlib.sha256(text.encode()).digest()[:size]).decode().rstrip("=").lower()


def shared_user(collection: str, number: int) -> str:
    """The runtimes' user on a shared collection: ``_a`` for 0, ``_b`` for 1, ``_ba`` for 26.  No name comes twice."""
    digits = ""
    while number or not digits:
        number, digit = divmod(number, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return f"{shared_role(collection)}_{digits}"


def shared_user_number(collection: str, user: str) -> int | None:
    """None for a user that is none of this collection's."""
    stem, _, digits = user.rpartition("_")
    if stem != shared_role(collection) or not digits or not set(digits) <= set(_DIGITS):
        return None
    number = 0
    for digit in digits:
        number = number * len(_DIGITS) + _DIGITS.index(digit)
    return number


def shared_prefix(region: str, choice: VectorChoice) -> str:
    """What the names of a region's shared collections of one combination start with; a number follows.

    The name of the region tells it from others that one Milvus serves; as a digest, for it may be long.
    """
    return f"{older_prefix(choice)}r{_digest(region, 8)}_"


def older_prefix(choice: VectorChoice) -> str:
    """The same of collections that were made when their names did not carry their region."""
    model, metric = names.slug(choice.embedding_model)[:_LONGEST_SLUG], names.slug(choice.metric)
    return f"shared_{model}_{choice.dimension}_{metric}_"


def shared_number(prefix: str, collection: str) -> int | None:
    """The number at a shared collection's end, from 1; None where it is none of this region and combination."""
    found = re.fullmatch(re.escape(prefix) + r"([1-9][0-9]{0,8})", collection)
    return int(found[1]) if found else None


def shared_mark(choice: VectorChoice) -> str:
    """The description of a shared collection: names the whole combination, which the name may cut short."""
    return f"tenantry.dev/shared model={choice.embedding_model} dimension={choice.dimension} metric={choice.metric}"


def own_mark(uid: str) -> str:
    return f"tenantry.dev/tenant-uid={uid}"


def settled(resolved: Resolved) -> Place | None:
    """The tenant's place, where nothing is left to choose; None: a shared collection must be chosen."""
    tag, own = names.bare(resolved.uid), own_name(resolved.uid)
    if resolved.vectors.isolation == "Database":
        return Place(own, own, None, tag)
    if resolved.vectors.isolation == "Collection":
        return Place(DEFAULT_DATABASE, own, None, tag)
    return shared_place(resolved, resolved.collection) if resolved.collection else None


def shared_place(resolved: Resolved, collection: str) -> Place:
    return Place(DEFAULT_DATABASE, collection, own_name(resolved.uid), names.bare(resolved.uid))


def choose_shared(taken: Mapping[int, int], spread: int) -> int:
    """The number of the shared collection for one more tenant.

    `taken` gives for each number in use how many tenants are in it, `spread` for a collection that is not ours.
    The first with fewer than `spread` tenants is taken, else the number after the highest.
    """
    return next((number for number in sorted(taken) if taken[number] < spread), max(taken, default=0) + 1)


def plan(
    resolved: Resolved,
    place: Place,
    credentials: Credentials,
    region_uid: str,
    logins: Logins = FIRST,
    shared: SharedUsers = SharedUsers(),
) -> VectorPlan:
    """What must exist for a tenant at `place`; `region_uid` is the UID of its DataRegion.

    The user of the generation before is left as it is until its time is over, then it is `ended`.
    """
    choice, spec = resolved.vectors, resolved.region_spec
    if place.partition is not None:
        return shared_plan(choice, spec, place, credentials, region_uid, shared)
    users = own_users(resolved.uid)
    ended = (users[(logins.generation - 1) % 2],) if logins.generation and not logins.vectors_previous else ()
    user, password = users[logins.generation % 2], credentials.milvus(resolved.uid, logins.generation)
    return _plan(choice, spec, place, own_mark(resolved.uid), own_role(resolved.uid), (user, password), ended)


def shared_plan(
    choice: VectorChoice,
    spec: DataRegionSpec,
    place: Place,
    credentials: Credentials,
    region_uid: str,
    shared: SharedUsers = SharedUsers(),
) -> VectorPlan:
    """What must exist of a shared collection, and of the partition that `place` names."""
    collection = place.collection
    mark = shared_mark(choice)
    password = credentials.shared_milvus(region_uid, collection, shared.used)
    ended = tuple(shared_user(collection, number) for number in shared.ended)
    login = shared_user(collection, shared.used), password
    return _plan(choice, spec, place, mark, shared_role(collection), login, ended)


def first_shared(region: str, choice: VectorChoice) -> Place:
    """The first shared collection of a region and combination, with no tenant in it yet."""
    return Place(DEFAULT_DATABASE, f"{shared_prefix(region, choice)}1", "", "")


def _plan(
    choice: VectorChoice,
    spec: DataRegionSpec,
    place: Place,
    mark: str,
    role: str,
    login: tuple[str, str],
    ended: tuple[str, ...],
) -> VectorPlan:
    if spec.milvus.credentials_secret is None:
        login, ended = ("", ""), ()
    return VectorPlan(
        place=place,
        mark=mark,
        dimension=choice.dimension,
        metric=choice.metric,
        role=role,
        user=login[0],
        password=login[1],
        grants=grants(place, choice.isolation),
        ended=ended,
    )


def grants(place: Place, isolation: VectorIsolation) -> tuple[Grant, ...]:
    """The narrowest rights that serve.

    Milvus' official clients describe a collection before they read or write it, and Milvus gives that right on a
    whole database only: so a user of database ``default`` can describe (not read) a collection whose name, a UID, it
    knows.  Listing collections is given where the database is the tenant's own; on a shared collection nothing lists
    its partitions, whose names are tenants'.
    """
    privileges = ["Delete", "Insert", "Query", "Search", "Upsert"]
    if isolation != "Partition":
        privileges += ["GetLoadState", "IndexDetail"]
    wide = ["DescribeCollection", *(["ShowCollections"] if isolation == "Database" else [])]
    wanted = [Grant("Collection", place.collection, name, place.database) for name in privileges]
    wanted += [Grant("Global", "*", name, place.database) for name in wide]
    return tuple(sorted(wanted))
