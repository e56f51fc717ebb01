"""One operator whose every way leads over a proxy, three tenants in a region that fails, and one in a region that does
not: what the tests of outages share."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.apiproxy import ApiProxy
from tests.integration.operator.world import GROUP, Replica, World, region
from tests.proxy import Proxy

NEAR = "near"
FAR = ("far-0", "far-1", "far-2")
_numbers = itertools.count()


def unforeseen(replica: Replica) -> list[str]:
    """Lines of the log with an exception in them, but for kopf's own on a watch that failed: there should be none."""
    found = []
    for line in replica.log.read_text().splitlines():
        try:
            said = json.loads(line)
        except ValueError:  # a warning of Python's own
            said = {"exception": line} if "Traceback" in line else {}
        kopfs = said.get("logger", "").startswith(("kopf", "asyncio"))
        failed_watch = kopfs and any(words in said.get("message", "") for words in ("has failed", "never retrieved"))
        if ("exception" in said and not failed_watch) or "nobody foresaw" in line:
            found.append(line[:3000])
    return found


@dataclass
class Faults:
    world: World
    api: ApiProxy
    postgres: Proxy
    milvus: Proxy
    replica: Replica = field(init=False)

    @property
    def stores(self) -> tuple[Proxy, Proxy]:
        return self.postgres, self.milvus

    def heal(self) -> None:
        self.api.away = False
        self.api.watches = ""
        for proxy in self.stores:
            proxy.heal()

    def touch(self, *tenants: str) -> None:
        """A change that reaches PostgreSQL (the configuration) and has Milvus looked at."""
        for name in tenants:
            self.world.change(name, ai={"customInstructions": f"change {next(_numbers)}"})

    def told(self, tenant: str) -> str:
        """The custom instructions that the tenant's runtime reads."""
        schema = f"tenant_{tenant.replace('-', '_')}__runtime"
        document = self.world.rows(f"SELECT document FROM {schema}.configuration")[0][0]
        found = document if isinstance(document, dict) else json.loads(document)
        return str(found["prompt"]["custom_instructions"])

    def others_go_on(self) -> None:
        """A change elsewhere is in force while the fault lasts."""
        self.touch(NEAR)
        self.world.ready(NEAR)
        assert self.told(NEAR) == self.world.seen(NEAR)["spec"]["ai"]["customInstructions"]

    def healed(self) -> None:
        """By itself: nobody touches a tenant again.  A user would wait half a minute."""
        self.heal()
        for name in (*FAR, NEAR):
            self.world.ready(name, 60)
            assert self.told(name) == self.world.seen(name)["spec"]["ai"].get("customInstructions", "")
        self.well()

    def well(self) -> None:
        """The same process, and nothing that nobody foresaw."""
        assert self.replica.process.poll() is None, self.replica.log.read_text()[-3000:]
        assert not unforeseen(self.replica), unforeseen(self.replica)


@contextlib.contextmanager
def faulty(world: World) -> Iterator[Faults]:
    """The region ``remote`` is served by the same servers as ``main``, over proxies."""
    with Proxy("127.0.0.1", world.postgres.port) as sql, Proxy("127.0.0.1", world.milvus.port) as vectors:
        api = ApiProxy(world.plane)
        api.start()
        made = Faults(world, api, sql, vectors)
        whole = region(world, "remote", default=False)
        whole["spec"]["postgres"]["port"] = sql.port
        whole["spec"]["milvus"]["uri"] = f"http://127.0.0.1:{vectors.port}"
        world.create(f"{GROUP}/dataregions", whole)
        way = str(api.kubeconfig(world.folder / "proxied.kubeconfig"))
        made.replica = world.start("faulty", KUBECONFIG=way, TENANTRY_LEASE_SECONDS="10")
        try:
            world.tenant(NEAR)
            for name in FAR:
                world.tenant(name, region="remote")
            for name in (NEAR, *FAR):
                world.ready(name)
            yield made
        finally:
            try:
                made.heal()
                world.deleted(NEAR, *FAR)
            finally:
                world.stop()
                world.remove(f"{GROUP}/dataregions/remote")
                api.stop()
