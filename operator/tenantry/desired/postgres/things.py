"""The names of one tenant's things in PostgreSQL, and how they are known to be its own."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from tenantry import names
from tenantry.credentials import SLOTS

Isolation = Literal["Schema", "Database"]
Policy = Literal["Retain", "Delete"]

MARK = f"{names.UID_ANNOTATION}="
"""A comment on every role, schema and database begins with this and the Tenant's UID."""

CONNECT_ROLE = "tenantry_connect"
"""A role without login that may CONNECT to the application database; tenants' roles are its members.

One grant to each tenant's roles would grow one row of pg_database with the tenants, and tenants provisioned at
the same time would wait for each other on it, or fail ("tuple concurrently updated").
"""
CONNECT_COMMENT = f"{names.GROUP}/region"

MAKERS = 64
"""Roles without login that make the tenants' roles for the admin, which is a member of each.

From version 16 on PostgreSQL grants every role to the one that makes it, and with most statements about roles goes
through all memberships of the current role: were the admin itself to make them, a new tenant would cost 0.6 ms more
for each tenant that is there.
"""
MAKERS_AT_ONCE = 8
MAKER = "tenantry_maker_"
"""What their names begin with; a number of two digits follows."""


def _maker(number: int) -> str:
    return f"{MAKER}{number:02}"


@dataclass(frozen=True)
class Things:
    """What belongs to one tenant: the name says where to look, `uid` whether it is the tenant's."""

    tenant: str
    uid: str

    @cached_property
    def schema(self) -> str:
        return names.schema(self.tenant)

    @cached_property
    def runtime_schema(self) -> str:
        return names.runtime_schema(self.tenant)

    @property
    def schemas(self) -> tuple[str, str]:
        return self.schema, self.runtime_schema

    @property
    def database(self) -> str:
        """The tenant's own database, at level ``Database``."""
        return names.database(self.tenant)

    @property
    def login(self) -> str:
        """The tenant's own login role."""
        return self.schema

    @property
    def owner(self) -> str:
        return self.schema + "__owner"

    @property
    def group(self) -> str:
        """Holds the runtime's rights; its logins are members."""
        return self.runtime_schema

    @property
    def runtime_owner(self) -> str:
        return self.runtime_schema + "__owner"

    def slot(self, slot: str) -> str:
        """One of the runtime's two logins."""
        return f"{self.runtime_schema}_{slot}"

    @property
    def maker(self) -> str:
        """Which of MAKERS makes the tenant's roles: always the same for one UID."""
        return _maker(self._maker)

    @property
    def makers(self) -> tuple[str, ...]:
        """Those that are made together with it, where it is not there: a few at a time, as they are needed."""
        first = self._maker - self._maker % MAKERS_AT_ONCE
        return tuple(map(_maker, range(first, first + MAKERS_AT_ONCE)))

    @property
    def _maker(self) -> int:
        return int(hashlib.sha256(self.uid.encode()).hexdigest(), 16) % MAKERS

    @property
    def owners(self) -> tuple[str, str]:
        """Own what the tenant has.  Who makes the roles is a member of these two for good, of others when it must."""
        return self.owner, self.runtime_owner

    @property
    def logins(self) -> tuple[str, ...]:
        return self.login, *(self.slot(slot) for slot in SLOTS)

    @property
    def roles(self) -> tuple[str, ...]:
        return self.owner, self.runtime_owner, self.group, *self.logins

    @property
    def retained(self) -> tuple[str, str]:
        """What the two schemas are called after a removal that keeps the data."""
        return self.retained_database, f"{self.retained_database}__runtime"

    @property
    def retained_database(self) -> str:
        return f"retained_{names.bare(self.uid)}"

    @property
    def channel(self) -> str:
        """NOTIFY on it, without payload, says that configuration or keys changed."""
        return f"tenantry_{names.bare(self.uid)}"

    @property
    def comment(self) -> str:
        return MARK + self.uid

    @staticmethod
    def owner_said(comment: str | None) -> str:
        """The UID of the Tenant that something with this comment was made for; empty where it was for none."""
        head = (comment or "").split(" ")[0]
        return head.removeprefix(MARK) if head.startswith(MARK) else ""

    def owns(self, comment: str | None) -> bool:
        """Whether what carries this comment is this tenant's; words after the first are notes of ours."""
        return bool(comment) and (comment or "").split(" ")[0] == self.comment
