"""Ingestion under limits and faults: its pace, a kill in its middle, each level of isolation, a foreign chunk."""

import asyncio
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest

from dev.cluster import net
from tenantry_runtime import vectors
from tenantry_runtime.app import create_app
from tenantry_runtime.config import Documents, Limits, SubjectLimits
from tenantry_runtime.service import Service
from tests.integration.runtime.stack import Replica, Stack, Tenant, eventually

TOKENS_PER_MINUTE = 3000
PARAGRAPHS = 24
"""Of about 140 tokens (an estimate says 200): more than the minute's bucket holds."""
LONG = "\n\n".join(
    f"Paragraph {number} is about the harbour of city {number}. " + "It says nothing else of any interest. " * 16
    for number in range(PARAGRAPHS)
)


@pytest.fixture(scope="module")
def slow(stack: Stack) -> Tenant:
    return stack.tenant(
        documents=Documents(max_files=50, max_file_bytes=5_000_000),
        limits=Limits(tokens_per_minute=1_000_000, per_user=SubjectLimits(tokens_per_minute=TOKENS_PER_MINUTE)),
    )


def state_of(client: openai.OpenAI, store: str, file: str) -> Any:
    return client.vector_stores.files.retrieve(file, vector_store_id=store)


def test_it_keeps_to_the_minutes_limit_and_goes_on_after_a_kill(slow: Tenant) -> None:
    began = time.monotonic()
    with slow.replica() as first:
        client = first.client(slow.key)
        file = client.files.create(file=("long.md", LONG.encode()), purpose="assistants").id
        store = client.vector_stores.create(name="docs", file_ids=[file]).id

        def waits() -> Any:
            state = state_of(client, store, file)
            assert state.status == "in_progress", state.last_error
            return state.model_extra["tenantry"] if state.usage_bytes > len(LONG) / 3 else None

        progress = eventually(waits)
        assert 30 <= progress["percent"] < 100
        assert 0 < progress["chunks"] < PARAGRAPHS
        first.child.kill()
        first.child.wait(30)
    # It died after writing a chunk, before saying so; then its lease runs out.
    before = slow.chunks()
    assert len(before) >= progress["chunks"]
    assert not slow.sql("SELECT 1 FROM vector_store_files WHERE status = 'completed'")
    slow.sql("UPDATE vector_store_files SET chunks = chunks - 1, retry_at = clock_timestamp()")
    with slow.replica() as second:
        client = second.client(slow.key)
        seen = []

        def done() -> bool:
            # Found only when all of it is there; a search has to wait for tokens, too.
            state = state_of(client, store, file)
            assert state.status in ("in_progress", "completed"), state.last_error
            seen.append(state.model_extra["tenantry"]["percent"])
            return bool(state.status == "completed")

        eventually(done, timeout=120)
        assert seen == sorted(seen)
        after = slow.chunks()
        assert set(before) <= set(after)
        assert len(after) == len(set(after)) == state_of(client, store, file).model_extra["tenantry"]["chunks"]
        # The pace is the limit's: a full bucket at first, then what a minute brings.
        (tokens,) = slow.sql("SELECT sum(tokens_in) FROM ledger WHERE status IN ('settled', 'expired')")[0]
        assert tokens > TOKENS_PER_MINUTE
        assert tokens <= TOKENS_PER_MINUTE * (1 + (time.monotonic() - began) / 60) * 1.5
        client.files.delete(file)
        eventually(lambda: slow.chunks() == [])


@pytest.mark.parametrize("isolation", ["Collection", "Database"])  # all other tests are of Partition
def test_each_level_finds_its_own_and_really_deletes(stack: Stack, home: Tenant, isolation: str) -> None:
    tenant = stack.tenant(isolation=isolation)
    with tenant.replica() as replica:
        client = replica.client(tenant.key)
        store = client.vector_stores.create(name="docs").id
        cities = ("Lisbon", "Porto", "Faro")
        files = {
            city: client.vector_stores.files.upload_and_poll(
                vector_store_id=store,
                file=(f"{city}.md", f"The harbour of {city}.".encode()),
                attributes={"city": city},
                poll_interval_ms=100,
            ).id
            for city in cities
        }
        assert search(client, store) == {f"{city}.md" for city in cities}
        wanted: Any = {"type": "ne", "key": "city", "value": "Porto"}
        assert search(client, store, filters=wanted) == {"Lisbon.md", "Faro.md"}
        assert len(tenant.chunks()) == 3
        client.files.delete(files["Porto"])
        assert search(client, store) == {"Lisbon.md", "Faro.md"}
        eventually(lambda: len(tenant.chunks()) == 2)

        with planted(tenant, store, files["Faro"]):
            asyncio.run(dropped(tenant, store, {"The harbour of Lisbon.", "The harbour of Faro."}))

        # All that is left, by the tenant's own name only.
        for wrong in ("", "?confirm=", "?confirm=all", f"?confirm={home.name}"):
            with pytest.raises(openai.UnprocessableEntityError) as refused:
                client.delete(f"/files{wrong}", cast_to=object)
            assert refused.value.param == "confirm"
        assert len(list(client.files.list())) == 2
        before = tenant.sql("SELECT changed_at FROM documents_state")
        answer: Any = client.delete(f"/files?confirm={tenant.name}", cast_to=object)
        assert answer["count"] == 2
        assert tenant.sql("SELECT changed_at FROM documents_state") > before
        assert search(client, store) == set()
        assert list(client.files.list()) == []
        assert client.vector_stores.retrieve(store).file_counts.total == 0
        assert tenant.sql("SELECT count(*) FROM file_parts") == [(0,)]
        eventually(lambda: not tenant.sql("SELECT 1 FROM vector_store_files"))
        assert tenant.chunks() == []


async def test_without_milvus_nothing_is_embedded(stack: Stack) -> None:
    tenant = stack.tenant()
    tenant.sql("INSERT INTO files (id, filename, purpose, bytes, status) VALUES ('file-1', 'a.md', '', 4, 'uploaded')")
    tenant.sql("INSERT INTO file_parts VALUES ('file-1', 0, 'text')")
    tenant.sql("INSERT INTO vector_stores (id) VALUES ('vs_1')")
    tenant.sql(
        "INSERT INTO vector_store_files (id, store_id, file_id, status, key_uid, key_name, user_name) "
        "VALUES (gen_random_uuid(), 'vs_1', 'file-1', 'in_progress', '', '', '')"
    )
    away = tenant.credentials.milvus.model_copy(update={"uri": f"http://127.0.0.1:{net.free_port()}"})
    service = Service(tenant.credentials.model_copy(update={"milvus": away}))
    await service.start()
    try:
        async with asyncio.timeout(60):
            while tenant.sql("SELECT attempts FROM vector_store_files")[0][0] < 3:
                await asyncio.sleep(0.2)
    finally:
        await service.close()
    assert tenant.sql("SELECT status, tokens_in FROM ledger") == []


def search(client: openai.OpenAI, store: str, **options: Any) -> set[str]:
    return {hit.filename for hit in client.vector_stores.search(store, query="harbour", **options)}


PLANTED = "a" * 32 + "-0"


@contextmanager
def planted(tenant: Tenant, store: str, file: str) -> Iterator[None]:
    """One chunk of another tenant's, under ids of this one's: as a fault elsewhere would leave it in its place."""
    place = {"partition_names": [tenant.partition]} if tenant.partition else {}
    into = {"partition_name": tenant.partition} if tenant.partition else {}
    with tenant.vectors() as milvus:
        wanted = {"filter": f'file_id == "{file}"', "output_fields": ["vector", "chunk"], "consistency_level": "Strong"}
        (row,) = milvus.query(tenant.collection, **wanted, **place)
        foreign = {**row, "id": PLANTED, "tenant": "e" * 32, "file_id": file, "store_id": store, "text": "PLANTED"}
        milvus.insert(tenant.collection, foreign, **into)
        yield
        milvus.delete(tenant.collection, ids=[PLANTED], **into)


async def dropped(tenant: Tenant, store: str, texts: set[str]) -> None:
    """With a Milvus that does not keep to the condition on its search (here it is given none), and chat likewise."""
    service = Service(tenant.credentials)
    await service.start()
    try:
        await asyncio.wait_for(service.live.loaded.wait(), 60)
        transport = httpx.ASGITransport(create_app(service))
        key = {"Authorization": f"Bearer {tenant.key}"}
        chat = {"messages": [{"role": "user", "content": "Where is the harbour?"}], "model": "gpt-4o-mini"}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(vectors, "scope_expression", lambda tag, places: 'id != ""')
            async with httpx.AsyncClient(transport=transport, base_url="http://runtime", headers=key) as client:
                found = await client.post(f"/v1/vector_stores/{store}/search", json={"query": "harbour"})
                answer = await client.post("/v1/chat/completions", json=chat)
        assert found.status_code == answer.status_code == 200
        assert {hit["content"][0]["text"] for hit in found.json()["data"]} == texts
        assert "PLANTED" not in answer.text
        assert answer.json()["tenantry"]["documents"]
        shown = (await service.metrics.expose(service.store, service.ledger, service.live.current)).decode()
        assert re.search(r'tenantry_leaks_blocked_total\{.*kind="foreign_hit".*\} 2\.0', shown)
        told = tenant.sql(
            "SELECT DISTINCT action, details->'leaks'->'search' FROM audit WHERE details->'leaks' ? 'search'"
        )
        leak = {"blocked": {"foreign_hit": 1}}
        assert sorted(told) == [("chat.completions.create", leak), ("vector_stores.search", leak)]
    finally:
        await service.close()


def test_a_foreign_chunk_is_not_asked_for_and_a_foreign_hit_is_dropped_counted_and_audited(
    home: Tenant, service: Replica
) -> None:
    """In a partition of a shared collection; the other levels are tried above."""
    client = service.client(home.key)
    store = client.vector_stores.create(name="docs").id
    file = client.vector_stores.files.upload_and_poll(
        vector_store_id=store, file=("a.md", b"The harbour of Lisbon."), poll_interval_ms=100
    ).id
    with planted(home, store, file):
        hits = client.vector_stores.search(store, query="harbour").data
        assert [hit.content[0].text for hit in hits] == ["The harbour of Lisbon."]
        asyncio.run(dropped(home, store, {"The harbour of Lisbon."}))
    client.files.delete(file)
    client.vector_stores.delete(store)


def test_what_was_deleted_and_not_yet_taken_out_hides_nothing(home: Tenant, service: Replica) -> None:
    """As after many deletions that Milvus has not been told of yet: the best hits are all of them chunks of these."""
    client = service.client(home.key)
    store = client.vector_stores.create(name="docs").id
    texts = [f"The harbour of city {number} is old." for number in range(4)]
    files = [
        client.vector_stores.files.upload_and_poll(
            vector_store_id=store, file=(f"{number}.md", text.encode()), poll_interval_ms=100
        ).id
        for number, text in enumerate(texts)
    ]
    with home.vectors() as milvus:
        place = {"partition_name": home.partition}
        wanted = {"filter": f'file_id == "{files[0]}"', "output_fields": ["vector", "chunk"]}
        (row,) = milvus.query(home.collection, **wanted, partition_names=[home.partition], consistency_level="Strong")
        # What the question itself would be: nearer than any of the texts.
        vector = client.embeddings.create(model="wordllama-256", input="harbour").data[0].embedding
        gone = {"chunk": row["chunk"], "vector": vector, "tenant": home.tag, "store_id": store, "text": "GONE"}
        ids = [f"{number:032x}-0" for number in range(300)]
        milvus.insert(home.collection, [{**gone, "id": each, "file_id": "file-gone"} for each in ids], **place)
        home.reset()
        try:
            found = client.vector_stores.search(store, query="harbour", max_num_results=3).data
            assert len({hit.content[0].text for hit in found} & set(texts)) == 3
            assert home.sql("SELECT vector_searches FROM ledger") == [(1,)]  # paid as one
            # Where nothing beyond is near enough, none is looked for.
            options: Any = {"ranking_options": {"score_threshold": 0.999}}
            assert client.vector_stores.search(store, query="harbour", max_num_results=3, **options).data == []
        finally:
            milvus.delete(home.collection, ids=ids, **place)
    for file in files:
        client.files.delete(file)
    client.vector_stores.delete(store)
