"""What a watch does when it is cut, too old, silent or told nonsense; a real API server is in tests/integration."""

import asyncio
import json
import weakref
from typing import Any

import pytest

from tenantry.backends import watch as watches
from tenantry.backends.apiserver import ApiServer
from tenantry.backends.connection import ApiError
from tenantry.backends.kinds import NAMESPACE, OWN_PAGE, TENANT
from tenantry.backends.kubernetes import KubernetesBackend
from tenantry.backends.observed import Observed
from tenantry.backends.watch import Watch


def namespace(name: str, version: int):
    return {"metadata": {"name": name, "resourceVersion": str(version), "labels": {"tenantry.dev/tenant": name}}}


def event(kind: str, name: str, version: int):
    return json.dumps({"type": kind, "object": namespace(name, version)}).encode()


class Server:
    """Answers lists with what it holds and watches with the next of `streams`: lines, then an error or a clean end."""

    def __init__(self, *streams: list) -> None:
        self.held = {"a": 10, "b": 11}
        self.later: dict[str, int] = {}
        """What it holds once it was watched, if that is something else."""
        self.streams = list(streams)
        self.asked: list[str] = []

    async def request(self, verb: str, path: str, *, resource: str, params: dict) -> dict:
        if self.asked and self.later:
            self.held = self.later
        items = [namespace(name, version) for name, version in sorted(self.held.items())]
        page = int(params.get("continue", 0))
        more = {"continue": str(page + 1)} if page + 1 < len(items) else {}
        return {"metadata": {"resourceVersion": "20", **more}, "items": items[page : page + 1]}

    async def lines(self, path: str, *, resource: str, params: dict, silence_seconds: float):
        self.asked.append(params["resourceVersion"])
        assert params["allowWatchBookmarks"] == "true"
        if not self.streams:
            await asyncio.Event().wait()
        for line in self.streams.pop(0):
            if isinstance(line, Exception):
                raise line
            yield line


async def followed(server: Server, monkeypatch, asked: int) -> tuple[list[tuple[str, str]], set[str]]:
    """What was told until the server was asked so often for a watch, and what is held to be there."""
    monkeypatch.setattr(watches, "PAUSES_SECONDS", (0.001,))
    observed = Observed()
    told: list[tuple[str, str]] = []

    def tell(kind, event) -> None:
        told.append((event["type"], event["object"]["metadata"]["name"]))
        (observed.drop if event["type"] == "DELETED" else observed.put)(event["object"])

    made = Watch(KubernetesBackend(server, observed), NAMESPACE, "x", tell, observed.missing)  # type: ignore[arg-type]
    await made.list()
    task = asyncio.create_task(made.run())
    try:
        async with asyncio.timeout(30):
            while len(server.asked) < asked:
                await asyncio.sleep(0.005)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return told, {n for n in ("a", "b", "c") if observed.get(("Namespace", "", n))}


async def test_it_goes_on_where_it_was_after_a_clean_end_a_bookmark_and_a_cut(monkeypatch):
    mark = json.dumps({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "40"}}}).encode()
    cut = ApiError(0, "Unreachable", "cut")
    server = Server([event("ADDED", "c", 30)], [mark], [event("DELETED", "a", 50), cut], [cut])
    told, there = await followed(server, monkeypatch, 5)
    assert server.asked == ["20", "30", "40", "50", "50"]
    assert told == [("ADDED", "a"), ("ADDED", "b"), ("ADDED", "c"), ("DELETED", "a")]
    assert there == {"b", "c"}


@pytest.mark.parametrize(
    "gone",
    [
        ApiError(410, "Expired", "too old"),
        json.dumps({"type": "ERROR", "object": {"code": 410, "reason": "Expired", "message": "too old"}}).encode(),
        b"no JSON",
        b'{"type": "ADDED"}',
    ],
)
async def test_what_was_deleted_while_it_was_too_old_is_noticed(monkeypatch, gone):
    server = Server([gone])
    server.later = {"a": 10, "c": 15}
    _, there = await followed(server, monkeypatch, 2)
    assert there == {"a", "c"}
    assert server.asked == ["20", "20"]


async def test_a_list_of_large_objects_comes_in_small_pages_and_a_page_is_gone_before_the_next_is_read():
    asked: list[str] = []

    class Page(dict[str, Any]):
        pass

    pages: list[weakref.ref[Page]] = []

    class Paged:
        async def request(self, verb: str, path: str, *, resource: str, params: dict[str, str]) -> Page:
            asked.append(params["limit"])
            assert all(page() is None for page in pages), "the page before is still there"
            items = [{"metadata": {"name": f"t{len(asked)}"}}]
            page = Page(items=items, metadata={"continue": "more"} if len(asked) < 3 else {})
            pages.append(weakref.ref(page))
            return page

    server = ApiServer(Paged(), Observed())  # type: ignore[arg-type]
    found = [item async for items, _ in server.pages(TENANT) for item in items]
    assert asked == [str(OWN_PAGE)] * 3
    assert [(i["kind"], i["apiVersion"], i["metadata"]["name"]) for i in found] == [
        ("Tenant", TENANT.api_version, f"t{number}") for number in (1, 2, 3)
    ]
