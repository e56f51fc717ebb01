"""Who is asking: an access key, looked up by its hash on every request, so that a deleted key is refused at once."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tenantry_runtime import errors
from tenantry_runtime.config import key_sha256
from tenantry_runtime.store import Store

USER_HEADER = "x-tenantry-user"
"""Names the end user for whom a key acts; heard only where the key may do so."""

_USER = re.compile(r"[^\x00-\x1f\x7f]{1,128}")
_KEY = """
SELECT uid, name, user_name, scopes, act_for_users
FROM access_keys
WHERE key_sha256 = %s AND (expires_at IS NULL OR expires_at > extract(epoch FROM clock_timestamp()))
"""


@dataclass(frozen=True)
class Caller:
    """The key and the user of one request."""

    key_uid: str
    key_name: str
    user: str
    scopes: frozenset[str]

    def require(self, scope: str) -> None:
        if scope not in self.scopes:
            raise errors.forbidden(
                f"This key lacks the scope {scope}: use one whose AccessKey lists it.", "scope_missing"
            )


def presented(headers: Mapping[str, str]) -> str:
    """The key of an ``Authorization: Bearer`` header; empty where there is none."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


async def authenticate(headers: Mapping[str, str], store: Store) -> Caller:
    """The caller; raises 401 for a key that is unknown, deleted or expired, and StoreUnavailableError.

    The same work is done for every key, well-formed or not: one hash and one look-up by it.
    """
    row = await store.one(_KEY, (key_sha256(presented(headers)),))
    if row is None:
        raise errors.wrong_key()
    uid, name, own_user, scopes, may_act = row
    user = own_user or name
    given = headers.get(USER_HEADER)
    if given is not None and may_act:
        # HTTP headers are Latin-1 to Starlette; clients send UTF-8.
        user = given.encode("latin-1", "replace").decode("utf-8", "replace").strip()
        if not _USER.fullmatch(user):
            raise errors.invalid("X-Tenantry-User must be 1 to 128 characters without control characters.")
    return Caller(uid, name, user, frozenset(scopes))
