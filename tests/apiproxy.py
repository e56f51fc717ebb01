"""An HTTP proxy before the API server: the operator's requests are counted, held up, cut or answered with errors."""

from __future__ import annotations

import contextlib
import json
import ssl
from collections import Counter
from pathlib import Path

import aiohttp
import yaml
from aiohttp import web

from tests.background import Background
from tests.controlplane import ControlPlane

KEPT = ("Content-Type", "Retry-After")


class ApiProxy(Background):
    """Plain HTTP on loopback, the admin's certificate towards the API server.

    `watches` is what new watches get instead of an answer: ``""`` nothing of that kind, ``gone`` an HTTP 410,
    ``expired`` a stream with a 410 in it, ``broken`` a stream with a 500 in it.
    `away`: every connection is cut without an answer.
    """

    def __init__(self, plane: ControlPlane) -> None:
        super().__init__()
        self._plane = plane
        self.requests: Counter[tuple[str, str]] = Counter()
        """By method, and ``watch``, ``lease`` or nothing."""
        self.watches = ""
        self.away = False
        self._open: dict[int, web.Request] = {}

    def kubeconfig(self, path: Path) -> Path:
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "tests",
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "tests"}}],
            "clusters": [{"name": "tests", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "users": [{"name": "tests", "user": {}}],
        }
        path.write_text(yaml.safe_dump(document))
        return path

    def cut(self) -> None:
        """End what is open, watches included, without a word."""

        def abort() -> None:
            for request in list(self._open.values()):
                if request.transport:
                    request.transport.abort()

        self._soon(abort)

    @property
    def writes(self) -> int:
        """Of anything but Leases."""
        return sum(n for (method, what), n in self.requests.items() if method != "GET" and what != "lease")

    # -- in the thread -------------------------------------------------------------

    async def _serve(self) -> None:
        tls = ssl.create_default_context(cafile=str(self._plane.authority.certificate))
        tls.load_cert_chain(self._plane.admin.certificate, self._plane.admin.key)
        app = web.Application(client_max_size=64 << 20)
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls, limit=0), timeout=aiohttp.ClientTimeout(total=None)
        ) as self._session:
            await site.start()
            await self._until_stopped(runner.addresses[0][1])
            self.away = True
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        watch = request.query.get("watch") in ("true", "1")
        self.requests[request.method, "watch" if watch else "lease" if "/leases" in request.path else ""] += 1
        self._open[id(request)] = request
        try:
            if self.away:
                return self._cut(request)
            if watch and self.watches:
                return await self._refuse(request)
            return await self._forward(request)
        except (aiohttp.ClientError, OSError):
            return self._cut(request)
        finally:
            self._open.pop(id(request), None)

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        headers = {k: v for k, v in request.headers.items() if k in ("Accept", "Content-Type")}
        async with self._session.request(
            request.method, self._plane.url + request.path_qs, data=await request.read() or None, headers=headers
        ) as answer:
            response = web.StreamResponse(status=answer.status)
            for name in KEPT:
                if name in answer.headers:
                    response.headers[name] = answer.headers[name]
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response

    async def _refuse(self, request: web.Request) -> web.StreamResponse:
        code, reason = (500, "InternalError") if self.watches == "broken" else (410, "Expired")
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason}
        if self.watches == "gone":
            return web.json_response({**status, "message": "too old resource version"}, status=410)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        event = {"type": "ERROR", "object": {**status, "message": "too old resource version"}}
        await response.write(json.dumps(event).encode() + b"\n")
        return response

    def _cut(self, request: web.Request) -> web.Response:
        with contextlib.suppress(AttributeError):
            request.transport.abort()  # type: ignore[union-attr]
        return web.Response(status=503)
