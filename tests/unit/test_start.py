"""What the operator looks at first after a start with many tenants, and in which order."""

from __future__ import annotations

import asyncio
from typing import Any

from tenantry import names, run
from tenantry.api import Tenant
from tenantry.backends.kinds import TENANT
from tenantry.backends.kubernetes import KubernetesBackend
from tenantry.backends.observed import Observed
from tenantry.handlers import Watches
from tenantry.queue import Queue
from tenantry.view import View
from tests import samples

Json = dict[str, Any]


def tenant(name: str, version: int, **spec: Any) -> Json:
    made = samples.manifest(name, **spec)
    made["metadata"] |= {"uid": samples.uid(name), "resourceVersion": str(version), "generation": version}
    return made


class Server:
    """Lists tenants, and nothing else."""

    async def request(self, verb: str, path: str, *, resource: str, params: Json) -> Json:
        assert verb == "list"
        items = [tenant(f"t{number}", 1) for number in range(5)] if resource == TENANT.plural else []
        return {"metadata": {"resourceVersion": "9"}, "items": items}


async def test_what_changes_goes_before_the_look_at_everything_that_was_there() -> None:
    view, looked = View(), asyncio.Event()
    order: list[str] = []

    async def work(name: str) -> None:
        order.append(name)
        if len(order) == 6:
            looked.set()

    queue = Queue(work, 1)
    server: Any = Server()
    watches = Watches(KubernetesBackend(server, Observed()), view, queue)
    await watches.start()
    watches.event(TENANT, {"type": "MODIFIED", "object": tenant("t3", 10, suspended=True)})
    watches.event(TENANT, {"type": "ADDED", "object": tenant("new", 11)})
    running = asyncio.create_task(queue.run())
    async with asyncio.timeout(30):
        await looked.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert order == ["t3", "new", "t0", "t1", "t2", "t4"]


def ready(generation: int, observed: int, **meta: Any) -> Tenant:
    status = {"firstReadyAt": "2026-11-22T12:00:00Z", "observedGeneration": observed}
    made = samples.tenant(status=status).model_dump(by_alias=True)
    made["metadata"] |= {"generation": generation, "finalizers": [names.FINALIZER], **meta}
    return Tenant.model_validate(made)


def test_what_changed_while_no_operator_ran_is_not_among_those_that_nobody_waits_for() -> None:
    calm = run.rank(ready(2, 2), True)
    assert run.rank(ready(3, 2), True) == run.rank(ready(3, 2), False) == run.rank(ready(2, 2), False) < calm
    ending = ready(2, 2, deletionTimestamp="2026-11-22T12:00:00Z")
    assert run.rank(ending, False) < run.rank(ending, True) < calm
    new = samples.tenant()
    assert run.rank(ready(3, 2), True) < run.rank(new, False) < run.rank(new, True) == run.rank(None, True)
