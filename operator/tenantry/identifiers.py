"""Which words give a tenant away, and so may not show in another's answers: from Tenants to a region's list.  Pure."""

import sys
from collections.abc import Iterable
from typing import NamedTuple

from tenantry import names
from tenantry.api import Tenant
from tenantry.desired import vectors
from tenantry.desired.postgres.leaks import Leaks
from tenantry_runtime.config import leak_hash


class Marks(NamedTuple):
    """Of one Tenant, what its identifiers are made of."""

    name: str
    uid: str
    region: str
    """Where its data is; empty until that is decided."""
    suffixes: tuple[str, ...]
    """Of its extra namespaces."""
    listed: tuple[str, ...]
    """What the tenant lists itself."""
    created: float
    """Unix seconds."""
    database: bool
    """Whether it has a database of its own that was seen to serve."""


def marks(tenant: Tenant) -> Marks:
    pinned, created = tenant.pinned, tenant.metadata.creation_timestamp
    own_database = pinned is not None and pinned.database_isolation == "Database"
    return Marks(
        tenant.name,
        tenant.identity,
        sys.intern(pinned.region) if pinned else "",
        tuple(sys.intern(n.suffix) for n in tenant.spec.namespaces),
        tenant.spec.ai.leak_guard.identifiers,
        created.timestamp() if created else 0.0,
        own_database and tenant.was_ready and not tenant.metadata.deletion_timestamp,
    )


def made(tenant: Marks) -> tuple[str, ...]:
    """Names that the platform gave to what is this tenant's alone: they hold its name and its UID."""
    bare = names.bare(tenant.uid)
    return (
        names.workload_namespace(tenant.name),
        *(names.workload_namespace(tenant.name, suffix) for suffix in tenant.suffixes),
        names.runtime_namespace(tenant.name),
        names.schema(tenant.name),
        names.runtime_schema(tenant.name),
        tenant.uid,
        bare,
        vectors.own_name(tenant.uid),
    )


def leaks(tenants: Iterable[Marks], key: bytes, kept: Iterable[str] = ()) -> Leaks:
    """The list for the runtimes of these tenants; `kept`: UIDs of Tenants that can't be read now.

    What two tenants list is the older one's.  What the platform named after a tenant is that tenant's, whoever lists
    it too: else a tenant could take it out of the list by listing it.
    """
    rows: dict[bytes, str] = {}
    lengths: set[int] = set()
    youngest_first = sorted(tenants, key=lambda tenant: (tenant.created, tenant.name), reverse=True)
    listed = [(tenant.uid, tenant.listed) for tenant in youngest_first]
    for uid, words in (*listed, *((tenant.uid, made(tenant)) for tenant in youngest_first)):
        for identifier in words:
            rows[leak_hash(key, identifier)] = names.bare(uid)
            lengths.add(len(identifier))
    return Leaks(rows, tuple(sorted(lengths)), key, frozenset(map(names.bare, kept)))
