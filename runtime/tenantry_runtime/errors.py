"""Refusals in OpenAI's own shape, so that the official SDK raises the right exception with a useful text.

Of an error body the SDK keeps only the object under ``error``: all that a client must know is inside it.
"""

import math
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.responses import Response


class ApiError(Exception):
    """An answer that refuses.  `message` is a sentence that says what to do; it never holds a secret."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        kind: str = "invalid_request_error",
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.kind, self.param = status, message, code, kind, param
        self.headers, self.extra = dict(headers or {}), dict(extra or {})

    def body(self) -> dict[str, Any]:
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error | self.extra}

    def response(self) -> Response:
        return Response(orjson.dumps(self.body()), self.status, self.headers, "application/json")


LONGEST_WAIT = 120
"""Seconds of a Retry-After beyond which the official SDK tries again after its own few seconds instead."""


def wrong_key() -> ApiError:
    return ApiError(
        401,
        "This API key is not valid here, was deleted, or has expired. Send a current one as `Authorization: Bearer`.",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )


def forbidden(message: str, code: str = "permission_denied", param: str | None = None) -> ApiError:
    return ApiError(403, message, code=code, kind="permission_error", param=param)


def not_found(what: str = "resource") -> ApiError:
    """The same words for what never was and for what is somebody else's."""
    return ApiError(404, f"No such {what}.", code="not_found")


def invalid(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
    return ApiError(422, message, code=code, param=param)


def bad_json(message: str) -> ApiError:
    return ApiError(400, message, code="invalid_json")


def internal() -> ApiError:
    sentence = "This service failed on this request, and has logged it."
    return ApiError(500, sentence, kind="server_error", code="internal_error")


def too_large(message: str, param: str | None = None) -> ApiError:
    return ApiError(413, message, code="request_too_large", param=param)


def unavailable(message: str, code: str, retry_after: float = 2) -> ApiError:
    return ApiError(
        503,
        message,
        code=code,
        kind="server_error",
        headers={"Retry-After": str(math.ceil(retry_after))},
        extra={"retryAfter": retry_after},
    )


def store_unavailable() -> ApiError:
    return unavailable(
        "The tenant's ledger can't be reached, and no call is made without it. Try again shortly.", "store_unavailable"
    )


def vectors_unavailable() -> ApiError:
    return unavailable("The tenant's vectors can't be reached. Try again shortly.", "vectors_unavailable")


def upstream_failed(message: str, status: int = 502) -> ApiError:
    return ApiError(status, message, code="upstream_error", kind="server_error")


def rate_limited(
    limit: str, kind: str, sentence: str, wait: float, remaining: float, headers: Mapping[str, str]
) -> ApiError:
    """429 with the seconds after which the same call fits: whole in ``Retry-After``, exact in the body.

    Where that is longer than the SDK waits, such as until tomorrow, it is told not to ask in vain.
    """
    wait = math.ceil(wait * 1000) / 1000
    return ApiError(
        429,
        f"{sentence} The same call fits in {wait:g} s.",
        code="rate_limit_exceeded",
        kind=kind,
        headers={
            **headers,
            "Retry-After": str(max(1, math.ceil(wait))),
            "retry-after-ms": str(math.ceil(wait * 1000)),
            **({"x-should-retry": "false"} if wait > LONGEST_WAIT else {}),
        },
        extra={"limit": limit, "retryAfter": wait, "remaining": max(0, math.floor(remaining))},
    )


def insufficient_quota(wait: float, headers: Mapping[str, str]) -> ApiError:
    """429 that says not to try again: waiting until next month, or a larger budget, is what helps."""
    return ApiError(
        429,
        "What is left of this month's budget does not cover this call. Raise the budget, or wait for next month.",
        code="insufficient_quota",
        kind="insufficient_quota",
        headers={**headers, "x-should-retry": "false", "Retry-After": str(math.ceil(wait))},
        extra={"limit": "budget", "retryAfter": math.ceil(wait), "remaining": 0},
    )
