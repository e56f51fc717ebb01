"""What the bodies of all requests of the process may hold of its memory, together.

One body is bounded by its route, and a slow one by its connection; but two thousand clients may each send most of a
MiB and then wait.  A body's first bytes are free, since connections are bounded: an ordinary request is never refused
here, however many large ones there are.  What a body takes beyond them it gives back when its request is answered.
"""

from starlette.types import ASGIApp, Receive, Scope, Send

from tenantry_runtime import errors

FREE = 16 * 1024
"""Bytes of each body that are not counted."""
_TAKEN = "tenantry.body_bytes"


class Bodies:
    """At most `most` bytes; `held` are taken now."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.held = 0

    def grow(self, scope: Scope, size: int) -> None:
        """Say that the body of this request has so many bytes by now.  Raises 503 where there is no more room."""
        taken = scope.get(_TAKEN, 0)
        more = size - FREE - taken
        if more <= 0:
            return
        if self.held + more > self._most:
            sentence = "Other requests' bodies take all the memory there is for them. Send this one again shortly."
            raise errors.unavailable(sentence, "bodies_busy")
        self.held += more
        scope[_TAKEN] = taken + more

    def around(self, app: ASGIApp) -> ASGIApp:
        """The application, after each of whose requests what its body took is given back."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await app(scope, receive, send)
            finally:
                self.held -= scope.get(_TAKEN, 0)

        return counted
