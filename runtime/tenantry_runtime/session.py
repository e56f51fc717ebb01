"""The usage page's session: a signed cookie that every replica can check and that ends with its key.

The cookie names a key by its uid and ends after `SECONDS`.  It is signed with two secrets that are kept apart: the
hash of the key, which only the runtime's schema holds, and the provider's key, which only the runtime's mounted
credentials hold.  So a copy of the database alone signs nothing; a key that is deleted, replaced or expired ends its
sessions at the next request, on every replica; and nothing is stored for a session.  A new provider key ends them too.
"""

import base64
import binascii
import hashlib
import hmac
import re
from datetime import datetime

from tenantry_runtime.config import Credentials
from tenantry_runtime.keys import Caller
from tenantry_runtime.store import Store

SECONDS = 8 * 3600
"""A working day; then one signs in again."""

_TOKEN = re.compile(r"1\.([A-Za-z0-9_-]{1,200})\.(\d{1,12})\.([A-Za-z0-9_-]{43})")
_KEYS = """
SELECT clock_timestamp(), uid, name, user_name, scopes, key_sha256
FROM (SELECT) AS one LEFT JOIN access_keys
    ON uid = %s AND (expires_at IS NULL OR expires_at > extract(epoch FROM clock_timestamp()))
"""


def cookie_name(credentials: Credentials) -> str:
    """One for each tenant: on one host, forwarded ports share their cookies."""
    return f"tenantry_session_{credentials.milvus.tag[:12]}"


def sign(credentials: Credentials, key_uid: str, key_sha256: str, now: datetime) -> str:
    """The cookie of a session that begins now."""
    uid = _encoded(key_uid.encode())
    ends = int(now.timestamp()) + SECONDS
    return f"1.{uid}.{ends}.{_mac(credentials, key_uid, ends, key_sha256)}"


async def look_up(credentials: Credentials, store: Store, token: str) -> tuple[datetime, Caller] | None:
    """The time on the database's clock, and whose session this is; None where there is none (any more).

    Raises StoreUnavailableError.
    """
    matched = _TOKEN.fullmatch(token)
    if not matched:
        return None
    ends = int(matched[2])
    try:
        key_uid = base64.urlsafe_b64decode(matched[1] + "=" * (-len(matched[1]) % 4)).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    if "\x00" in key_uid:
        return None
    rows = await store.fetch(_KEYS, (key_uid,))
    now: datetime = rows[0][0]
    for _, uid, name, user, scopes, key_sha256 in rows:  # two, while the key is replaced
        if uid is not None and hmac.compare_digest(matched[3], _mac(credentials, key_uid, ends, key_sha256)):
            return (now, Caller(uid, name, user or name, frozenset(scopes))) if now.timestamp() < ends else None
    return None


def _mac(credentials: Credentials, key_uid: str, ends: int, key_sha256: str) -> str:
    tenant = f"tenantry usage page {credentials.milvus.tag}"
    secret = hmac.digest(credentials.provider.api_key.get_secret_value().encode(), tenant.encode(), hashlib.sha256)
    return _encoded(hmac.digest(secret, f"{key_uid}\n{ends}\n{key_sha256}".encode(), hashlib.sha256))


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
