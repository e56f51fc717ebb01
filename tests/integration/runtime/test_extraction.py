"""PDF and HTML files: read at ingestion, found, answered from; and what is not what its name says."""

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import openai
import pytest

from tests import pdfs
from tests.integration.runtime.stack import Replica, Tenant, eventually

PAGE = b"""<!DOCTYPE html><html><head><title>Shipping</title><script>track("no one reads this")</script></head>
<body><h1>Shipping</h1><p>Parcels to the Azores take <b>nine</b> days.</p></body></html>"""
MANUAL = pdfs.document("Falcon drone\nManual", "The battery of the Falcon drone lasts for 38 minutes.")


@pytest.fixture
def client(home: Tenant, service: Replica) -> openai.OpenAI:
    return service.client(home.key)


@pytest.fixture
def store(client: openai.OpenAI) -> Iterator[str]:
    identity = client.vector_stores.create(name="docs").id
    yield identity
    with suppress(openai.NotFoundError):
        client.vector_stores.delete(identity)


def put(client: openai.OpenAI, store: str, name: str, content: bytes) -> Any:
    return client.vector_stores.files.upload_and_poll(
        vector_store_id=store, file=(name, content), poll_interval_ms=200, max_wait_seconds=60
    )


@pytest.mark.parametrize(
    ("name", "content", "question", "part"),
    [
        ("manual.PDF", MANUAL, "How long does the battery of the Falcon drone last?", "38 minutes"),
        ("shipping.html", PAGE, "How long do parcels to the Azores take?", "nine days"),
    ],
)
def test_its_text_is_found_and_answered_from(
    client: openai.OpenAI, store: str, name: str, content: bytes, question: str, part: str
) -> None:
    state = put(client, store, name, content)
    assert (state.status, state.last_error) == ("completed", None)
    hits = client.vector_stores.search(store, query=question).data
    assert part in hits[0].content[0].text
    assert "track" not in hits[0].content[0].text
    assert hits[0].filename == name
    messages: Any = [{"role": "user", "content": question}]
    said = client.chat.completions.create(model="gpt-4o-mini", messages=messages)
    assert part in (said.choices[0].message.content or "")
    assert client.files.content(state.id).read() == content  # the file itself is what was uploaded
    client.files.delete(state.id)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("page.pdf", PAGE, "holds no PDF"),
        ("manual.html", MANUAL, "holds no HTML|encoding"),
        ("bomb.pdf", pdfs.bomb(), "damaged"),
        ("endless.pdf", pdfs.endless(), "damaged"),
        ("scanned.pdf", pdfs.document("", ""), "recognition"),
    ],
)
def test_what_can_not_be_read_fails_with_a_sentence(
    client: openai.OpenAI, store: str, name: str, content: bytes, says: str
) -> None:
    state = put(client, store, name, content)
    assert state.status == "failed"
    assert state.last_error.code == "invalid_file"
    assert re.search(says, state.last_error.message)
    assert client.vector_stores.retrieve(store).file_counts.failed == 1
    client.files.delete(state.id)


def test_a_file_is_read_once_and_others_do_not_wait_for_it(home: Tenant, client: openai.OpenAI, store: str) -> None:
    slow = client.files.create(file=("slow.html", b"<!-- " * 100_000), purpose="assistants").id
    client.vector_stores.files.create(store, file_id=slow)
    assert put(client, store, "quick.md", b"Quick documents go on.").status == "completed"
    assert client.vector_stores.files.retrieve(slow, vector_store_id=store).status == "in_progress"
    client.files.delete(slow)  # which ends its reading, too

    manual = client.files.create(file=("manual.pdf", MANUAL), purpose="assistants").id
    other = client.vector_stores.create(name="other", file_ids=[manual]).id
    client.vector_stores.files.create(store, file_id=manual)
    for each in (store, other):
        eventually(lambda each=each: client.vector_stores.retrieve(each).file_counts.in_progress == 0)
        assert client.vector_stores.files.retrieve(manual, vector_store_id=each).status == "completed"
    parts = "SELECT part, convert_from(data, 'UTF8') FROM file_parts WHERE file_id = %s AND part < 0"
    ((number, text),) = home.sql(parts, (manual,))
    assert number == -1
    assert "38 minutes" in text
    client.files.delete(manual)
    assert home.sql(parts, (manual,)) == []
    client.vector_stores.delete(other)
