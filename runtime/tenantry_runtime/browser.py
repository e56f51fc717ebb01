"""Pages for a browser: what is sent with each, where a form may come from, and the routes that a session opens."""

import functools
import hashlib
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, ClassVar
from urllib.parse import urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from tenantry_runtime import errors, session
from tenantry_runtime.call import Call
from tenantry_runtime.endpoint import Endpoint

HEADERS = {
    # Nothing but this service's own style sheet and forms: no script at all, no other address, no frame around it.
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",  # with no-referrer, browsers would hide a form's origin from us too
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
DASHBOARD = "/dashboard"
SIGN_IN = f"{DASHBOARD}/sign-in"


@functools.cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("tenantry_runtime", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["asset"] = asset_path
    return environment


def page(template: str, values: Mapping[str, Any], status: int = 200) -> Response:
    text = _templates().get_template(template).render(values)
    return Response(text, status, HEADERS, "text/html")


def redirect(path: str) -> Response:
    """To a page of ours, with GET."""
    return RedirectResponse(path, 303, HEADERS)


def from_here(request: Request) -> bool:
    """Whether a form was sent by a page of ours.  Browsers say so, and no page can make them say otherwise."""
    if site := request.headers.get("sec-fetch-site"):
        return site == "same-origin"
    origin = request.headers.get("origin", "")
    return bool(origin) and urlsplit(origin).netloc == request.headers.get("host")


# --- Static files --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asset:
    content: bytes
    media_type: str


@functools.cache
def assets() -> dict[str, Asset]:
    """By a name that holds the content's hash, so that it may be cached for ever."""
    found = {}
    for entry in (resources.files("tenantry_runtime") / "static").iterdir():
        content = entry.read_bytes()
        stem, _, suffix = entry.name.rpartition(".")
        kind = mimetypes.guess_type(entry.name)[0] or "application/octet-stream"
        found[f"{stem}.{hashlib.sha256(content).hexdigest()[:12]}.{suffix}"] = Asset(content, kind)
    return found


@functools.cache
def asset_path(name: str) -> str:
    """The path of a static file, by its name in the package."""
    stem, _, suffix = name.rpartition(".")
    (hashed,) = [known for known in assets() if known.startswith(f"{stem}.") and known.endswith(f".{suffix}")]
    return f"{DASHBOARD}/static/{hashed}"


def asset(name: str) -> Response:
    known = assets().get(name)
    if known is None:
        return errors.not_found("file").response()
    headers = {
        "Cache-Control": "public, max-age=31536000, immutable",
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
    return Response(known.content, 200, headers, known.media_type)


# --- Routes that a session opens -----------------------------------------------------------------------------


class Page(Endpoint):
    """A route for a browser: the session's cookie takes the place of the key, and refusals are pages."""

    security: ClassVar[str | None] = "session"
    """The scheme of the OpenAPI document."""

    async def identify(self, call: Call) -> None:
        credentials = call.service.credentials
        token = call.request.cookies.get(session.cookie_name(credentials), "")
        found = await session.look_up(credentials, call.service.store, token)
        if found is None:
            raise errors.ApiError(401, "The session has ended: sign in again.", code="no_session")
        call.arrived, call.caller = found

    def refuse(self, refusal: errors.ApiError) -> Response:
        if refusal.status == 401:
            return redirect(SIGN_IN)
        return page("refusal.html", {"status": refusal.status, "message": refusal.message}, refusal.status)
