"""Conversations whose retention has ended are deleted, and each is told to the audit in the same statement."""

import asyncio
import logging
from typing import TYPE_CHECKING

from tenantry_runtime.store import Store, StoreUnavailableError

if TYPE_CHECKING:
    from tenantry_runtime.service import Service

log = logging.getLogger(__name__)

EVERY = 600.0
"""Seconds between two looks."""
BATCH = 200
"""Conversations that one statement deletes."""
RUNTIME = "tenantry-runtime"
"""Who did it, in the audit's rows; they name no key."""

_FORGET = """
WITH gone AS (
    DELETE FROM conversations WHERE id IN (
        SELECT id FROM conversations WHERE last_item_at < clock_timestamp() - make_interval(days => %s)
        LIMIT %s FOR UPDATE SKIP LOCKED
    ) RETURNING id, user_name, last_item_at
)
INSERT INTO audit (id, phase, event_type, action, resource_type, resource_id, user_id, status, details)
SELECT gen_random_uuid(), 'event', 'deletion', 'conversations.expire', 'conversation', id, %s, 'success',
       jsonb_build_object('rule', 'conversations.retentionDays', 'days', %s::integer,
                          'user', user_name, 'last_item_at', last_item_at)
FROM gone RETURNING 1
"""


async def forget(store: Store, days: int) -> int:
    """Delete one batch of those whose last item is older than so many days; how many there were."""
    return len(await store.fetch(_FORGET, (days, BATCH, RUNTIME, days)))


async def keep_house(service: "Service", every: float = EVERY) -> None:
    """Delete, batch by batch, what its retention no longer keeps, until cancelled."""
    await service.live.loaded.wait()
    while True:
        more = False
        try:
            days = service.live.current.conversations_retention_days if service.live.current else None
            if days is not None:
                count = await forget(service.store, days)
                service.ledger.events["deletion"] = service.ledger.events.get("deletion", 0) + count
                more = count == BATCH
        except StoreUnavailableError:
            pass
        except Exception:
            log.exception("the housekeeping of conversations failed; it goes on")
        await asyncio.sleep(0.1 if more else every)
