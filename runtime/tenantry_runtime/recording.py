"""What is written of a request that reached no model: its event, and a row of the ledger for what it used."""

import dataclasses
import uuid
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tenantry_runtime import audit
from tenantry_runtime.audit import Event
from tenantry_runtime.config import Configuration
from tenantry_runtime.keys import Caller


def function(columns: str, name: str, parameters: int) -> str:
    """The statement that calls a function of the schema's."""
    return f"SELECT {columns} FROM {name}({', '.join(['%s'] * parameters)})"  # noqa: S608 - constants of ours


_RECORD = function("record_request", "record_request", 20)
# `at` is the request's arrival, on the database's clock: a row that is written twice is one row.
_EVENT = """
INSERT INTO audit (
    at, id, phase, user_id, key_uid, key_name,
    event_type, action, resource_type, resource_id, address, user_agent, status, error, details
) VALUES (%s, %s, 'event', %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING
"""


@dataclass(frozen=True)
class Record:
    """A request that reached no model: its event, the status that it was answered with, and what it used.

    `at`: when it arrived, on the database's clock.
    """

    configuration: Configuration
    caller: Caller
    kind: str
    event: Event
    status: int
    at: datetime
    queries: int
    searches: int
    id: uuid.UUID = field(default_factory=uuid.uuid4)

    def refused(self) -> "Record":
        """The same, answered with 503 since it could not be written down."""
        event = dataclasses.replace(self.event, error="store_unavailable")
        if self.status != 503:
            event.basic = {**event.basic, "handled": str(self.status)}
        return dataclasses.replace(self, event=event, status=503)

    def statement(self) -> tuple[str, tuple[Any, ...]]:
        """The statement that writes it, and its values; it may be run twice."""
        configuration, caller, event = self.configuration, self.caller, self.event
        units, budget = configuration.unit_prices, configuration.budget
        told = (
            *event.columns(),
            str(self.status),
            audit.tellable(event.error, 128),
            audit.encoded(event.details(configuration.compliance.logging_level)),
        )
        if not self.queries and not self.searches:
            return _EVENT, (self.at, self.id, caller.user, caller.key_uid, caller.key_name, *told)
        return _RECORD, (
            self.id,
            caller.key_uid,
            caller.key_name,
            caller.user,
            self.kind,
            self.queries,
            self.searches,
            self.queries * units.database_query_nano,
            self.searches * units.vector_search_nano,
            configuration.prices_version,
            budget.time_zone if budget else "UTC",
            *told,
        )
