"""A thin asyncio client of Milvus: one channel, no connection state, every call with a deadline."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from tenantry.api.conditions import Reason
from tenantry.backends.errors import BackendError
from tenantry.backends.fence import MESSAGE, Fence
from tenantry.backends.milvus.protocol import channel, metadata, service

CALL_SECONDS = 10.0

# Milvus' codes (merr), as far as they are told apart here.
COLLECTION_NOT_FOUND = 100
PARTITION_NOT_FOUND = 200
INDEX_NOT_FOUND = 700
DATABASE_NOT_FOUND = 800
_NOT_SERVING = {1, 2, 3, 4, 7, 8}  # not ready, unavailable, out of memory, too many requests, disk full, rate

# Words in Milvus' answer -> the setting in milvus.yaml that lifts the limit.
_LIMITS = (
    ("number of roles", "proxy.maxRoleNum"),
    ("number of users", "proxy.maxUserNum"),
    ("limit number of database", "rootCoord.maxDatabaseNum"),
    ("partition number", "rootCoord.maxPartitionNum"),
    ("limit number of collections", "quotaAndLimits.limits.maxCollectionNum"),
)


@dataclass(frozen=True)
class Server:
    """One Milvus and the login that may manage its users and collections; an empty user: no login."""

    uri: str
    user: str = ""
    password: str = field(default="", repr=False)
    allow_unauthenticated: bool = False
    """Whether the region accepts a server that asks nobody for a login."""


@dataclass(frozen=True)
class Login:
    user: str
    password: str = field(repr=False)


class Denied(Exception):
    """Milvus refused a login (`known` is False), or one of its rights (`known` is True)."""

    def __init__(self, known: bool) -> None:
        super().__init__("right missing" if known else "login refused")
        self.known = known


class Failure(Exception):
    """Milvus answered that it could not do what was asked."""

    def __init__(self, method: str, code: int, text: str) -> None:
        super().__init__(f"{method}: {code}: {text}")
        self.method, self.code, self.text = method, code, text


class Client:
    """Asks one server.  The channel is made at the first call, in the loop that makes it."""

    def __init__(self, server: Server, timeout: float = CALL_SECONDS, fence: Fence | None = None) -> None:
        self.server = server
        self._fence = fence or Fence()
        self._timeout = timeout
        self._channel: grpc.aio.Channel | None = None
        self._stub: Any = None

    async def close(self) -> None:
        channel, self._channel, self._stub = self._channel, None, None
        if channel is not None:
            await channel.close()

    async def call(
        self, method: str, request: Any, database: str = "default", accept: Collection[int] = (), words: str = ""
    ) -> Any:
        """Ask as the region's own login; every trouble is a BackendError.

        Codes in `accept` are answers, not trouble: the caller reads `code_of(answer)`.  A refusal that has `words`
        in it is the answer None: where Milvus has no code for what it says.
        """
        server = self.server
        login = Login(server.user, server.password) if server.user else None
        try:
            return await self.ask(method, request, login, database, accept)
        except Denied as denied:
            raise BackendError(Reason.VECTORS_REFUSED, _denial(denied, login)) from None
        except Failure as failure:
            if words and words in failure.text:
                return None
            raise self._explain(failure) from None

    async def ask(
        self, method: str, request: Any, login: Login | None, database: str = "default", accept: Collection[int] = ()
    ) -> Any:
        """Ask as `login` (None: as nobody).  Raises Denied, Failure, or BackendError where nobody answers."""
        if self._fence.shuts_out:
            raise BackendError(Reason.RETRYING, MESSAGE)
        who = metadata(database, login.user, login.password) if login else metadata(database)
        try:
            answer = await getattr(self._connected(), method)(request, metadata=who, timeout=self._timeout)
        except grpc.aio.AioRpcError as error:
            raise self._classify(method, error) from None
        status = getattr(answer, "status", answer)
        code = code_of(answer)
        if code in _NOT_SERVING or "not ready" in status.reason or "not healthy" in status.reason:
            raise BackendError(
                Reason.VECTORS_UNAVAILABLE, "Milvus is starting, full or overloaded; look at its health and logs"
            )
        if code and code not in accept:
            raise Failure(method, code, status.reason)
        return answer

    def _connected(self) -> Any:
        if self._stub is None:
            self._channel = channel(self.server.uri)
            self._stub = service.MilvusServiceStub(self._channel)
        return self._stub

    def _classify(self, method: str, error: grpc.aio.AioRpcError) -> Exception:
        match error.code():
            case grpc.StatusCode.UNAUTHENTICATED:
                return Denied(known=False)
            case grpc.StatusCode.PERMISSION_DENIED:
                return Denied(known=True)
            case grpc.StatusCode.UNIMPLEMENTED:
                return Failure(method, -1, "this server is older than Milvus 2.3 or no Milvus")
            case _:
                return BackendError(
                    Reason.VECTORS_UNAVAILABLE,
                    "Milvus does not answer; check that it runs and that the operator reaches spec.milvus.uri of "
                    "the DataRegion",
                )

    def _explain(self, failure: Failure) -> BackendError:
        for words, setting in _LIMITS:
            if words in failure.text:
                return BackendError(
                    Reason.CAPACITY_EXHAUSTED,
                    f"Milvus has reached its limit {setting}; raise it in milvus.yaml and restart Milvus, or remove "
                    "tenants",
                )
        lines = failure.text.strip().splitlines()
        text = lines[0][:200] if lines else "it gave no reason"
        for secret in (self.server.password, self.server.user):
            text = text.replace(secret, "***") if secret else text
        return BackendError(Reason.VECTORS_REFUSED, f"Milvus refused {failure.method} ({text}); look at its logs")


def _denial(denied: Denied, login: Login | None) -> str:
    if login is None:
        return (
            "Milvus asks for a login; name a Secret with username and password in spec.milvus.credentialsSecret of "
            "the DataRegion"
        )
    if denied.known:
        return "Milvus does not let the region's login manage users and collections; give it the role admin"
    return (
        "Milvus refuses the region's login; put the right username and password into the Secret that "
        "spec.milvus.credentialsSecret of the DataRegion names"
    )


def code_of(answer: Any) -> int:
    """Milvus' code in an answer, 0 for success; what only has an old code counts as 65535."""
    status = getattr(answer, "status", answer)
    if status.code:
        return int(status.code)
    return 65535 if status.error_code else 0
