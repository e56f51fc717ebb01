"""The backends of each DataRegion, with the credentials from its Secrets."""

import asyncio
import base64
import logging
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tenantry.api import DataRegion, Reason
from tenantry.backends.errors import BackendError
from tenantry.backends.fence import Fence
from tenantry.backends.kinds import SECRET
from tenantry.backends.kubernetes import KubernetesBackend
from tenantry.backends.milvus import MilvusBackend
from tenantry.backends.milvus import Server as MilvusServer
from tenantry.backends.milvus.placing import Occupied, nobody
from tenantry.backends.postgres import Admin, PostgresBackend
from tenantry.breaker import Breaker, Wake

logger = logging.getLogger(__name__)

SECRETS_SECONDS = 15
"""How long a region's Secrets are believed before they are read again."""


@dataclass(frozen=True)
class Backends:
    """What serves one region now."""

    uid: str
    postgres: PostgresBackend
    milvus: MilvusBackend
    provider_api_key: str = field(repr=False)
    database_breaker: Breaker
    vectors_breaker: Breaker


@dataclass
class _Entry:
    fingerprint: tuple[object, ...]
    backends: Backends
    checked: float


class Regions:
    """Makes backends when they are first needed and anew when a region or one of its Secrets changed."""

    def __init__(
        self,
        kubernetes: KubernetesBackend,
        namespace: str,
        partitions_per_collection: int,
        believed_seconds: float,
        wake: Wake | None = None,
        fence: Fence | None = None,
        occupied: Occupied = nobody,
    ) -> None:
        """`wake` is called for tenants that waited for a store."""
        self._occupied = occupied
        self._fence = fence
        self._kubernetes = kubernetes
        self._namespace = namespace
        self._partitions = partitions_per_collection
        self._believed = believed_seconds
        self._wake = wake
        self._entries: dict[str, _Entry] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._retired: set[asyncio.Task[None]] = set()

    async def get(self, region: DataRegion) -> Backends:
        """Raises BackendError: CREDENTIALS_MISSING that names the Secret and the key, or INVALID_SPEC."""
        async with self._locks.setdefault(region.name, asyncio.Lock()):
            entry = self._entries.get(region.name)
            spec = region.spec.model_dump_json()
            if (
                entry
                and entry.fingerprint[:2] == (region.uid, spec)
                and time.monotonic() - entry.checked < SECRETS_SECONDS
            ):
                return entry.backends
            _check_address(region)
            postgres = await self._secret(
                region, "postgres", region.spec.postgres.credentials_secret.name, ("username", "password")
            )
            provider = await self._secret(
                region, "provider", region.spec.provider.credentials_secret.name, ("api-key",)
            )
            milvus = {"username": "", "password": ""}
            if region.spec.milvus.credentials_secret:
                milvus = await self._secret(
                    region, "milvus", region.spec.milvus.credentials_secret.name, ("username", "password")
                )
            fingerprint = (region.uid, spec, *postgres.values(), *milvus.values(), *provider.values())
            if entry and entry.fingerprint == fingerprint:
                entry.checked = time.monotonic()
                return entry.backends
            server = region.spec.postgres
            backends = Backends(
                uid=region.uid,
                postgres=PostgresBackend(
                    Admin(
                        host=server.host,
                        port=server.port,
                        database=server.database,
                        user=postgres["username"],
                        password=postgres["password"],
                        sslmode=server.sslmode,
                    ),
                    fence=self._fence,
                ),
                milvus=MilvusBackend(
                    MilvusServer(
                        uri=region.spec.milvus.uri,
                        user=milvus["username"],
                        password=milvus["password"],
                        allow_unauthenticated=region.spec.milvus.allow_unauthenticated,
                    ),
                    spread=self._partitions,
                    remember=self._believed,
                    fence=self._fence,
                    occupied=self._occupied,
                ),
                provider_api_key=provider["api-key"],
                database_breaker=Breaker(self._wake),
                vectors_breaker=Breaker(self._wake),
            )
            self._entries[region.name] = _Entry(fingerprint, backends, time.monotonic())
            if entry:
                self._retire(entry.backends)
            return backends

    async def _secret(self, region: DataRegion, field: str, name: str, keys: tuple[str, ...]) -> dict[str, str]:
        where = f"spec.{field}.credentialsSecret of DataRegion {region.name!r}"
        secret = await self._kubernetes.get(SECRET, self._namespace, name)
        if secret is None:
            raise BackendError(
                Reason.CREDENTIALS_MISSING,
                f"{where} names Secret {self._namespace}/{name}, which does not exist; create it with "
                f"{' and '.join(keys)}",
            )
        data = secret.get("data") or {}
        for key in keys:
            if not data.get(key):
                raise BackendError(
                    Reason.CREDENTIALS_MISSING, f"{where}: Secret {self._namespace}/{name} has no key {key!r}"
                )
        try:
            found = {key: base64.b64decode(data[key]).decode().rstrip("\r\n") for key in keys}
        except UnicodeDecodeError:
            found = {}
        for key in keys:  # most editors, and `echo`, end a file with a line end, which is no part of a key
            if not found.get(key, "").isprintable() or not found.get(key):
                raise BackendError(
                    Reason.CREDENTIALS_MISSING,
                    f"{where}: key {key!r} of Secret {self._namespace}/{name} is no line of text; write it anew",
                )
        return found

    def keep(self, names: Collection[str]) -> None:
        """Of these regions alone: what served others is closed."""
        for name in [n for n in self._entries if n not in names]:
            self._retire(self._entries.pop(name).backends)
        for name in [n for n, lock in self._locks.items() if n not in names and not lock.locked()]:
            del self._locks[name]

    def _retire(self, backends: Backends) -> None:
        for breaker in (backends.database_breaker, backends.vectors_breaker):
            breaker.close()

        async def close() -> None:
            # Work under way still uses them.
            await asyncio.sleep(60)
            await _close(backends)

        task = asyncio.create_task(close())
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)

    async def close(self) -> None:
        for entry in self._entries.values():
            await _close(entry.backends)
        self._entries.clear()
        for task in list(self._retired):
            task.cancel()


def _check_address(region: DataRegion) -> None:
    """Raises BackendError for a Milvus that no client could be told of."""
    try:
        parts = urlsplit(region.spec.milvus.uri)
        fine = bool(parts.scheme and parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        fine = False
    if not fine:
        raise BackendError(
            Reason.INVALID_SPEC,
            f"DataRegion {region.name!r}: spec.milvus.uri {region.spec.milvus.uri!r} is no URL with a scheme, a host "
            "and a port, such as http://milvus.data.svc:19530",
        )


async def _close(backends: Backends) -> None:
    await backends.postgres.close()
    await backends.milvus.close()
