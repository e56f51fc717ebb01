"""The tenant's configuration as it is now: read at start, on NOTIFY, and now and then in case one was missed."""

import asyncio
import logging

import psycopg

from tenantry_runtime import prompt
from tenantry_runtime.config import Configuration, Postgres, channel
from tenantry_runtime.store import connection_string

log = logging.getLogger(__name__)

POLL = 10.0
"""Seconds between two looks at the row where no NOTIFY comes."""
_RETRY = 1.0


class LiveConfiguration:
    """Holds the last valid configuration; a row that is invalid or another tenant's changes nothing."""

    def __init__(self, postgres: Postgres, tag: str) -> None:
        self._postgres = postgres
        self._tag = tag
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
            await connection.execute(f'LISTEN "{channel(self._tag)}"'.encode())
            while not self._reconnect.is_set():
                cursor = await connection.execute("SELECT document, digest FROM configuration WHERE id = 1")
                row = await cursor.fetchone()
                self._told = False
                if row:
                    self._take(*row)
                else:
                    log.warning("there is no configuration yet: waiting for the operator to write it")
                async for _ in connection.notifies(timeout=POLL if row else _RETRY, stop_after=1):
                    pass

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
