"""The ASGI applications: the API, and the metrics on a port of their own."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tenantry_runtime import errors
from tenantry_runtime.routes import ROUTES
from tenantry_runtime.service import Service


def create_app(service: Service) -> Starlette:
    """The API: `ROUTES` and nothing else."""
    app = Starlette(
        routes=[route.route(service) for route in ROUTES],
        exception_handlers={HTTPException: _http_error, Exception: _failed},
    )
    app.router.redirect_slashes = False
    return app


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = {
        404: "There is no such route: see /openapi.json.",
        405: "This route does not take this method: see /openapi.json.",
    }.get(error.status_code, "The request can't be read.")
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
    return errors.ApiError(error.status_code, sentence, code=code, headers=error.headers).response()


async def _failed(_: Request, __: Exception) -> Response:
    """For what no route has caught; the server logs it."""
    return errors.internal().response()


def create_metrics_app(service: Service) -> Starlette:
    """`GET /metrics` in Prometheus' text format."""

    async def metrics(_: Request) -> Response:
        text = await service.metrics.expose(service.store, service.ledger, service.live.current)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    return Starlette(routes=[Route("/metrics", metrics)])
