"""The names of one tenant's things in PostgreSQL, and how they are known to be its own."""

from dataclasses import dataclass
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


@dataclass(frozen=True)
class Things:
    """What belongs to one tenant: the name says where to look, `uid` whether it is the tenant's."""

    tenant: str
    uid: str

    @property
    def schema(self) -> str:
        return names.schema(self.tenant)

    @property
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
