"""What a store holds of any tenant: the common word of both backends for the scan."""

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Stored:
    """One thing in PostgreSQL or Milvus that carries a Tenant's UID."""

    store: str
    kind: str
    name: str
    uid: str
    """Without dashes and in lower case; in base32 where the name has no room for more (`names.short`)."""
    retained: bool = False
    """Kept on purpose after its Tenant was deleted."""
    archived: bool = False
    """The audit of a deleted Tenant, which the operator itself removes when its retention ends."""
