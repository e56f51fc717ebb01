"""The OpenAPI document, put together from the routes themselves: what is served is what is described."""

import functools
import re
from importlib import metadata
from typing import Any

import orjson

from tenantry_runtime.browser import Page
from tenantry_runtime.endpoint import Described, Endpoint
from tenantry_runtime.routes import ROUTES

_PARAMETER = re.compile(r"\{(\w+)\}")
_ERROR = {
    "description": "OpenAI's error object.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
}


@functools.cache
def document() -> bytes:
    """The document as JSON; the same for every tenant."""
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return orjson.dumps(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Tenantry runtime",
                "version": version(),
                "description": "One tenant's AI API, in OpenAI's own shapes.",
            },
            "paths": paths,
            "components": {
                "securitySchemes": {
                    "key": {"type": "http", "scheme": "bearer"},
                    "session": {
                        "type": "apiKey",
                        "in": "cookie",
                        "name": "tenantry_session",
                        "description": "The usage page's, from POST /dashboard/sign-in.",
                    },
                },
                "schemas": {
                    "Error": {
                        "type": "object",
                        "required": ["error"],
                        "properties": {
                            "error": {
                                "type": "object",
                                "required": ["message", "type"],
                                "properties": {
                                    "message": {"type": "string"},
                                    "type": {"type": "string"},
                                    "param": {"type": ["string", "null"]},
                                    "code": {"type": ["string", "null"]},
                                    "retryAfter": {"type": "number"},
                                    "remaining": {"type": "integer"},
                                },
                            }
                        },
                    }
                },
            },
        }
    )


def version() -> str:
    try:
        return metadata.version("tenantry")
    except metadata.PackageNotFoundError:  # run from a source tree that was not installed
        return "0"


def _operation(route: Described) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": re.sub(r"\W+", "_", f"{route.method.lower()}{route.path}").strip("_"),
        "responses": {
            "200": {
                "description": "Done.",
                "content": {kind: {"schema": route.answer} if "json" in kind else {} for kind in route.answer_types},
            },
            "default": _ERROR,
        },
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PARAMETER.findall(route.path)
    ]
    parameters.extend(route.query)
    if parameters:
        operation["parameters"] = parameters
    if route.body:
        operation["requestBody"] = {"required": True, "content": {route.body_type: {"schema": route.body}}}
    if isinstance(route, Page):
        operation["responses"]["default"] = {"description": "A page.", "content": {"text/html": {}}}
    if isinstance(route, Endpoint) and (scheme := getattr(route, "security", "key")):
        operation["security"] = [{scheme: []}]
        operation["x-tenantry-scope"] = route.scope
    return operation
