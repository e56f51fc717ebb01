"""The only file that imports kopf: watch events in, keys into the queue out."""

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from tenantry import lean, pauses
from tenantry.backends.connection import ApiError, Connection
from tenantry.backends.kinds import CHILDREN, OWN, OWN_PAGE, TENANT, Kind
from tenantry.backends.kubernetes import KubernetesBackend, selector
from tenantry.backends.observed import Key
from tenantry.backends.watch import Watch
from tenantry.queue import Queue
from tenantry.view import View

with lean.without("kubernetes"):  # of which kopf would import 10 MB, to take its models for objects
    import kopf
    from kopf._core.engines.peering import Identity

logger = logging.getLogger(__name__)
Json = dict[str, Any]
LINGER_SECONDS = 0.1
"""How long kopf keeps a task and a queue for an object after its last event.  With its own five seconds all objects
of the first list have theirs at once, 10 kB each, and the holes that they leave are never given back.
"""


class Watches:
    """Feeds the view and the cache: our own kinds through kopf, the tenants' objects through watches of our own."""

    def __init__(self, backend: KubernetesBackend, view: View, queue: Queue) -> None:
        self._backend = backend
        self._view = view
        self._observed = backend.observed
        self._queue = queue
        self._starting = False
        self._own = [Watch(backend, kind, "", self.event, self._missing) for kind in OWN]
        self._children = [Watch(backend, kind, selector(), self.event, self._missing) for kind in CHILDREN]
        backend.learn = view.learn
        backend.echoes.replay = self.event

    async def start(self) -> None:
        """List everything, one kind after the other, and look at every tenant.  Raises ApiError.

        To a tenant that is merely listed nothing has happened: what changes from then on goes first.
        """
        self._starting = True
        await self.relist()
        for child in self._children:
            await child.list()
        unreadable = (name for kind, _, name in self._view.unreadable if kind == TENANT.kind)
        for tenant in (*self._view.tenants, *unreadable):
            self._queue.add(tenant, calm=True)
        self._starting = False

    async def relist(self) -> None:
        """Our own kinds anew: kopf does not tell of what was deleted while a watch was cut."""
        for own in self._own:
            await own.list()

    def event(self, kind: Kind, event: Json) -> None:
        """One event of a watch, initial lists included; it waits where a write of ours is under way."""
        if self._backend.echoes.defers(kind, event):
            return
        obj = event["object"]
        gone = event["type"] == "DELETED"
        if kind in OWN:
            self._add(self._view.drop(kind, obj) if gone else self._view.put(kind, obj))
        else:
            self._add(self._observed.drop(obj) if gone else self._observed.put(obj))

    def _missing(self, kind: Kind, listed: set[Key], version: int) -> None:
        cache = self._view if kind in OWN else self._observed
        self._add(cache.missing(kind, listed, version))

    def _add(self, tenants: set[str]) -> None:
        for tenant in tenants:
            self._queue.add(tenant, calm=self._starting)

    async def run(self) -> None:
        """Watch the tenants' objects until cancelled."""
        async with asyncio.TaskGroup() as group:
            for child in self._children:
                group.create_task(child.run())

    def registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        for kind in OWN:
            kopf.on.event(kind.group, kind.version, kind.plural, registry=registry)(self._handler(kind))
        return registry

    def _handler(self, kind: Kind) -> Callable[..., Awaitable[None]]:
        async def handle(event: Any, **_: Any) -> None:
            obj = {**event["object"], "apiVersion": kind.api_version, "kind": kind.kind}
            self.event(kind, {"type": event["type"], "object": obj})

        handle.__name__ = f"watch_{kind.plural}"
        return handle


class NoDifferences(kopf.DiffBaseStorage):
    """kopf copies each object of an event to see what changed in it, for handlers of which there is none."""

    def build(self, *, body: kopf.Body, extra_fields: Any = None) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Nothing is ever written to an object."""


class Backoffs:
    """Pauses without end, in seconds: a watch that gave up would never be heard of again."""

    def __iter__(self) -> Iterator[float]:
        for longest in itertools.chain((0.2, 0.5, 1, 2), itertools.repeat(5)):
            yield pauses.at_most(longest)


def settings() -> kopf.OperatorSettings:
    made = kopf.OperatorSettings()
    made.posting.enabled = False
    made.watching.chunk_size = OWN_PAGE
    made.queueing.idle_timeout = LINGER_SECONDS
    made.persistence.finalizer = "kopf.dev/unused"
    made.persistence.diffbase_storage = NoDifferences()
    made.networking.error_backoffs = Backoffs()
    # It may end and begin again in one process, as the Lease goes and comes: its end is not the end of the process.
    made.process.ultimate_exiting_timeout = None
    return made


class Ended(Exception):
    """kopf was told to end, by SIGTERM or SIGINT, for which it installs its own handlers."""


class WatchesFailed(Exception):
    """A watch ended with an error that kopf does not try again; all must begin anew, after a list.

    Not only kopf: at its end it cancels every task that was begun since its start, ours too.
    """


async def watch(watches: Watches, connection: Connection, identity: str) -> None:
    """Watch until cancelled; raises Ended when the process was told to end, and WatchesFailed."""
    registry = watches.registry()

    @kopf.on.login(registry=registry)
    def login(**_: Any) -> kopf.ConnectionInfo:
        return kopf.ConnectionInfo(**connection.login())

    try:
        await kopf.operator(
            registry=registry,
            settings=settings(),
            # A container's user has no name in /etc/passwd, which kopf would ask for.
            identity=Identity(identity),
            standalone=True,
            clusterwide=True,
        )
    except Exception as error:
        # Without the trace: what failed is what the API server answered.
        raise WatchesFailed(f"{type(error).__name__}: {str(error)[:300]}") from None
    raise Ended


async def resync(watches: Watches, seconds: float) -> None:
    """List our own kinds anew, for ever."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await watches.relist()
        except ApiError as error:
            logger.warning("Our own kinds can't be listed: %s", error.message)
