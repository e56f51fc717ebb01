"""The only file that imports kopf: watch events in, keys into the queue out."""

import asyncio
import itertools
import logging
import random
from collections.abc import Callable, Iterator
from typing import Any

import kopf
from kopf._core.engines.peering import Identity

from tenantry.backends.connection import ApiError, Connection
from tenantry.backends.kinds import CHILDREN, DEPLOYMENT, OWN, Kind
from tenantry.backends.kubernetes import KubernetesBackend, selector
from tenantry.backends.observed import Observed
from tenantry.queue import Queue
from tenantry.view import View

logger = logging.getLogger(__name__)
Json = dict[str, Any]


class Watches:
    """Feeds the view and the cache, by events and, since a watch can miss a deletion, by lists."""

    def __init__(self, backend: KubernetesBackend, view: View, observed: Observed, queue: Queue) -> None:
        self._backend = backend
        self._view = view
        self._observed = observed
        self._queue = queue

    async def relist(self, *, first: bool = False) -> None:
        """List every kind anew and look at the tenants for whom something differs; at start at every tenant.

        The lists run one after the other: at 2,000 tenants one of them is some megabytes.
        """
        for kind in (*OWN, *CHILDREN):
            own = kind in OWN
            try:
                objects = await self._backend.list_all(kind, "" if own else selector())
            except ApiError as error:
                if first:
                    raise
                logger.warning("%s can't be listed: %s", kind.plural, error.message)
                continue
            changed = self._view.replace(kind, objects) if own else self._observed.replace(kind, objects)
            if not first:
                self._add(changed)
        if first:
            self._add(set(self._view.tenants))

    def event(self, kind: Kind, event: Json) -> None:
        """One event of a watch, initial lists included."""
        obj = {"apiVersion": kind.api_version, "kind": kind.kind, **event["object"]}
        gone = event["type"] == "DELETED"
        if kind in OWN:
            self._add(self._view.drop(kind, obj["metadata"]) if gone else self._view.put(kind, obj))
            return
        before = self._observed.get(obj)
        tenant = self._observed.drop(obj) if gone else self._observed.put(obj)
        if tenant and (gone or before is None or _matters(kind, before, obj)):
            self._add({tenant})

    def _add(self, tenants: set[str]) -> None:
        for tenant in tenants:
            self._queue.add(tenant)

    def registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        for kind in (*OWN, *CHILDREN):
            kopf.on.event(kind.group, kind.version, kind.plural, registry=registry)(self._handler(kind))
        return registry

    def _handler(self, kind: Kind) -> Callable[..., None]:
        def handle(event: Any, **_: Any) -> None:
            self.event(kind, event)

        handle.__name__ = f"watch_{kind.plural}"
        return handle


def _matters(kind: Kind, before: Json, after: Json) -> bool:
    """A status that moves is only looked at where it says whether the runtime serves."""
    if before["metadata"].get("resourceVersion") == after["metadata"].get("resourceVersion"):
        return False
    if kind is DEPLOYMENT:
        return True
    relevant = ("labels", "annotations", "deletionTimestamp", "ownerReferences", "uid")
    if any(before["metadata"].get(f) != after["metadata"].get(f) for f in relevant):
        return True
    return any(before.get(f) != after.get(f) for f in {*before, *after} - {"metadata", "status"})


class Backoffs:
    """Pauses without end, in seconds: a watch that gave up would never be heard of again."""

    def __iter__(self) -> Iterator[float]:
        for longest in itertools.chain((0.2, 0.5, 1, 2), itertools.repeat(5)):
            yield longest * random.uniform(0.5, 1)  # noqa: S311 - jitter


def settings() -> kopf.OperatorSettings:
    made = kopf.OperatorSettings()
    made.posting.enabled = False
    for kind in CHILDREN:
        made.watching.label_selectors[kind.group or "", kind.plural] = selector()
    made.persistence.finalizer = "kopf.dev/unused"
    made.networking.error_backoffs = Backoffs()
    # It may end and begin again in one process, as the Lease goes and comes: its end is not the end of the process.
    made.process.ultimate_exiting_timeout = None
    return made


class Ended(Exception):
    """kopf was told to end, by SIGTERM or SIGINT, for which it installs its own handlers."""


async def watch(watches: Watches, connection: Connection, identity: str) -> None:
    """Watch until cancelled; raises Ended when the process was told to end."""
    registry = watches.registry()

    @kopf.on.login(registry=registry)
    def login(**_: Any) -> kopf.ConnectionInfo:
        return kopf.ConnectionInfo(**connection.login())

    await kopf.operator(
        registry=registry,
        settings=settings(),
        # A container's user has no name in /etc/passwd, which kopf would ask for.
        identity=Identity(identity),
        standalone=True,
        clusterwide=True,
    )
    raise Ended


async def resync(watches: Watches, seconds: float) -> None:
    """List anew, for ever."""
    while True:
        await asyncio.sleep(seconds)
        await watches.relist()
