"""One leader among the replicas, by a Lease.  A leader that can't renew in time writes nothing more.

With a Lease of 10 s (the default): the leader renews every 2 s; 8 s after its last renewal its fence is shut, so that
it writes nothing, and after 10 s it no longer leads; a standby that has seen no renewal for 10 s takes over, so at most
12 s after the leader was killed, since it looks every 2 s.
"""

import asyncio
import logging
from datetime import UTC, datetime

from tenantry.backends.connection import ApiError, Connection, Json
from tenantry.backends.fence import Fence, clock
from tenantry.backends.kinds import LEASE

logger = logging.getLogger(__name__)
LEASE_NAME = "tenantry"


class LostLeadership(Exception):
    """Another replica may lead now: this one must stop its work."""


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Leader:
    """`acquire()`, then `keep()` beside the work, then `release()`.

    As in client-go: what counts is how long this process has seen no renewal, never another host's clock.
    `fence` is open while this replica may write.
    """

    def __init__(
        self, connection: Connection, namespace: str, identity: str, seconds: float, fence: Fence | None = None
    ) -> None:
        self._connection = connection
        self._namespace = namespace
        self._identity = identity
        self._seconds = seconds
        self._fence = fence or Fence()
        self._fence.shut()
        self._renewed = -seconds

    async def acquire(self) -> None:
        """Returns when this replica leads."""
        seen, since, lasts = "", clock(), self._seconds
        held = False
        while True:
            try:
                lease = await self._get()
                spec = (lease or {}).get("spec") or {}
                mark = f"{spec.get('holderIdentity')}/{spec.get('renewTime')}"
                holder = spec.get("holderIdentity", "")
                if lease is not None and mark != seen:
                    seen, since = mark, clock()
                    lasts = float(spec.get("leaseDurationSeconds") or self._seconds)
                    held = bool(holder) and holder != self._identity
                # A Lease that was deleted under its holder is held until it would have run out.
                if not held or clock() - since > lasts:
                    await self._write(lease, spec)
                    logger.info("This replica (%s) leads", self._identity)
                    return
            except ApiError as error:
                if error.status != 409:
                    logger.warning("The Lease can't be had: %s", error.message)
            pause = self._seconds / 5
            if held:
                pause = min(pause, since + lasts - clock() + 0.05)
            await asyncio.sleep(max(pause, 0.1))

    async def keep(self) -> None:
        """Renews until cancelled; raises LostLeadership when that fails for too long."""
        pause = self._seconds / 5
        while True:
            await asyncio.sleep(pause)
            try:
                async with asyncio.timeout(self._seconds / 3):
                    lease = await self._get()
                    if lease is not None and lease["spec"].get("holderIdentity") != self._identity:
                        self._fence.shut()
                        raise LostLeadership("another replica holds the Lease")
                    await self._write(lease, lease["spec"] if lease else {})
                pause = self._seconds / 5
            except (ApiError, TimeoutError) as error:
                # With the fence shut there is no hurry: nobody may have taken it.
                if clock() - self._renewed > self._seconds:
                    self._fence.shut()
                    said = str(error) or "no answer in time"
                    raise LostLeadership(f"the Lease could not be renewed: {said}") from None
                pause = self._seconds / 10

    async def release(self) -> None:
        """Let another replica lead at once."""
        self._fence.shut()
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
            "leaseTransitions": int(old.get("leaseTransitions") or 0) + (0 if mine else 1),
        }
        started = clock()
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
        # The others wait for the whole duration; what is on its way then shall have arrived.
        self._fence.open_until(started + self._seconds * 4 / 5)

    async def _replace(self, lease: Json, spec: Json) -> None:
        version = lease["metadata"]["resourceVersion"]
        await self._connection.request(
            "patch",
            LEASE.path(self._namespace, LEASE_NAME),
            resource=LEASE.plural,
            body={"metadata": {"resourceVersion": version}, "spec": spec},
            content_type="application/merge-patch+json",
        )
