"""A connection to the API server: configuration and authentication by the official library, requests by aiohttp.

Requests go as plain dicts over aiohttp because `bench/api_writes.py` shows that the generated client costs twice
the CPU for each write.
"""

import asyncio
import contextlib
import json
import ssl
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
from kubernetes import client as official
from kubernetes import config as official_config

Json = dict[str, Any]

TIMEOUT_SECONDS = 30
ATTEMPTS = 4
"""Tries for a request that never reached the server or was told to come again (429, 503)."""


class ApiError(Exception):
    """The API server's answer, or its absence (`status` 0)."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message

    @property
    def unavailable(self) -> bool:
        return self.status == 0 or self.status == 429 or self.status >= 500


def configuration() -> Any:
    """From the Pod's service account, else from $KUBECONFIG or ~/.kube/config."""
    made = official.Configuration()
    try:
        official_config.load_incluster_config(client_configuration=made)
    except official_config.ConfigException:
        official_config.load_kube_config(client_configuration=made)
    return made


def ssl_context(made: Any) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=made.ssl_ca_cert)
    if made.cert_file:
        context.load_cert_chain(made.cert_file, made.key_file)
    return context


class Connection:
    """Sends requests, counts them by verb and resource, and turns failures into `ApiError`."""

    def __init__(self, made: Any | None = None, counted: Callable[[str, str], None] | None = None) -> None:
        self._configuration = made or configuration()
        self._ssl = ssl_context(self._configuration)
        self._session: aiohttp.ClientSession | None = None
        self._counted = counted or (lambda verb, resource: None)
        self.requests: Counter[tuple[str, str]] = Counter()

    @property
    def server(self) -> str:
        return str(self._configuration.host).rstrip("/")

    def token(self) -> str | None:
        """The current bearer token; a service account's is read anew when it ages."""
        value = self._configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        return str(value) if value else None

    def login(self) -> dict[str, Any]:
        """What kopf needs to connect as we do."""
        token = self.token()
        return {
            "server": self.server,
            "ca_path": self._configuration.ssl_ca_cert,
            "certificate_path": self._configuration.cert_file,
            "private_key_path": self._configuration.key_file,
            "scheme": token.split(" ", 1)[0] if token and " " in token else None,
            "token": token.split(" ", 1)[-1] if token else None,
        }

    async def close(self) -> None:
        if self._session:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._ssl, limit=64, keepalive_timeout=60),
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS, connect=10),
            )
        return self._session

    async def request(
        self,
        verb: str,
        path: str,
        *,
        resource: str,
        body: object = None,
        content_type: str = "application/json",
        params: Mapping[str, str] | None = None,
    ) -> Json:
        """One request; its JSON answer.  `resource` is what metrics call it, such as ``namespaces``."""
        method = {"get": "GET", "list": "GET", "create": "POST", "delete": "DELETE"}.get(verb, "PATCH")
        data = json.dumps(body).encode() if body is not None else None
        pause = 0.1
        for attempt in range(1, ATTEMPTS + 1):
            headers = {"Accept": "application/json"}
            if data is not None:
                headers["Content-Type"] = content_type
            if token := self.token():
                headers["Authorization"] = token
            self.requests[verb, resource] += 1
            self._counted(verb, resource)
            try:
                async with self._open().request(
                    method, self.server + path, data=data, headers=headers, params=params
                ) as answer:
                    text = await answer.text()
                    if answer.status < 300:
                        return json.loads(text) if text else {}
                    error = _error(answer.status, text)
                    wait = float(answer.headers.get("Retry-After", 0) or 0)
            except (aiohttp.ClientError, TimeoutError, OSError) as problem:
                error = ApiError(0, "Unreachable", f"The API server does not answer ({type(problem).__name__})")
                wait = 0
                if not isinstance(problem, aiohttp.ClientConnectorError) and verb == "create":
                    raise error from None
            if attempt == ATTEMPTS or error.status not in (0, 429, 503):
                raise error from None
            await asyncio.sleep(max(pause, min(wait, 5)))
            pause *= 3
        raise AssertionError("unreachable")


def _error(status: int, text: str) -> ApiError:
    reason, message = "", text[:500]
    with contextlib.suppress(ValueError, AttributeError):
        answer = json.loads(text)
        reason, message = answer.get("reason", ""), answer.get("message", message)
    return ApiError(status, reason, message)


def from_kubeconfig(path: Path | str) -> Any:
    """A configuration from one file, for tools and tests."""
    made = official.Configuration()
    official_config.load_kube_config(config_file=str(path), client_configuration=made)
    return made


__all__ = ["ApiError", "Connection", "Json", "configuration", "from_kubeconfig"]
