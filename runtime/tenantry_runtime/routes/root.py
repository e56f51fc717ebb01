"""GET /: what this service is, and where it is described."""

from starlette.requests import Request
from starlette.responses import Response

from tenantry_runtime.answers import json_answer
from tenantry_runtime.endpoint import Open
from tenantry_runtime.service import Service


async def root(_: Service, __: Request) -> Response:
    from tenantry_runtime.openapi import version

    return json_answer(
        {
            "name": "Tenantry runtime",
            "version": version(),
            "description": "An OpenAI-compatible API for one tenant: give the official SDK this address and /v1.",
            "openapi": "/openapi.json",
            "docs": "docs/tenant-guide.md and docs/runtime.md of Tenantry's repository, at this version",
        }
    )


ROUTES = (Open(method="GET", path="/", summary="What this service is.", handler=root),)
