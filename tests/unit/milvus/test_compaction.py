"""How often Milvus is asked for the space of deleted rows, and by whose question whose deletion is answered for."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from tenantry.api.conditions import Reason
from tenantry.backends.errors import BackendError
from tenantry.backends.milvus import MilvusBackend, Server, backend
from tenantry.desired.postgres.seen import Removal
from tenantry.desired.vectors import Place
from tenantry.subsystems.compaction import Compaction

SHARED = Place("default", "shared_1", "t_a", "a")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A backend at a clock of its own, and what Milvus was asked; `fails`: it does not answer."""
    seen: dict[str, Any] = {"now": 1000.0, "collections": [], "fails": False}
    monkeypatch.setattr(backend.time, "monotonic", lambda: seen["now"])
    made = seen["backend"] = MilvusBackend(Server("http://127.0.0.1:1"))

    async def compact(collection: str, database: str) -> None:
        seen["collections"].append((database, collection))
        if seen["fails"]:
            raise BackendError(Reason.VECTORS_UNAVAILABLE, "away")

    monkeypatch.setattr(made._storage, "compact", compact)
    return seen


async def test_a_question_answers_for_all_deletions_before_it(asked: dict[str, Any]) -> None:
    made = asked["backend"]
    assert await made.compact(SHARED, 5)
    asked["now"] += 60
    neighbour = Place("default", "shared_1", "t_b", "b")
    assert await made.compact(neighbour, 61)
    assert not await made.compact(neighbour, 59)  # after the question: it has to wait
    assert await made.compact(Place("default", "own", None, "c"), 1)  # another collection
    assert len(asked["collections"]) == 2
    asked["now"] += backend.COMPACT_SECONDS
    assert await made.compact(neighbour, 1)
    assert len(asked["collections"]) == 3
    assert len(made._compactions) == 1  # what is over is forgotten


async def test_a_question_that_failed_answers_for_nothing_and_is_not_repeated_at_once(asked: dict[str, Any]) -> None:
    made, asked["fails"] = asked["backend"], True
    with pytest.raises(BackendError):
        await made.compact(SHARED, 5)
    asked["now"] += 10
    assert not await made.compact(SHARED, 600)
    assert len(asked["collections"]) == 1
    asked["now"] += backend.COMPACT_SECONDS
    asked["fails"] = False
    assert await made.compact(SHARED, 600)


@pytest.mark.parametrize("comes", [True, False, BackendError(Reason.VECTORS_UNAVAILABLE, "away"), ValueError("odd")])
async def test_nothing_waits_for_it_and_what_was_not_asked_for_stays_written_down(comes: object) -> None:
    answered, noted = asyncio.Event(), []

    async def compact(place: Place, deleted_ago: float) -> bool:
        await answered.wait()
        if isinstance(comes, Exception):
            raise comes
        return bool(comes)

    async def compacted(plan: object, removal: Removal) -> None:
        noted.append((plan, removal))

    backends: Any = SimpleNamespace(
        milvus=SimpleNamespace(compact=compact), postgres=SimpleNamespace(compacted=compacted)
    )
    removal = ("plan", Removal("2026-11-22T18:00:00+00:00", 3.0))

    def work(**more: object) -> Any:
        known = {"resolved": SimpleNamespace(uid="u"), "removal": removal, "vectors": SimpleNamespace(place=SHARED)}
        return SimpleNamespace(**(known | more))

    compaction = Compaction()
    for nothing in (work(removal=None), work(vectors=None)):
        compaction.begin(nothing, backends)
    assert not compaction._under_way
    compaction.begin(work(), backends)
    compaction.begin(work(), backends)  # one at a time
    (task,) = compaction._under_way.values()
    answered.set()
    await task
    await asyncio.sleep(0)
    assert noted == ([removal] if comes is True else [])
    assert not compaction._under_way
