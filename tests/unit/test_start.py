"""What the operator looks at first after a start with many tenants."""

from __future__ import annotations

import asyncio
from typing import Any

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
