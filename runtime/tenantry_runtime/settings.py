"""What the process is told by its environment, and the credentials file that it reads again when it changes."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from tenantry_runtime.config import Credentials

log = logging.getLogger(__name__)

BODY_BYTES = 32 * 1024 * 1024
"""With the first bytes of each of the most connections there can be, an eighth of a runtime's memory by default."""


class Settings(BaseSettings):
    """Environment variables, each with the prefix ``TENANTRY_``."""

    model_config = SettingsConfigDict(env_prefix="TENANTRY_")

    credentials: Path = Field(description="The file of `Credentials`.")
    pod: str = Field(default="", description="The Pod's name, for logs.")
    host: str = "0.0.0.0"  # noqa: S104 - inside a Pod; NetworkPolicies say who may come
    port: int = 8000
    metrics_port: int = 9090
    drain_seconds: float = Field(
        default=5, description="After SIGTERM: how long at least to go on accepting while endpoints forget this Pod."
    )
    grace_seconds: float = Field(
        default=130, description="After that: how long requests and streams may take; above the provider's timeout."
    )
    pool_size: int = Field(default=6, description="Database connections, besides four that all requests share.")
    body_bytes: int = Field(
        default=BODY_BYTES, ge=0, description="Bytes that the JSON bodies of all requests may take together."
    )


class CredentialsFile:
    """The mounted file; `watch` calls back with each new content that is valid."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._text = ""

    def load(self) -> Credentials:
        """The file's content now.  Raises OSError, or ValueError (which never holds the content)."""
        text = self._path.read_text(encoding="utf-8")
        try:
            credentials = Credentials.model_validate_json(text)
        except ValidationError as error:
            fields = ", ".join(".".join(map(str, item["loc"])) for item in error.errors(include_input=False))
            raise ValueError(f"{self._path} is no valid credentials file: look at {fields or 'its JSON'}") from None
        self._text = text
        return credentials

    async def watch(self, changed: Callable[[Credentials], Awaitable[None]], every: float = 2) -> None:
        """Look at the file until cancelled.  A mounted Secret changes as a whole, by a renamed link."""
        while True:
            await asyncio.sleep(every)
            try:
                before, credentials = self._text, self.load()
                if self._text != before:
                    log.info("the credentials file has changed: taking it over")
                    await changed(credentials)
            except (OSError, ValueError) as error:
                log.warning("keeping the old credentials: %s", error)
