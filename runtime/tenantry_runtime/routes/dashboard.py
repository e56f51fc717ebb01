"""/dashboard: the tenant's usage page in a browser.  Design and safety: browser.py, session.py."""

from datetime import timedelta
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import Response

from tenantry_runtime import browser, dashboard, errors, session, usage
from tenantry_runtime.audit_log import Query, moment
from tenantry_runtime.browser import DASHBOARD, SIGN_IN, Page, page, redirect
from tenantry_runtime.call import Call, read_body
from tenantry_runtime.config import key_sha256
from tenantry_runtime.endpoint import Open
from tenantry_runtime.routes import audit as audit_route
from tenantry_runtime.routes import usage as usage_route
from tenantry_runtime.service import Service

_MOST = 4096
"""Bytes of the sign-in form."""
_WRONG_KEY = "This key is not valid here, was deleted, or has expired."


async def show(call: Call) -> Response:
    values = await dashboard.view(call, call.request.query_params.get("period"))
    return page("dashboard.html", values)


async def usage_csv(call: Call) -> Response:
    return await usage_route.export(call, call.request.query_params.get("period"))


async def audit_csv(call: Call) -> Response:
    """The audit of one month of the tenant's."""
    period = call.request.query_params.get("period")
    month = usage.parse_period(period) if period else await usage.current_month(call)
    zone = usage.time_zone(call)
    after = (month + timedelta(days=32)).replace(day=1)
    query = Query(begin=moment(str(month), "period", zone), end=moment(str(after), "period", zone))
    return await audit_route.export(call, query)


# --- Signing in and out --------------------------------------------------------------------------------------


async def ask_for_key(_: Service, __: Request) -> Response:
    return page("sign_in.html", {"message": ""})


class SignIn(Page):
    """The one form that needs no session: the key in it takes the place of a request's."""

    security = None

    async def identify(self, call: Call) -> None:
        if not browser.from_here(call.request):
            raise errors.forbidden("Another page sent this form: open the sign-in page itself, and send it from there.")
        body = (await read_body(call.request, _MOST, call.service.bodies)).decode("utf-8", "replace")
        try:
            given = parse_qs(body, max_num_fields=8)["key"][0].strip()
        except (KeyError, ValueError):
            given = ""
        asked = await call.identify({"authorization": f"Bearer {given}"})
        credentials = call.service.credentials
        token = session.sign(credentials, call.caller.key_uid, key_sha256(given), asked.at)
        call.request.state.token = token

    def refuse(self, refusal: errors.ApiError) -> Response:
        sentence = _WRONG_KEY if refusal.status == 401 else refusal.message
        return page("sign_in.html", {"message": sentence}, refusal.status)


async def sign_in(call: Call) -> Response:
    answer = redirect(DASHBOARD)
    answer.set_cookie(
        session.cookie_name(call.service.credentials),
        call.request.state.token,
        max_age=session.SECONDS,
        path=DASHBOARD,
        secure=_is_https(call.request),
        httponly=True,
        samesite="strict",
    )
    return answer


async def sign_out(service: Service, request: Request) -> Response:
    if not browser.from_here(request):
        return page("refusal.html", {"message": "Another page sent this form: use the button on this one."}, 403)
    answer = redirect(SIGN_IN)
    answer.delete_cookie(
        session.cookie_name(service.credentials),
        path=DASHBOARD,
        secure=_is_https(request),
        httponly=True,
        samesite="strict",
    )
    return answer


def _is_https(request: Request) -> bool:
    """Whether the browser came by TLS, here or to a proxy before us; believing a proxy only ever adds the mark."""
    return request.url.scheme == "https" or request.headers.get("x-forwarded-proto") == "https"


async def static(_: Service, request: Request) -> Response:
    return browser.asset(str(request.path_params["name"]))


_HTML = ("text/html",)

ROUTES = (
    Page(
        method="GET",
        path=DASHBOARD,
        summary="The usage page.",
        scope="usage",
        kind="dashboard",
        action="dashboard.show",
        resource="usage",
        handler=show,
        query=(usage_route.PERIOD,),
        answer_types=_HTML,
    ),
    Page(
        method="GET",
        path=f"{DASHBOARD}/usage.csv",
        summary="The month's usage as CSV, from the usage page.",
        scope="usage",
        kind="usage",
        action="dashboard.usage.export",
        resource="usage",
        handler=usage_csv,
        query=(usage_route.PERIOD,),
        answer_types=("text/csv",),
    ),
    Page(
        method="GET",
        path=f"{DASHBOARD}/audit.csv",
        summary="The month's audit as CSV, from the usage page.",
        scope="audit",
        kind="audit",
        action="dashboard.audit.export",
        resource="audit",
        handler=audit_csv,
        query=(usage_route.PERIOD,),
        answer_types=("text/csv",),
    ),
    Open(method="GET", path=SIGN_IN, summary="The sign-in form.", handler=ask_for_key, answer_types=_HTML),
    SignIn(
        method="POST",
        path=SIGN_IN,
        summary="Begin a session of the usage page with a key.",
        scope="usage",
        kind="dashboard",
        action="dashboard.sign_in",
        resource="session",
        event="data_access",
        handler=sign_in,
        body_type="application/x-www-form-urlencoded",
        body={"type": "object", "required": ["key"], "properties": {"key": {"type": "string", "maxLength": 512}}},
        answer_types=_HTML,
    ),
    Open(
        method="POST",
        path=f"{DASHBOARD}/sign-out",
        summary="End the session of the usage page.",
        handler=sign_out,
        body_type="application/x-www-form-urlencoded",
        body={"type": "object"},
        answer_types=_HTML,
    ),
    Open(
        method="GET",
        path=f"{DASHBOARD}/static/{{name}}",
        summary="A file of the usage page.",
        handler=static,
        answer_types=("text/css", "image/svg+xml"),
    ),
)
