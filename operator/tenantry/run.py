"""The operator as a process: `python -m tenantry.run`."""

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import time
import uuid
from collections.abc import Callable
from datetime import timedelta

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import ValidationError

from tenantry import installation, lean, log, pauses
from tenantry.accesskeys import AccessKeys
from tenantry.adoption import Adoption
from tenantry.api import Tenant
from tenantry.backends.connection import ApiError, Connection
from tenantry.backends.fence import Fence
from tenantry.backends.kubernetes import KubernetesBackend
from tenantry.backends.observed import Observed
from tenantry.deletion import Deletion
from tenantry.desired.options import Options
from tenantry.events import Events
from tenantry.handlers import Ended, Watches, WatchesFailed, resync, watch
from tenantry.leader import Leader, LostLeadership
from tenantry.leaklists import LeakLists
from tenantry.metrics import Metrics
from tenantry.preparation import Preparation
from tenantry.queue import CALM_SECONDS, NEW_SECONDS, SOON_SECONDS, Queue
from tenantry.reconcile import Reconciler
from tenantry.regions import Regions
from tenantry.resolve import region_name
from tenantry.retention import keep_purging
from tenantry.rotation import Rotations
from tenantry.settings import Settings
from tenantry.sharedlogins import SharedLogins
from tenantry.subsystems import Subsystems
from tenantry.view import View

logger = logging.getLogger(__name__)
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 10.0
"""Between two times of leading."""


def rank(tenant: Tenant | None, calm: bool) -> float:
    """First what is begun or ends, for each further step is short and somebody waits; then what serves."""
    if tenant is None or not tenant.metadata.finalizers:
        return CALM_SECONDS if calm else NEW_SECONDS
    if tenant.metadata.deletion_timestamp or not tenant.was_ready:
        return SOON_SECONDS if calm else 0.0
    # Changed while nobody looked, and merely listed now.
    unseen = tenant.status is None or tenant.status.observed_generation != tenant.metadata.generation
    return CALM_SECONDS if calm and not unseen else SOON_SECONDS


class Operator:
    """Everything wired together; `lead()` is the work of a leader."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.fence = Fence()
        self.connection = Connection(counted=self.metrics.count_request, fence=self.fence)
        # Two on one host are two.
        self.identity = settings.pod or f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}"
        self.observed = Observed()
        self.view = View()
        self.kubernetes = KubernetesBackend(self.connection, self.observed)
        self.believed = settings.resync_seconds * 0.75
        self.queue: Queue | None = None
        self.regions = Regions(
            self.kubernetes,
            settings.namespace,
            settings.partitions_per_collection,
            self.believed,
            self._wake,
            self.fence,
            self.view.occupied,
        )
        self.leases = self.connection.for_leases()
        self.leader = Leader(self.leases, settings.namespace, self.identity, settings.lease_seconds, self.fence)
        self.on_signals: Callable[[], None] = lambda: None
        """Called when kopf, which takes SIGTERM and SIGINT for itself while it watches, has ended."""

    def _wake(self, tenant: str, delay: float) -> None:
        if self.queue:
            self.queue.add(tenant, delay)

    def _region(self, name: str) -> str:
        tenant = self.view.tenants.get(name)
        return region_name(tenant, self.view.regions) if tenant else ""

    def _rank(self, name: str, calm: bool) -> float:
        return rank(self.view.tenants.get(name), calm)

    async def lead(self) -> None:
        """List, then reconcile for ever."""
        settings = self.settings
        self.regions.keep(())  # what another replica changed in the stores meanwhile is not known
        derived = await installation.credentials(self.kubernetes, settings.namespace)
        keys = AccessKeys(self.kubernetes, self.view, derived, self.believed)
        rotations = Rotations(
            timedelta(days=settings.rotate_after_days) if settings.rotate_after_days else None,
            timedelta(seconds=settings.rotation_overlap_seconds),
            SharedLogins(self.view.placed, self.observed.runtimes),
        )
        options = Options(
            runtime_image=settings.runtime_image,
            image_pull_policy=settings.image_pull_policy,
            operator_namespace=settings.namespace,
            operator_service_account=settings.service_account,
            monitor=settings.monitor,
            prometheus_namespace=settings.prometheus_namespace,
            prometheus_cidrs=tuple(c.strip() for c in settings.prometheus_cidrs.split(",") if c.strip()),
        )
        deletion = Deletion(self.kubernetes, self.view, self.regions)
        reconciler = Reconciler(
            self.view,
            self.kubernetes,
            Subsystems(self.kubernetes, self.regions, derived, options, keys, self.metrics, self.believed, rotations),
            deletion,
            Adoption(self.kubernetes, self.view, self.regions, deletion),
            Events(self.kubernetes, self.identity),
            self.metrics,
            settings.resync_seconds,
        )
        queue = Queue(
            reconciler, settings.workers, group=self._region, rank=self._rank, depth=self.metrics.queue_depth.set
        )
        self.queue = reconciler.queue = queue
        self.view.notify = queue.add
        preparation = Preparation(self.view, self.regions, derived)
        leaks = LeakLists(self.view, self.regions, derived, self.metrics, self.believed)
        watches = Watches(self.kubernetes, self.view, queue)
        await watches.start()
        logger.info("%d tenants are there", len(self.view.tenants))
        self.metrics.leader.set(1)
        async with asyncio.TaskGroup() as group:
            group.create_task(watch(watches, self.connection, self.identity))
            group.create_task(watches.run())
            group.create_task(resync(watches, settings.resync_seconds))
            group.create_task(keep_purging(self.view, self.regions, self.metrics, settings.resync_seconds))
            group.create_task(preparation.keep())
            group.create_task(leaks.keep())
            group.create_task(queue.run())

    async def run(self) -> None:
        """Until cancelled or told to end (Ended): waits for the Lease, leads, and waits again if it loses it."""
        servers = await serve(self)
        try:
            pause = FIRST_PAUSE_SECONDS
            while True:
                await self.leader.acquire()
                began = time.monotonic()
                try:
                    await self._lead_while_held()
                except LostLeadership as error:
                    logger.error("This replica no longer leads: %s", error)
                except ApiError as error:
                    if not error.unavailable:
                        raise
                    logger.warning("This replica stops leading for now: %s", error.message)
                except ExceptionGroup as group:
                    failed = group.subgroup(WatchesFailed)
                    if failed is None or group.subgroup(Ended):
                        raise
                    logger.warning("The watches failed and begin anew: %s", failed.exceptions[0])
                if time.monotonic() - began > 2 * LONGEST_PAUSE_SECONDS:
                    pause = FIRST_PAUSE_SECONDS
                await asyncio.sleep(pauses.at_most(pause))
                pause = min(LONGEST_PAUSE_SECONDS, pause * 2)
        finally:
            for server in servers:
                await server.cleanup()
            await self.regions.close()
            await self.leases.close()
            await self.connection.close()

    async def _lead_while_held(self) -> None:
        keeping = asyncio.create_task(self.leader.keep())
        leading = asyncio.create_task(self.lead())
        try:
            done, _ = await asyncio.wait({keeping, leading}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (leading, keeping):
                task.cancel()
            await asyncio.gather(leading, keeping, return_exceptions=True)
            self.queue = None
            self.metrics.leader.set(0)
            self.on_signals()
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self.leader.release(), 5)


async def serve(operator: Operator) -> list[web.AppRunner]:
    """Probes and metrics, on ports of their own.  A standby is ready too: it is ready to take over."""

    async def alive(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def scraped(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": CONTENT_TYPE_LATEST})
        await answer.prepare(request)
        for piece in operator.metrics.pages():
            await answer.write(piece)
            await asyncio.sleep(0)  # others' turn
        await answer.write_eof()
        return answer

    runners = []
    for port, routes in (
        (operator.settings.health_port, [web.get("/healthz", alive), web.get("/readyz", alive)]),
        (operator.settings.metrics_port, [web.get("/metrics", scraped)]),
    ):
        app = web.Application()
        app.add_routes(routes)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, operator.settings.listen, port).start()
        runners.append(runner)
    return runners


async def _main(settings: Settings) -> int:
    operator = Operator(settings)
    task = asyncio.create_task(operator.run())
    loop = asyncio.get_running_loop()

    def on_signals() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, task.cancel)

    operator.on_signals = on_signals
    on_signals()
    try:
        await task
    except asyncio.CancelledError:
        logger.info("Ended on request")
        return 0
    except ApiError as error:
        logger.error("Ends: the API server said %d: %s", error.status, error.message)
        return 1
    except Exception as error:
        if isinstance(error, ExceptionGroup) and error.subgroup(Ended):
            logger.info("Ended on request")
            return 0
        logger.exception("Ends: a part of the operator failed")
        return 1
    return 0


def main() -> int:
    try:
        settings = Settings()
    except ValidationError as error:
        for problem in error.errors():
            name = "TENANTRY_" + "_".join(str(part) for part in problem["loc"]).upper()
            print(f"{name}: {problem['msg']}", file=sys.stderr)
        return 2
    log.configure(settings.log_level)
    lean.settle()
    return asyncio.run(_main(settings))


if __name__ == "__main__":
    sys.exit(main())
