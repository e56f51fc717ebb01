"""One leader among the replicas, by a Lease.  A leader that can't renew in time stops at once."""

import asyncio
import logging
import time
from datetime import UTC, datetime

from tenantry.backends.connection import ApiError, Connection, Json
from tenantry.backends.kinds import LEASE

logger = logging.getLogger(__name__)
LEASE_NAME = "tenantry"


class LostLeadership(Exception):
    """Another replica may lead now: this one must end."""


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Leader:
    """`acquire()`, then `keep()` beside the work, then `release()`.

    As in client-go: what counts is how long this process has seen no renewal, never another host's clock.
    """

    def __init__(self, connection: Connection, namespace: str, identity: str, seconds: float) -> None:
        self._connection = connection
        self._namespace = namespace
        self._identity = identity
        self._seconds = seconds
        self._renewed = 0.0

    async def acquire(self) -> None:
        """Returns when this replica leads."""
        seen, since = "", time.monotonic()
        while True:
            try:
                lease = await self._get()
                spec = (lease or {}).get("spec", {})
                mark = f"{spec.get('holderIdentity')}/{spec.get('renewTime')}"
                if mark != seen:
                    seen, since = mark, time.monotonic()
                holder = spec.get("holderIdentity", "")
                lasts = float(spec.get("leaseDurationSeconds", self._seconds))
                if not holder or holder == self._identity or time.monotonic() - since > lasts:
                    await self._write(lease, spec)
                    logger.info("This replica (%s) leads", self._identity)
                    return
            except ApiError as error:
                if error.status != 409:
                    logger.warning("The Lease can't be had: %s", error.message)
            await asyncio.sleep(self._seconds / 5)

    async def keep(self) -> None:
        """Renews until cancelled; raises LostLeadership when that fails for too long."""
        while True:
            await asyncio.sleep(self._seconds / 5)
            try:
                async with asyncio.timeout(self._seconds / 3):
                    lease = await self._get()
                    if lease is None or lease["spec"].get("holderIdentity") != self._identity:
                        raise LostLeadership("another replica holds the Lease")
                    await self._write(lease, lease["spec"])
            except (ApiError, TimeoutError) as error:
                # The others wait for the whole duration; end well before them.
                if time.monotonic() - self._renewed > self._seconds * 2 / 3:
                    raise LostLeadership(f"the Lease could not be renewed: {error}") from None

    async def release(self) -> None:
        """Let another replica lead at once."""
        try:
            lease = await self._get()
            if lease and lease["spec"].get("holderIdentity") == self._identity:
                spec = {**lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _now()}
                await self._replace(lease, spec)
        except ApiError as error:
            logger.warning("The Lease could not be given back: %s", error.message)

    async def _get(self) -> Json | None:
        try:
            return await self._connection.request("get", LEASE.path(self._namespace, LEASE_NAME), resource=LEASE.plural)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def _write(self, lease: Json | None, old: Json) -> None:
        mine = old.get("holderIdentity") == self._identity
        spec = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": max(1, round(self._seconds)),
            "acquireTime": old.get("acquireTime") if mine else _now(),
            "renewTime": _now(),
            "leaseTransitions": int(old.get("leaseTransitions", 0)) + (0 if mine else 1),
        }
        started = time.monotonic()
        if lease is None:
            meta = {"name": LEASE_NAME, "namespace": self._namespace}
            await self._connection.request(
                "create",
                LEASE.path(self._namespace),
                resource=LEASE.plural,
                body={"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": meta, "spec": spec},
            )
        else:
            await self._replace(lease, spec)
        self._renewed = started

    async def _replace(self, lease: Json, spec: Json) -> None:
        version = lease["metadata"]["resourceVersion"]
        await self._connection.request(
            "patch",
            LEASE.path(self._namespace, LEASE_NAME),
            resource=LEASE.plural,
            body={"metadata": {"resourceVersion": version}, "spec": spec},
            content_type="application/merge-patch+json",
        )
