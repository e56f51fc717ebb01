"""Passwords and keys, derived from one secret of the installation.

Every credential is HMAC-SHA256(installation secret, purpose, owner's UID, slot and generation).  So a crash
between making a role and writing its Secret loses nothing, a lost Secret is written again as it was, and nothing has
to be read back.  A Tenant made again under the same name has another UID, hence other credentials.
"""

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass

MASTER_BYTES = 32


def new_master() -> bytes:
    return secrets.token_bytes(MASTER_BYTES)


SLOTS = ("a", "b")
"""Two logins of each kind, used in turn: while the next one comes into use, the one before is still accepted."""


def slot(generation: int) -> str:
    """Generation 0 is in slot a, 1 in b, 2 in a again."""
    return SLOTS[generation % 2]


@dataclass(frozen=True)
class Logins:
    """Which of a tenant's rotated logins are accepted: `generation`, and the one before it where it says so."""

    generation: int = 0
    database_previous: bool = False
    """The runtime's login in PostgreSQL."""
    vectors_previous: bool = False
    """The tenant's own user in Milvus."""

    @property
    def database(self) -> tuple[int, ...]:
        """Generations that may log in to PostgreSQL, the newest first."""
        return (self.generation, self.generation - 1) if self.database_previous else (self.generation,)


FIRST = Logins()


@dataclass(frozen=True, repr=False)
class Credentials:
    """Derives the credentials of one installation from its `master` secret (32 random bytes)."""

    master: bytes

    def __post_init__(self) -> None:
        if len(self.master) < MASTER_BYTES:
            raise ValueError(f"the installation secret must have at least {MASTER_BYTES} bytes")

    def _derive(self, *parts: str) -> str:
        message = b"\0".join(part.encode() for part in parts)
        digest = hmac.new(self.master, message, hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")

    def tenant_postgres(self, uid: str) -> str:
        """Password of the tenant's own login role."""
        return self._derive("postgres/tenant", uid)

    def runtime_postgres(self, uid: str, generation: int = 0) -> str:
        """Password of the runtime's login role in slot(generation)."""
        return self._derive("postgres/runtime", uid, *_turn(generation))

    def milvus(self, uid: str, generation: int = 0) -> str:
        """Password of the tenant's own Milvus user in slot(generation)."""
        return self._derive("milvus/tenant", uid, *_turn(generation))

    def shared_milvus(self, region_uid: str, collection: str, number: int = 0) -> str:
        """Password of the runtimes' user `number` on a shared collection."""
        return self._derive("milvus/shared", region_uid, collection, *([str(number)] if number else []))

    def access_key(self, uid: str, generation: int = 0) -> str:
        """The API key of one AccessKey: ``tk-`` and 256 bits."""
        return "tk-" + self._derive("accesskey", uid, str(generation) if generation else "")

    def leak_key(self, region_uid: str) -> bytes:
        """Of the hashes in a region's leak list."""
        return self._derive("leaks", region_uid).encode()


def _turn(generation: int) -> tuple[str, ...]:
    return (slot(generation), str(generation)) if generation else (slot(0),)
