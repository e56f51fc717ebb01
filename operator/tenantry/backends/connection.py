"""A connection to the API server: requests by aiohttp.

They go as plain dicts over aiohttp because `bench/api_writes.py` shows that the generated client costs twice
the CPU for each write.
"""

import asyncio
import contextlib
import json
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import aiohttp

from tenantry import pauses
from tenantry.backends.access import Access, access, from_kubeconfig
from tenantry.backends.fence import MESSAGE, Fence

Json = dict[str, Any]

TIMEOUT_SECONDS = 30
CONNECTIONS = 32
"""At once, of which each watch holds one.  More are not faster (the API server is the bound), and each takes 256 KiB,
asyncio's buffer for TLS, for good: the pool uses all of them in turn, so that under steady work none is ever idle.
"""
FIRST_PAUSE_SECONDS = 0.1
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


def ssl_context(made: Access) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=made.authority)
    if made.certificate:
        context.load_cert_chain(made.certificate, made.key)
    return context


def _fenced(fence: Fence, method: str) -> bool:
    return fence.shuts_out and method != "GET"


class FencedConnector(aiohttp.TCPConnector):
    """Looks at the fence when a connection is at hand, just before a request goes out: it may have waited for one."""

    def __init__(self, fence: Fence, context: ssl.SSLContext) -> None:
        super().__init__(ssl=context, limit=CONNECTIONS, keepalive_timeout=60)
        self._fence = fence

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> aiohttp.connector.Connection:
        connection = await super().connect(req, traces, timeout)
        if _fenced(self._fence, req.method):
            connection.release()
            raise ApiError(0, "Fenced", MESSAGE)
        return connection


class Connection:
    """Sends requests, counts them by verb and resource, and turns failures into `ApiError`."""

    def __init__(
        self,
        made: Access | None = None,
        counted: Callable[[str, str], None] | None = None,
        fence: Fence | None = None,
    ) -> None:
        """`fence`: nothing is written while it is shut."""
        self._access = made or access()
        self._ssl = ssl_context(self._access)
        self._session: aiohttp.ClientSession | None = None
        self._fence = fence or Fence()
        self._counted = counted or (lambda verb, resource: None)
        self.requests: Counter[tuple[str, str]] = Counter()

    def for_leases(self) -> "Connection":
        """Another of the same user's: no fence, since a Lease is how a replica comes to lead, and sockets of its own,
        since a renewal that waits behind a burst of other requests comes too late.
        """
        return Connection(self._access, self._counted)

    @property
    def server(self) -> str:
        return self._access.server

    def token(self) -> str | None:
        """The header Authorization as it must be now."""
        return self._access.authorization()

    def login(self) -> dict[str, Any]:
        """What kopf needs to connect as we do."""
        token = self.token()
        return {
            "server": self.server,
            "ca_path": self._access.authority,
            "certificate_path": self._access.certificate,
            "private_key_path": self._access.key,
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
                connector=FencedConnector(self._fence, self._ssl),
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
        """One request; its JSON answer.  `resource` is what metrics call it, such as ``namespaces``.

        Raises ApiError, and nothing else, whatever the server, a proxy before it or the network answers.
        """
        method = {"get": "GET", "list": "GET", "create": "POST", "delete": "DELETE"}.get(verb, "PATCH")
        data = json.dumps(body).encode() if body is not None else None
        pause = FIRST_PAUSE_SECONDS
        for attempt in range(1, ATTEMPTS + 1):
            if _fenced(self._fence, method):
                raise ApiError(0, "Fenced", MESSAGE)
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
                    text = (await answer.read()).decode(errors="replace")
                    if answer.status < 300:
                        return _json(text)
                    error = _error(answer.status, text)
                    wait = _seconds(answer.headers.get("Retry-After", ""))
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as problem:
                error = ApiError(0, "Unreachable", f"The API server does not answer ({_said(problem)})")
                wait = 0
                if not isinstance(problem, aiohttp.ClientConnectorError) and verb == "create":
                    raise error from None
            if attempt == ATTEMPTS or error.status not in (0, 429, 503):
                raise error from None
            await asyncio.sleep(max(pauses.at_most(pause), min(wait, 5)))
            pause *= 3
        raise AssertionError("unreachable")

    async def lines(
        self, path: str, *, resource: str, params: Mapping[str, str], silence_seconds: float
    ) -> AsyncIterator[bytes]:
        """The lines of a watch, until the server ends it.  One try.  Raises ApiError, also after so long a silence."""
        headers = {"Accept": "application/json"}
        if token := self.token():
            headers["Authorization"] = token
        self.requests["watch", resource] += 1
        self._counted("watch", resource)
        timeout = aiohttp.ClientTimeout(total=None, connect=10, sock_read=silence_seconds)
        try:
            async with self._open().get(self.server + path, headers=headers, params=params, timeout=timeout) as answer:
                if answer.status >= 300:
                    raise _error(answer.status, (await answer.read()).decode(errors="replace"))
                rest = b""
                async for chunk in answer.content.iter_any():
                    *whole, rest = (rest + chunk).split(b"\n")
                    for line in whole:
                        yield line
        except (aiohttp.ClientError, TimeoutError, OSError) as problem:
            raise ApiError(0, "Unreachable", f"The API server does not answer ({_said(problem)})") from None


def _json(text: str) -> Json:
    """An object; ValueError for anything else, as a proxy or a captive portal answers it."""
    try:
        answer = json.loads(text) if text else {}
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(answer, dict):
        raise ValueError("no object")
    return answer


def _error(status: int, text: str) -> ApiError:
    reason, message = "", text[:500]
    with contextlib.suppress(ValueError, AttributeError, RecursionError):
        answer = json.loads(text)
        reason, message = str(answer.get("reason") or ""), str(answer.get("message") or message)
    return ApiError(status, reason, message or f"HTTP {status} without a word")


def _seconds(text: str) -> float:
    """Of a Retry-After; 0 for a date, which the API server never sends."""
    with contextlib.suppress(ValueError):
        return max(0.0, min(float(text), 3600.0))
    return 0.0


def _said(problem: Exception) -> str:
    if isinstance(problem, ValueError) and not isinstance(problem, aiohttp.ClientError):
        return "what came is no JSON object: is there a proxy before it?"
    if isinstance(problem, aiohttp.ClientSSLError | ssl.SSLError):
        return "its certificate or its TLS was not accepted"
    return type(problem).__name__


__all__ = ["ApiError", "Connection", "Json", "from_kubeconfig"]
