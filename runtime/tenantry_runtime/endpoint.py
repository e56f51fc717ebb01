"""One route: its place in the OpenAPI document, and the path that every request to it takes.

There are two kinds, so that none is open by oversight: `Endpoint` names the scope that a key must have,
`Open` is for what anybody may ask.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from tenantry_runtime import errors
from tenantry_runtime.call import Call, log
from tenantry_runtime.keys import authenticate
from tenantry_runtime.service import Service
from tenantry_runtime.store import StoreUnavailableError
from tenantry_runtime.streaming import EventStream


@dataclass(frozen=True, kw_only=True)
class Described:
    """What the OpenAPI document says of a route."""

    method: str
    path: str
    summary: str
    body: dict[str, Any] | None = None
    body_type: str = "application/json"
    query: tuple[dict[str, Any], ...] = ()
    answer: dict[str, Any] = field(default_factory=lambda: {"type": "object"})
    answer_types: tuple[str, ...] = ("application/json",)

    def _route(self, endpoint: Callable[[Request], Awaitable[Response]]) -> Route:
        route = Route(self.path, endpoint, methods=[self.method], name=f"{self.method} {self.path}")
        route.methods = {self.method}  # Starlette would add HEAD, which no client of this API uses
        return route


@dataclass(frozen=True, kw_only=True)
class Open(Described):
    """A route without a key."""

    handler: Callable[[Service, Request], Awaitable[Response]]

    def route(self, service: Service) -> Route:
        async def endpoint(request: Request) -> Response:
            return await self.handler(service, request)

        return self._route(endpoint)


@dataclass(frozen=True, kw_only=True)
class Endpoint(Described):
    """A route for keys with this scope; None: any key.

    What a request used of database and vectors goes into the ledger, as `kind` where no model was called.
    """

    scope: str | None
    kind: str
    handler: Callable[[Call], Awaitable[Response]]

    def route(self, service: Service) -> Route:
        async def endpoint(request: Request) -> Response:
            configuration = service.live.current
            if configuration is None:
                return errors.unavailable("This service has no configuration yet.", "not_configured").response()
            call = Call(service, request, configuration)
            response = await self._answer(call)
            response.headers["x-request-id"] = call.id
            if isinstance(response, EventStream):  # which settles by itself, when it ends
                response.at_end = lambda: self._observe(call, response.status_code)
                return response
            if call.queries or call.searches:
                await service.ledger.record(configuration, call.caller, self.kind, **call.taken())
            self._observe(call, response.status_code)
            return response

        return self._route(endpoint)

    async def _answer(self, call: Call) -> Response:
        try:
            call.caller = await authenticate(call.request.headers, call.service.store)
            if call.configuration.suspended:
                raise errors.forbidden("This tenant is suspended: ask its platform engineer.", "tenant_suspended")
            if self.scope:
                call.caller.require(self.scope)
            return await self.handler(call)
        except errors.ApiError as error:
            return error.response()
        except StoreUnavailableError:
            return errors.store_unavailable().response()
        except ClientDisconnect:
            return errors.bad_json("The client went away before its request was read.").response()
        except Exception:
            log.exception("a request failed: %s %s", self.method, self.path)
            sentence = "This service failed on this request, and has logged it."
            return errors.ApiError(500, sentence, kind="server_error", code="internal_error").response()

    def _observe(self, call: Call, status: int) -> None:
        took = time.monotonic() - call.started
        call.service.metrics.request(call.configuration, call.model, status, self.path, took)
