"""The end of a replica without a failed request.

From SIGTERM on, the Pod's address is taken out of every node's tables, which takes as long as the cluster is busy;
until then new connections arrive.  So they are taken, each answer says that its connection closes, and the port is
closed only once nobody has come for a while.  A connection that is idle then is closed, which its client sees
before it sends on it again.
"""

import asyncio
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tenantry_runtime.service import Service

QUIET_SECONDS = 3.0
"""Without a request for so long, the addresses are taken to be forgotten."""
MOST_SECONDS = 30.0
"""However many requests still come: somebody holds on to this Pod's own address."""
_PROBES = frozenset({"/livez", "/readyz"})


class Draining:
    """The application with `Connection: close` on each answer while its service drains."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service
        self._asked = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._service.draining:
            await self._app(scope, receive, send)
            return
        if scope["path"] not in _PROBES:
            self._asked = time.monotonic()

        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        await self._app(scope, receive, closing)

    async def quiet(self, least: float) -> None:
        """Return after `least` seconds, or later where requests still come; at once for 0."""
        began = time.monotonic()
        end = began + least
        while least > 0 and (rest := end - time.monotonic()) > 0:
            await asyncio.sleep(rest)
            end = max(end, min(self._asked + QUIET_SECONDS, began + MOST_SECONDS))
