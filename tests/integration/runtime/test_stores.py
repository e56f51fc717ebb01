"""Vector stores by the SDK's own helpers: filters, attributes, batches, text, and what a change does to a search."""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantry_runtime import filters
from tests import pdfs
from tests.integration.runtime.stack import Replica, Tenant

CITIES = {
    "lisbon.md": {"country": "PT", "people": 545_000, "coast": True, "seen": "2026-03-01"},
    "porto.md": {"country": "PT", "people": 232_000, "coast": True, "seen": "2026-04-01"},
    "madrid.md": {"country": "ES", "people": 3_300_000.5, "coast": False},
    "atlantis.md": {},
}


@pytest.fixture(scope="module")
def client(home: Tenant, service: Replica) -> openai.OpenAI:
    return service.client(home.key)


@pytest.fixture
def store(client: openai.OpenAI) -> Iterator[str]:
    identity = client.vector_stores.create(name="docs").id
    yield identity
    with suppress(openai.NotFoundError):
        for file in client.vector_stores.files.list(identity):
            client.files.delete(file.id)
        client.vector_stores.delete(identity)


@pytest.fixture(scope="module")
def cities(client: openai.OpenAI) -> Iterator[str]:
    identity = client.vector_stores.create(name="cities").id
    for name, attributes in CITIES.items():
        city = client.vector_stores.files.upload_and_poll(
            vector_store_id=identity,
            file=(name, f"{name} is a city with a harbour or without.".encode()),
            attributes=attributes,
            poll_interval_ms=100,
        )
        assert city.status == "completed"
    yield identity
    for file in client.vector_stores.files.list(identity):
        client.files.delete(file.id)
    client.vector_stores.delete(identity)


def compare(key: str, kind: str, value: Any) -> Any:
    return {"type": kind, "key": key, "value": value}


def found(client: openai.OpenAI, store: str, wanted: Any) -> set[str]:
    return {hit.filename for hit in client.vector_stores.search(store, query="city with a harbour", filters=wanted)}


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (compare("country", "eq", "PT"), {"lisbon.md", "porto.md"}),
        (compare("country", "ne", "PT"), {"madrid.md", "atlantis.md"}),
        (compare("people", "gt", 232_000), {"lisbon.md", "madrid.md"}),
        (compare("people", "gte", 232_000), {"lisbon.md", "porto.md", "madrid.md"}),
        (compare("people", "lt", 545_000.5), {"lisbon.md", "porto.md"}),
        (compare("seen", "lte", "2026-03-31"), {"lisbon.md"}),
        (compare("coast", "eq", False), {"madrid.md"}),
        (compare("country", "in", ["ES", "FR"]), {"madrid.md"}),
        (compare("country", "nin", ["ES", "FR"]), {"lisbon.md", "porto.md", "atlantis.md"}),
        ({"type": "and", "filters": [compare("coast", "eq", True), compare("people", "lt", 500_000)]}, {"porto.md"}),
        ({"type": "or", "filters": [compare("country", "eq", "ES"), compare("seen", "gt", "2026-03-15")]},
         {"porto.md", "madrid.md"}),
        (compare("country", "eq", "x' OR true --"), set()),
        (compare("x' IS NOT NULL OR 'a", "eq", "a"), set()),
        (compare('country"] or tenant != "', "ne", '") or true or ("'), set(CITIES)),
        (None, set(CITIES)),
    ],
)  # fmt: skip
def test_a_search_finds_what_its_filter_lets_through(
    client: openai.OpenAI, cities: str, wanted: Any, names: set[str]
) -> None:
    assert found(client, cities, wanted) == names


def test_a_search_whose_filter_matches_nothing_costs_no_tokens(
    home: Tenant, client: openai.OpenAI, cities: str
) -> None:
    home.settled()
    before = home.sql("SELECT count(*) FROM ledger WHERE kind = 'search'")
    assert found(client, cities, compare("country", "eq", "nowhere")) == set()
    assert home.sql("SELECT count(*) FROM ledger WHERE kind = 'search'") == before


def test_a_wrong_filter_is_refused_with_its_place(client: openai.OpenAI, cities: str) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        found(client, cities, {"type": "and", "filters": [compare("country", "like", "P%")]})
    assert refused.value.param == "filters.filters.0"


TEXTS = st.sampled_from(["", "a", "B", "é", "1", "true", "%", "'", '"'])
VALUES = TEXTS | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.5, 1.0, 1e300, -1e-300])
COMPARISONS = (
    st.builds(compare, TEXTS.filter(bool), st.sampled_from(["eq", "ne"]), VALUES)
    | st.builds(
        compare,
        TEXTS.filter(bool),
        st.sampled_from(["gt", "gte", "lt", "lte"]),
        VALUES.filter(lambda value: not isinstance(value, bool)),
    )
    | st.builds(compare, TEXTS.filter(bool), st.sampled_from(["in", "nin"]), st.lists(VALUES, min_size=1, max_size=3))
)
FILTERS = st.recursive(
    COMPARISONS,
    lambda parts: st.builds(
        lambda kind, some: {"type": kind, "filters": some},
        st.sampled_from(["and", "or"]),
        st.lists(parts, min_size=1, max_size=3),
    ),
    max_leaves=5,
)


def same(one: Any, other: Any) -> bool:
    kinds = [str if isinstance(value, str) else bool if isinstance(value, bool) else float for value in (one, other)]
    return kinds[0] is kinds[1] and one == other


def matches(wanted: Any, attributes: dict[str, Any]) -> bool:
    """What the filter means, said once more."""
    kind = wanted["type"]
    if kind in ("and", "or"):
        return (all if kind == "and" else any)(matches(part, attributes) for part in wanted["filters"])
    held, value = attributes.get(wanted["key"]), wanted["value"]
    if kind in ("eq", "ne", "in", "nin"):
        among = any(same(held, each) for each in (value if kind in ("in", "nin") else [value]))
        return among is (kind in ("eq", "in")) if held is not None else kind in ("ne", "nin")
    if held is None or isinstance(held, bool) or isinstance(held, str) is not isinstance(value, str):
        return False
    return bool({"gt": held > value, "gte": held >= value, "lt": held < value, "lte": held <= value}[kind])


def test_the_database_means_what_openai_means(home: Tenant) -> None:
    with home.connect() as connection:

        @settings(max_examples=100, deadline=None)
        @given(wanted=FILTERS, attributes=st.dictionaries(TEXTS.filter(bool), VALUES, max_size=4))
        def agree(wanted: Any, attributes: dict[str, Any]) -> None:
            read = filters.read(wanted)
            assert read is not None
            text, values = filters.as_sql(read, "v.attributes")
            statement = f"SELECT {text} FROM (SELECT %s::jsonb AS attributes) v"
            row = connection.execute(statement.encode(), [*values, json.dumps(attributes)]).fetchone()
            # The parameters of the condition come before the row's in the statement.
            assert row == (matches(wanted, attributes),)

        agree()


def test_many_matching_files_are_looked_through(home: Tenant, client: openai.OpenAI, cities: str) -> None:
    """More than can be named to Milvus: rows of files that have no chunk at all."""
    count = 5001
    home.sql(
        "INSERT INTO files (id, filename, purpose, bytes, status) "
        "SELECT 'file-many' || n, 'x.md', 'assistants', 0, 'uploaded' FROM generate_series(1, %s) n",
        (count,),
    )
    home.sql(
        "INSERT INTO vector_store_files (id, store_id, file_id, status, attributes, key_uid, key_name, user_name) "
        "SELECT gen_random_uuid(), %s, 'file-many' || n, 'completed', '{\"country\": \"PT\"}', '', '', '' "
        "FROM generate_series(1, %s) n",
        (cities, count),
    )
    try:
        assert found(client, cities, compare("country", "eq", "PT")) == {"lisbon.md", "porto.md"}
    finally:
        home.sql("DELETE FROM vector_store_files WHERE file_id LIKE 'file-many%'")
        home.sql("DELETE FROM files WHERE id LIKE 'file-many%'")


def version(home: Tenant) -> Any:
    return home.sql("SELECT changed_at FROM documents_state")[0][0]


def test_each_change_of_what_a_search_finds_is_a_new_version(home: Tenant, client: openai.OpenAI, store: str) -> None:
    """Answers that were kept for the version before are not served again."""
    files = client.vector_stores.files

    def changes(do: Callable[[], Any]) -> Any:
        before = version(home)
        answer = do()
        assert version(home) > before
        return answer

    state = changes(
        lambda: files.upload_and_poll(vector_store_id=store, file=("a.md", b"Harbours."), poll_interval_ms=100)
    )
    assert state.attributes == {}
    assert state.model_extra["tenantry"] == {"percent": 100, "chunks": 1}
    changed = changes(lambda: files.update(state.id, vector_store_id=store, attributes={"kind": "port", "n": 1}))
    assert changed.attributes == {"kind": "port", "n": 1}
    (hit,) = client.vector_stores.search(store, query="harbours")
    assert hit.attributes == changed.attributes
    assert hit.model_extra["tenantry"] == {"chunk": 0, "created_at": state.created_at}
    assert files.update(state.id, vector_store_id=store, attributes=None).attributes == {}
    # put in again, it takes its attributes and is not read again
    again = changes(lambda: files.create(store, file_id=state.id, attributes={"kind": "again"}))
    assert (again.status, again.attributes) == ("completed", {"kind": "again"})
    changes(lambda: files.delete(state.id, vector_store_id=store))
    with pytest.raises(openai.NotFoundError):
        files.update(state.id, vector_store_id=store, attributes={})
    assert files.create_and_poll(state.id, vector_store_id=store, poll_interval_ms=100).status == "completed"
    changes(lambda: client.files.delete(state.id))


def test_a_store_is_renamed_and_its_metadata_replaced(client: openai.OpenAI, store: str) -> None:
    changed = client.vector_stores.update(store, name="other", metadata={"a": "b"})
    assert (changed.name, changed.metadata) == ("other", {"a": "b"})
    assert client.vector_stores.update(store, metadata={}).metadata == {}
    assert client.vector_stores.retrieve(store).name == "other"
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.vector_stores.update(store, expires_after={"anchor": "last_active_at", "days": 1})
    assert refused.value.param == "expires_after"
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.update("vs_unknown", name="x")
    with pytest.raises(openai.UnprocessableEntityError, match="paragraphs"):
        client.vector_stores.create(
            chunking_strategy={
                "type": "static",
                "static": {"max_chunk_size_tokens": 800, "chunk_overlap_tokens": 400},
            }
        )


def test_a_batch_by_the_sdks_helpers(client: openai.OpenAI, store: str) -> None:
    batches = client.vector_stores.file_batches
    pairs = [
        ("one.md", b"First of the batch."),
        ("two.html", b"<p>Second of the batch."),
        ("no.pdf", b"no PDF"),
        ("blank.txt", b" \n\n \t\n"),
    ]
    batch = batches.upload_and_poll(store, files=pairs, poll_interval_ms=100)
    assert batch.status == "completed"
    assert (batch.file_counts.completed, batch.file_counts.failed, batch.file_counts.total) == (2, 2, 4)
    failed = list(batches.list_files(batch.id, vector_store_id=store, filter="failed"))
    assert [file.last_error.code for file in failed if file.last_error] == ["invalid_file"] * 2
    assert len(list(batches.list_files(batch.id, vector_store_id=store, limit=1))) == 4
    single = client.files.create(file=("three.md", b"Third."), purpose="assistants")
    other = batches.create_and_poll(store, files=[{"file_id": single.id, "attributes": {"n": 3}}], poll_interval_ms=100)
    assert other.file_counts.total == 1
    assert client.vector_stores.files.retrieve(single.id, vector_store_id=store).attributes == {"n": 3}
    assert batches.retrieve(batch.id, vector_store_id=store).file_counts.total == 4
    for wrong in ({"file_ids": []}, {"files": [{}]}, {"files": [{"file_id": single.id}] * 2}):
        with pytest.raises(openai.UnprocessableEntityError):
            batches.create(store, **wrong)
    with pytest.raises(openai.NotFoundError):
        batches.create(store, file_ids=[single.id, "file-unknown"])
    with pytest.raises(openai.NotFoundError):
        batches.retrieve("vsfb_unknown", vector_store_id=store)
    with pytest.raises(openai.NotFoundError):
        batches.retrieve(batch.id, vector_store_id="vs_unknown")


def test_a_cancelled_batch_is_left_out_until_it_is_put_in_again(
    home: Tenant, client: openai.OpenAI, store: str
) -> None:
    slow = client.files.create(file=("slow.html", b"<!-- " * 25_000 + b"--><p>Slow harbours."), purpose="assistants")
    batch = client.vector_stores.file_batches.create(store, file_ids=[slow.id])
    assert batch.file_counts.in_progress == 1
    cancelled = client.vector_stores.file_batches.cancel(batch.id, vector_store_id=store)
    assert (cancelled.status, cancelled.file_counts.cancelled) == ("cancelled", 1)
    assert client.vector_stores.files.retrieve(slow.id, vector_store_id=store).status == "cancelled"
    assert found(client, store, None) == set()
    again = client.vector_stores.files.create(store, file_id=slow.id)
    assert again.status == "in_progress"


def test_the_text_of_a_file_can_be_had(client: openai.OpenAI, store: str) -> None:
    files = client.vector_stores.files
    text = "größer\n" * 200_000  # more than one part, and letters across its border
    large = client.files.create(file=("a.txt", text.encode()), purpose="assistants").id
    files.create(store, file_id=large)
    assert "".join(piece.text or "" for piece in files.content(large, vector_store_id=store)) == text
    content = pdfs.document("Seen on the page.")
    page = files.upload_and_poll(vector_store_id=store, file=("b.pdf", content), poll_interval_ms=100)
    (piece,) = files.content(page.id, vector_store_id=store)
    assert (piece.type, (piece.text or "").strip()) == ("text", "Seen on the page.")
    with pytest.raises(openai.NotFoundError):
        files.content("file-unknown", vector_store_id=store)
