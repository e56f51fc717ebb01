"""Who is asking: an access key, looked up by its hash, and remembered for less than the second within which a key that
was deleted, changed or has expired must be refused on every replica.
"""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from tenantry_runtime import errors
from tenantry_runtime.config import key_sha256
from tenantry_runtime.store import Store

USER_HEADER = "x-tenantry-user"
"""Names the end user for whom a key acts; heard only where the key may do so."""

REMEMBERED_SECONDS = 0.5
"""For which a valid key is not looked up again; the operator's notice of a change ends it at once."""
MOST_REMEMBERED = 1000

_USER = re.compile(r"[^\x00-\x1f\x7f]{1,128}")
_KEY = """
SELECT clock_timestamp(), uid, name, user_name, scopes, act_for_users,
       coalesce(expires_at <= extract(epoch FROM clock_timestamp()), false)
FROM (SELECT) AS one LEFT JOIN access_keys ON key_sha256 = %s
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


@dataclass(frozen=True)
class Asked:
    """What the look-up found.  `at`: now, on the database's clock; `caller` None: there is no such key."""

    at: datetime
    caller: Caller | None = None
    expired: bool = False
    may_act: bool = False

    @property
    def valid(self) -> bool:
        return self.caller is not None and not self.expired


def presented(headers: Mapping[str, str]) -> str:
    """The key of an ``Authorization: Bearer`` header; empty where there is none."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


class Keys:
    """The table of the tenant's keys, and those that were valid a moment ago."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._remembered: dict[str, tuple[float, Asked]] = {}

    def forget(self) -> None:
        """Keys have changed, or may have."""
        self._remembered = {}

    async def look_up(self, headers: Mapping[str, str]) -> Asked:
        """Who presents a key.  Raises StoreUnavailableError.

        The same work is done for every key that is not valid, well-formed or not: one hash and one look-up by it.
        """
        digest, began, remembered = key_sha256(presented(headers)), self._clock(), self._remembered
        since, asked = remembered.get(digest, (0.0, None))
        if asked is not None and began - since < REMEMBERED_SECONDS:
            return replace(asked, at=asked.at + timedelta(seconds=began - since))
        (row,) = await self._store.ask(_KEY, (digest,))
        at, uid, name, own_user, scopes, may_act, expired = row
        if uid is None:
            return Asked(at)
        asked = Asked(at, Caller(uid, name, own_user or name, frozenset(scopes)), expired, may_act)
        if asked.valid:
            if len(remembered) >= MOST_REMEMBERED:
                remembered.clear()
            remembered[digest] = began, asked  # in vain where `forget` was called meanwhile
        return asked


def acting(headers: Mapping[str, str], asked: Asked) -> Caller:
    """The caller, for the end user whom a key with the right to do so names.  Raises 401, and 422 for no name."""
    caller, given = asked.caller, headers.get(USER_HEADER)
    if caller is None or asked.expired:
        raise errors.wrong_key()
    if given is None or not asked.may_act:
        return caller
    # HTTP headers are Latin-1 to Starlette; clients send UTF-8.
    user = given.encode("latin-1", "replace").decode("utf-8", "replace").strip()
    if not _USER.fullmatch(user):
        raise errors.invalid("X-Tenantry-User must be 1 to 128 characters without control characters.")
    return Caller(caller.key_uid, caller.key_name, user, caller.scopes)
