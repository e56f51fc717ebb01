"""One route: its place in the OpenAPI document, and the path that every request to it takes.

There are two kinds, so that none is open by oversight: `Endpoint` names the scope that a key must have,
`Open` is for what anybody may ask.
"""

import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from tenantry_runtime import errors
from tenantry_runtime.audit import DENIED, Event, EventType
from tenantry_runtime.call import Call, log
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
    Each request is one event of the audit: `action` in OpenAI's words, `resource` the type of what it is about,
    whose id is the path's last parameter unless the route says otherwise; `event` its type, by default
    data_access for GET, deletion for DELETE, and api_call for the others.
    """

    scope: str | None
    kind: str
    action: str
    resource: str = ""
    event: EventType | None = None
    handler: Callable[[Call], Awaitable[Response]]

    def route(self, service: Service) -> Route:
        async def endpoint(request: Request) -> Response:
            configuration = service.live.current
            if configuration is None:
                return errors.unavailable("This service has no configuration yet.", "not_configured").response()
            call = Call(service, request, configuration, self._event(request))
            call.event.basic["request"] = call.id
            response = await self._audited(call, *await self._answer(call))
            response.headers["x-request-id"] = call.id
            if not isinstance(response, EventStream):
                self._observe(call, response.status_code)
            return response

        return self._route(endpoint)

    def _event(self, request: Request) -> Event:
        usual: dict[str, EventType] = {"GET": "data_access", "DELETE": "deletion"}
        return Event(
            self.event or usual.get(self.method, "api_call"),
            self.action,
            self.resource,
            str(next(reversed(request.path_params.values()), "")),
            address=request.client.host if request.client else "",
            user_agent=request.headers.get("user-agent", ""),
        )

    async def _answer(self, call: Call) -> tuple[Response, str]:
        """The answer, and the code of the error that it is."""
        try:
            await self.identify(call)
            if call.configuration.suspended:
                raise errors.forbidden("This tenant is suspended: ask its platform engineer.", "tenant_suspended")
            if self.scope:
                call.caller.require(self.scope)
            return await self.handler(call), ""
        except errors.ApiError as error:
            refusal = error
        except StoreUnavailableError:
            refusal = errors.store_unavailable()
        except ClientDisconnect:
            refusal = errors.bad_json("The client went away before its request was read.")
        except Exception:
            log.exception("a request failed: %s %s", self.method, self.path)
            sentence = "This service failed on this request, and has logged it."
            refusal = errors.ApiError(500, sentence, kind="server_error", code="internal_error")
        return self.refuse(refusal), refusal.code or ""

    async def identify(self, call: Call) -> None:
        """Say who calls, and when on the database's clock.  Raises the refusal."""
        await call.identify(call.request.headers)

    def refuse(self, refusal: errors.ApiError) -> Response:
        return refusal.response()

    async def _audited(self, call: Call, response: Response, code: str) -> Response:
        """The answer, once the audit has it; without its row nothing is answered but 503."""
        status, event = response.status_code, call.event
        if isinstance(response, EventStream):
            response.at_end = lambda: self._ended(call, status)
            if event.intended:  # its outcome is written when it ends
                return response
        if call.arrived is None:  # the store was away before anything was asked
            return response
        if event.outcome == status and not call.queries and not call.searches:
            return response
        if status in DENIED:
            event.event_type = "access_denied"
        if status == 401:
            suppressed = call.service.ledger.unknown_keys.take()
            if suppressed is None:
                return response
            if suppressed:
                event.basic["suppressed"] = suppressed
        event.error = event.error or code
        if call.body and not event.full and event.outcome is None:  # no route has said what was sent
            event.full["body"] = call.service.guard.redact(call.body)
        try:
            await call.record(self.kind, status)
        except StoreUnavailableError:
            return errors.store_unavailable().response()
        return response

    def _ended(self, call: Call, status: int) -> None:
        """A stream is over: what it did after its settlement is written too."""
        self._observe(call, status)
        if call.queries or call.searches:
            call.service.finish(self._rest(call, status))

    async def _rest(self, call: Call, status: int) -> None:
        with contextlib.suppress(StoreUnavailableError):  # then it is written later
            await call.record(self.kind, status)

    def _observe(self, call: Call, status: int) -> None:
        took = time.monotonic() - call.started
        call.service.metrics.request(call.configuration, call.model, status, self.path, took)


@dataclass(frozen=True)
class Family:
    """Makes the routes that are about one kind of thing: `name` begins their actions, `resource` is its type."""

    name: str
    scope: str
    resource: str

    def __call__(
        self,
        method: str,
        path: str,
        action: str,
        summary: str,
        handler: Callable[[Call], Awaitable[Response]],
        resource: str = "",
        **more: Any,
    ) -> Endpoint:
        """`resource`: another type than the family's; `more`: Endpoint's own fields."""
        return Endpoint(
            method=method,
            path=path,
            action=f"{self.name}.{action}",
            summary=summary,
            handler=handler,
            resource=resource or self.resource,
            scope=self.scope,
            kind=self.scope,
            **more,
        )
