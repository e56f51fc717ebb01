"""What anybody may ask: whether it lives, whether it is ready, and the OpenAPI document."""

from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from tenantry_runtime.endpoint import Open
from tenantry_runtime.service import Service


def _json(body: dict[str, Any], status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, media_type="application/json")


async def openapi(_: Service, __: Request) -> Response:
    from tenantry_runtime.openapi import document

    return Response(document(), media_type="application/json")


async def livez(_: Service, __: Request) -> Response:
    return _json({"status": "ok"})


async def readyz(service: Service, _: Request) -> Response:
    """Ready with a configuration and a database, and at first with Milvus, for which it waits 20 seconds.

    After that Milvus is told, but does not count: without it, what needs no documents goes on.
    """
    if service.draining:
        return _json({"status": "stopping"}, 503)
    checks = {
        "configuration": service.live.current is not None,
        "database": await service.store.healthy(),
    }
    ready = all(checks.values()) and service.warm
    told = {**checks, "vectors": service.vectors.available}
    return _json({"status": "ready" if ready else "not ready", "checks": told}, 200 if ready else 503)


ROUTES = (
    Open(method="GET", path="/openapi.json", summary="This document.", handler=openapi),
    Open(method="GET", path="/livez", summary="Whether the process lives.", handler=livez),
    Open(method="GET", path="/readyz", summary="Whether requests can be answered.", handler=readyz),
)
