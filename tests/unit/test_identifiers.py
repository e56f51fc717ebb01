"""The leak list: which words it holds, and when it is written."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from tenantry import leaklists, names
from tenantry.api import Reason
from tenantry.backends.errors import BackendError
from tenantry.backends.kinds import REGION, TENANT
from tenantry.desired.postgres.leaks import Leaks
from tenantry.identifiers import Marks, leaks, made, marks
from tenantry.leaklists import LeakLists
from tenantry.metrics import Metrics
from tenantry.view import View
from tenantry_runtime.config import leak_hash
from tests import samples

PINNED = {
    "region": "main",
    "databaseIsolation": "Schema",
    "vectorIsolation": "Partition",
    "embeddingModel": "small",
    "dimension": 8,
    "metric": "COSINE",
}
KEY = b"k"


def stored(name: str, version: int = 1, isolation: str = "Schema", **spec: Any) -> dict[str, Any]:
    obj = samples.manifest(name, **spec)
    obj["metadata"] |= {
        "uid": samples.uid(name),
        "resourceVersion": str(version),
        "generation": version,
        "creationTimestamp": "2026-11-01T08:00:00Z",
    }
    ready = "2026-11-02T08:00:00Z"
    obj["status"] = {"pinned": {**PINNED, "databaseIsolation": isolation}, "firstReadyAt": ready}
    return obj


def region(name: str, host: str = "10.96.7.1", version: int = 1) -> dict[str, Any]:
    spec = {**samples.REGION, "postgres": {**samples.REGION["postgres"], "host": host}}
    meta = {"name": name, "uid": samples.uid(name), "resourceVersion": str(version), "generation": version}
    return {"apiVersion": names.API_VERSION, "kind": "DataRegion", "metadata": meta, "spec": spec}


def test_what_the_platform_named_after_a_tenant_gives_it_away() -> None:
    uid = samples.uid("tenant/big-corp")
    found = made(marks(samples.tenant("big-corp", status={"pinned": PINNED}, namespaces=[{"suffix": "dev"}])))
    assert set(found) == {
        "tenant-big-corp",
        "tenant-big-corp--dev",
        "runtime-big-corp",
        "tenant_big_corp",
        "tenant_big_corp__runtime",
        uid,
        names.bare(uid),
        f"t_{names.bare(uid)}",
    }
    assert "big-corp" not in found, "a bare name may be a word of everybody's"


def test_the_list_holds_hashes_with_owner_and_every_length() -> None:
    one, two = (Marks(name, samples.uid(name), "main", (), (), 0, False) for name in ("one", "two-and"))
    found = leaks([one, two], KEY, [samples.uid("unread")])
    for tenant in (one, two):
        for identifier in made(tenant):
            assert found.rows[leak_hash(KEY, identifier.upper())] == names.bare(tenant.uid)
            assert len(identifier) in found.lengths
    assert len(found.rows) == len(made(one)) + len(made(two))
    assert found.kept == {names.bare(samples.uid("unread"))}
    assert leaks([two, one], KEY, [samples.uid("unread")]).digest == found.digest
    assert leaks([one], KEY).digest != found.digest
    assert repr(KEY) not in repr(found)


def test_what_two_tenants_list_is_the_older_ones_and_no_name_can_be_taken() -> None:
    def tenant(name: str, created: float, *listed: str) -> Marks:
        return Marks(name, samples.uid(name), "main", (), listed, created, False)

    old, new = tenant("old", 1, "Project-X7"), tenant("new", 2, "project-x7", "tenant-old", "mine-1")
    for order in ([old, new], [new, old]):
        rows = leaks(order, KEY).rows
        assert rows[leak_hash(KEY, "project-x7")] == names.bare(old.uid)
        assert rows[leak_hash(KEY, "tenant-old")] == names.bare(old.uid)
        assert rows[leak_hash(KEY, "mine-1")] == names.bare(new.uid)


class World:
    """The lists, over a PostgreSQL that only takes note."""

    def __init__(self) -> None:
        self.view = View()
        self.metrics = Metrics()
        self.written: list[tuple[Leaks, str]] = []
        self.refused: set[str] = set()
        self.reason = Reason.DATABASE_UNAVAILABLE
        self.answer = (True, False)
        self.now = 100.0
        postgres = SimpleNamespace(sync_leaks=self._sync)
        regions: Any = SimpleNamespace(get=self._get)
        self.served: list[str] = []
        self.lists = LeakLists(self.view, regions, samples.credentials(), self.metrics, 225)
        self.backends = SimpleNamespace(postgres=postgres)
        self.view.put(REGION, region("main"))

    async def _get(self, region: Any) -> Any:
        self.served.append(region.name)
        return self.backends

    async def _sync(self, wanted: Leaks, things: Any) -> tuple[bool, bool]:
        where = things.database if things else ""
        if where in self.refused:
            raise BackendError(self.reason, "PostgreSQL does not answer")
        self.written.append((wanted, where))
        return self.answer

    async def write(self) -> list[str]:
        """The databases that were written to."""
        self.written.clear()
        await self.lists.write()
        return [where for _, where in self.written]

    @property
    def drift(self) -> float:
        return self.metrics.drift.labels("leaks")._value.get()  # type: ignore[no-any-return]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(leaklists.time, "monotonic", lambda: made.now)
    return made


async def test_it_is_written_when_a_tenant_comes_changes_or_goes_and_now_and_then(world: World) -> None:
    world.view.put(TENANT, stored("one"))
    assert await world.write() == [""]
    (wanted, _) = world.written[0]
    assert set(wanted.rows.values()) == {names.bare(samples.uid("one"))}
    assert await world.write() == []
    world.view.put(TENANT, stored("one", 2, suspended=True))
    assert await world.write() == [], "nothing of it is in the list"
    world.view.put(TENANT, stored("one", 3, namespaces=[{"suffix": "dev", "weight": 1}]))
    assert await world.write() == [""]
    world.view.drop(TENANT, stored("one", 4))
    assert await world.write() == [""]
    assert world.written[0][0].rows == {}
    world.now += 224
    assert await world.write() == []
    world.now += 2
    world.answer = (False, False)
    assert await world.write() == [""]
    assert world.drift == 0
    world.now += 226
    world.answer = (True, False)
    await world.write()
    assert world.drift == 1, "what was written had been changed by somebody else"


async def test_a_tenant_with_a_database_of_its_own_has_a_copy(world: World) -> None:
    world.view.put(TENANT, stored("one"))
    world.view.put(TENANT, stored("own", isolation="Database"))
    assert await world.write() == ["", "tenant_own"]
    assert world.written[0][0] is world.written[1][0]
    world.refused = {"tenant_own"}
    world.view.put(TENANT, stored("two"))
    assert await world.write() == [""]
    world.refused = set()
    assert await world.write() == [], "it is tried again after a while"
    world.now += leaklists.RETRY_SECONDS + 1
    assert await world.write() == ["", "tenant_own"]
    deleted = stored("own", 2, isolation="Database")
    deleted["metadata"] |= {"deletionTimestamp": "2026-11-03T08:00:00Z", "finalizers": [names.FINALIZER]}
    world.view.put(TENANT, deleted)
    assert await world.write() == [""], "a database that is being dropped is let alone"
    assert names.bare(samples.uid("own")) in world.written[0][0].rows.values(), "its data is still there"


@pytest.mark.parametrize("reason", [Reason.WAITING, Reason.DATABASE_UNAVAILABLE])
async def test_where_no_tenant_is_there_yet_it_waits_quietly(
    world: World, caplog: pytest.LogCaptureFixture, reason: Reason
) -> None:
    world.refused, world.reason = {""}, reason
    caplog.set_level(logging.INFO)
    assert await world.write() == []
    assert bool(caplog.records) == (reason is not Reason.WAITING)
    world.refused = set()
    assert await world.write() == []
    world.now += leaklists.RETRY_SECONDS + 1
    assert await world.write() == [""]


async def test_regions_of_one_database_share_a_list_and_others_do_not(world: World) -> None:
    world.view.put(REGION, region("same"))
    world.view.put(REGION, region("other", "10.96.7.2"))
    for name, home in (("one", "main"), ("two", "same"), ("three", "other")):
        obj = stored(name)
        obj["status"]["pinned"]["region"] = home
        world.view.put(TENANT, obj)
    assert await world.write() == ["", ""]
    found = {frozenset(wanted.rows.values()): wanted.key for wanted, _ in world.written}
    uids = {name: names.bare(samples.uid(name)) for name in ("one", "two", "three")}
    assert set(found) == {frozenset({uids["one"], uids["two"]}), frozenset({uids["three"]})}
    assert len(set(found.values())) == 2, "each list has a key of its own"
    world.view.drop(REGION, region("other", version=2))
    await world.write()
    assert len(world.lists._seen) == len(world.lists._written) == 1


async def test_a_region_that_does_not_answer_holds_up_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.view.put(REGION, region("other", "10.96.7.2"))
    healed, get = asyncio.Event(), world._get

    async def slow(asked: Any) -> Any:
        if asked.name == hung:
            await healed.wait()
        return await get(asked)

    hung = min(world.view.regions.values(), key=lambda each: each.uid).name
    monkeypatch.setattr(world.lists._regions, "get", slow)
    async with asyncio.timeout(30):
        writing = asyncio.create_task(world.lists.write())
        while not world.written:
            await asyncio.sleep(0)
        assert world.served == [name for name in world.view.regions if name != hung]
        healed.set()
        await writing
    assert len(world.written) == 2


async def test_a_tenant_that_can_not_be_read_keeps_its_identifiers(world: World) -> None:
    world.view.put(TENANT, stored("one"))
    world.view.put(TENANT, stored("two"))
    await world.write()
    broken = stored("one", 2)
    broken["spec"]["tier"] = 5
    world.view.put(TENANT, broken)
    assert await world.write() == [""]
    wanted = world.written[0][0]
    assert wanted.kept == {names.bare(samples.uid("one"))}
    assert set(wanted.rows.values()) == {names.bare(samples.uid("two"))}
