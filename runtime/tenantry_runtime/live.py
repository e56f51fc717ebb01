"""The tenant's configuration as it is now: read at start, on NOTIFY, and now and then in case one was missed.

The connection that listens also hears that the region's leak list has changed, and passes that on.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import psycopg

from tenantry_runtime import prompt
from tenantry_runtime.config import LEAKS_CHANNEL, Configuration, Postgres, channel
from tenantry_runtime.store import connection_string

log = logging.getLogger(__name__)

POLL = 10.0
"""Seconds between two looks at the row where no NOTIFY comes."""
_RETRY = 1.0


class LiveConfiguration:
    """Holds the last valid configuration; a row that is invalid or another tenant's changes nothing.

    `leaks_changed` is called at each notice that the leak list has changed, `keys_changed` where keys may have.
    """

    def __init__(
        self, postgres: Postgres, tag: str, leaks_changed: Callable[[], None], keys_changed: Callable[[], None]
    ) -> None:
        self._postgres = postgres
        self._tag = tag
        self._leaks_changed = leaks_changed
        self._keys_changed = keys_changed
        self._digest = ""
        self._refused = ""
        self._reconnect = asyncio.Event()
        self._told = False  # that the database is away
        self.current: Configuration | None = None
        self.loaded = asyncio.Event()

    def replace(self, postgres: Postgres) -> None:
        """Listen with other credentials from now on."""
        if postgres != self._postgres:
            self._postgres = postgres
            self._reconnect.set()

    async def run(self) -> None:
        """Listen until cancelled, reconnecting for as long as it takes."""
        while True:
            self._reconnect.clear()
            try:
                await self._listen()
            except (psycopg.Error, OSError, TimeoutError) as error:
                if not self._told:
                    log.warning("the configuration can't be read: %s; trying until it can", type(error).__name__)
                self._told = True
                await asyncio.sleep(_RETRY)

    async def _listen(self) -> None:
        connection = await psycopg.AsyncConnection.connect(connection_string(self._postgres), autocommit=True)
        async with connection:
            # Listen first, then read: a change in between is announced.
            for heard in (channel(self._tag), LEAKS_CHANNEL):
                await connection.execute(f'LISTEN "{heard}"'.encode())
            while not self._reconnect.is_set():
                cursor = await connection.execute("SELECT document, digest FROM configuration WHERE id = 1")
                row = await cursor.fetchone()
                self._told = False
                if row:
                    self._take(*row)
                else:
                    log.warning("there is no configuration yet: waiting for the operator to write it")
                await self._wait(connection, POLL if row else _RETRY)

    async def _wait(self, connection: psycopg.AsyncConnection[Any], seconds: float) -> None:
        """Until a change of the configuration is announced, or for so long."""
        announced, end = False, time.monotonic() + seconds
        while not announced and (rest := end - time.monotonic()) > 0:
            async for notice in connection.notifies(timeout=rest, stop_after=1):
                if notice.channel == LEAKS_CHANNEL:
                    self._leaks_changed()
                else:
                    announced = True
                    self._keys_changed()

    def _take(self, document: str, digest: str) -> None:
        if digest in (self._digest, self._refused) and self.current is not None:
            return
        try:
            configuration = Configuration.model_validate_json(document)
            if configuration.tenant_uid.replace("-", "") != self._tag:
                raise ValueError("it is another tenant's")
            prompt.instructions(configuration)
        except ValueError as error:  # pydantic's and PromptError are ValueErrors
            if digest != self._refused:
                log.error("the new configuration is refused, the old one stays: %s", str(error).splitlines()[0])
            self._refused = digest
            return
        self._digest, self.current = digest, configuration
        self.loaded.set()
        log.info("configuration %s is in force", digest[:12])
