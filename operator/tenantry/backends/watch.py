"""One kind, listed and then watched: no event is missed, and what was deleted in a gap is noticed.

Our own, since at 2,000 tenants kopf spends more on an event of a child (a task, a queue and several copies for each
object) than the operator does on all the rest; docs/performance.md has the figures.
"""

import asyncio
import json
import logging
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

from tenantry import pauses
from tenantry.backends.apiserver import ApiServer
from tenantry.backends.connection import ApiError, Connection
from tenantry.backends.kinds import Kind
from tenantry.backends.observed import Key, key, version_of

logger = logging.getLogger(__name__)
Json = dict[str, Any]

WATCH_SECONDS = 300
"""After this time, or somewhat less, the API server is asked to end a watch, so that they spread over its replicas."""
SILENCE_SECONDS = 100
"""Bookmarks come every minute: a connection that says nothing for so long is dead."""
PAUSES_SECONDS = (0.2, 0.5, 1, 2, 5)

Told = Callable[[Kind, Json], None]
"""Is given one event; its object has apiVersion and kind."""
Missing = Callable[[Kind, set[Key], int], None]
"""Is given all that a list of a kind has, and the version as of which."""


class Watch:
    """`list()` once, then `run()` for ever; or only `list()`, as often as is wanted."""

    def __init__(self, backend: ApiServer, kind: Kind, selector: str, told: Told, missing: Missing) -> None:
        self._backend = backend
        self._kind = kind
        self._selector = selector
        self._told = told
        self._missing = missing
        self._version = ""

    async def list(self) -> None:
        """Tell everything that there is, a page at a time, and what no longer is."""
        listed: set[Key] = set()
        meta: Json = {}
        async for items, meta in self._backend.pages(self._kind, self._selector):  # noqa: B007 - the last one's
            for obj in items:
                listed.add(key(obj))
                self._told(self._kind, {"type": "ADDED", "object": obj})
            items.clear()  # before the next page comes
        self._missing(self._kind, listed, version_of(meta))
        self._version = str(meta.get("resourceVersion", ""))

    async def run(self) -> None:
        """Until cancelled."""
        failures = 0
        while True:
            try:
                if not self._version:
                    await self.list()
                async for event in self._events(self._backend.connection):
                    failures = 0
                    self._event(event)
                failures = 0
            except ApiError as error:
                if error.status == 410:
                    logger.info("The watch of %s is too old and begins anew with a list", self._kind.plural)
                    self._version = ""
                failures += 1
                if failures > 1:
                    logger.warning("%s can't be watched: %s; it is tried again", self._kind.plural, error.message)
            except (ValueError, KeyError, TypeError, AttributeError):
                logger.exception("The watch of %s said what nobody foresaw and begins anew", self._kind.plural)
                self._version = ""
                failures += 1
            longest = PAUSES_SECONDS[min(failures, len(PAUSES_SECONDS) - 1)]
            await asyncio.sleep(pauses.at_most(longest))

    def _events(self, connection: Connection) -> AsyncIterator[bytes]:
        params = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(int(WATCH_SECONDS * random.uniform(0.7, 1))),  # noqa: S311 - jitter
        }
        if self._selector:
            params["labelSelector"] = self._selector
        return connection.lines(
            self._kind.path(), resource=self._kind.plural, params=params, silence_seconds=SILENCE_SECONDS
        )

    def _event(self, line: bytes) -> None:
        event = json.loads(line)
        obj = event["object"]
        if event["type"] == "ERROR":
            raise ApiError(obj.get("code", 0), obj.get("reason", ""), obj.get("message", "The watch was ended"))
        if event["type"] != "BOOKMARK":
            event["object"] = {"apiVersion": self._kind.api_version, "kind": self._kind.kind, **obj}
            self._told(self._kind, event)
        self._version = obj["metadata"]["resourceVersion"]
