"""What Milvus is told of a search's place, and how often it is asked to compact."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from tenantry_runtime import ingestion
from tenantry_runtime.ingestion import Ingestion
from tenantry_runtime.vectors import scope_expression


def test_a_search_names_its_tenant_whatever_its_place() -> None:
    own = 'tenant in ["tag"]'
    assert scope_expression("tag", None) == own
    assert scope_expression("tag", {"vs_1": (), "vs_2": ()}) == f'{own} and (store_id in ["vs_1","vs_2"])'
    assert scope_expression("tag", {"vs_1": ["file-1", "file-2"], "vs_2": ()}) == (
        f'{own} and (store_id in ["vs_2"] or (store_id in ["vs_1"] and file_id in ["file-1","file-2"]))'
    )


async def test_milvus_is_asked_to_compact_once_for_many_deletions(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    async def compact() -> bool:
        nonlocal asked
        asked += 1
        return True

    vectors = SimpleNamespace(compact=compact)
    service: Any = SimpleNamespace(vectors=vectors)
    worker = Ingestion(service)
    await worker._compact()
    assert asked == 0  # nothing was deleted
    for _ in range(3):
        worker._removed = True
        await worker._compact()
    assert asked == 1
    monkeypatch.setattr(ingestion, "COMPACT_SECONDS", 0)
    await asyncio.gather(worker._compact(), worker._compact())
    assert asked == 2
