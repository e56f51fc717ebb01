"""The stand-in provider, asked with the official SDK as its users would."""

import socket
import threading
import time
from collections.abc import Iterator

import openai
import pytest
import uvicorn

from dev.provider import NAME
from dev.provider.answer import UNKNOWN
from dev.provider.app import create_app
from dev.provider.embedding import Embedder

KEY = "stand-in-test-key"
DOCUMENTS = """<documents>
<document id="file-1" name="handbook.md">
The return window for the Falcon drone is 45 days. Batteries &amp; chargers are excluded.
Our office is in Lisbon, at Rua Augusta 12.
</document>
</documents>"""


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder()


@pytest.fixture(scope="module")
def base_url(embedder: Embedder) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(KEY, embedder), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        assert time.monotonic() < deadline, "the stand-in did not start within 30 s"
        time.sleep(0.05)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    server.should_exit = True
    thread.join(30)


@pytest.fixture(scope="module")
def client(base_url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=base_url, api_key=KEY, max_retries=0)


def ask(client: openai.OpenAI, question: str, context: str = DOCUMENTS, **options: object) -> object:
    return client.chat.completions.create(
        model="gpt-4o-mini",
        messages=[{"role": "system", "content": context}, {"role": "user", "content": question}],
        **options,  # type: ignore[call-overload]
    )


def test_it_names_itself_a_stand_in(client: openai.OpenAI) -> None:
    models = client.models.list().data
    assert {model.owned_by for model in models} == {NAME}
    assert {model.id for model in models} == {"gpt-4o-mini", "gpt-4o", "wordllama-256"}
    assert ask(client, "Where is the office?").system_fingerprint == NAME


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Where is your office?", "Lisbon"),
        ("How long can I return a Falcon drone?", "45 days"),
        ("Who won the world cup in 1998?", UNKNOWN),
    ],
)
def test_it_answers_from_its_context_only(client: openai.OpenAI, question: str, expected: str) -> None:
    assert expected in ask(client, question).choices[0].message.content
    assert ask(client, question, context="Be brief.").choices[0].message.content == UNKNOWN


def test_usage_counts_every_choice(client: openai.OpenAI, embedder: Embedder) -> None:
    one, two = ask(client, "Where is the office?"), ask(client, "Where is the office?", n=2)
    assert len(two.choices) == 2
    assert one.usage.completion_tokens == embedder.count(one.choices[0].message.content)
    assert two.usage.completion_tokens == 2 * one.usage.completion_tokens
    assert two.usage.prompt_tokens == one.usage.prompt_tokens > 30
    assert two.usage.total_tokens == two.usage.prompt_tokens + two.usage.completion_tokens


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_output_is_cut_at_the_limit(client: openai.OpenAI, field: str) -> None:
    full = ask(client, "Where is the office?").choices[0].message.content
    cut = ask(client, "Where is the office?", **{field: 3})
    assert cut.choices[0].finish_reason == "length"
    assert cut.usage.completion_tokens == 3
    assert full.startswith(cut.choices[0].message.content)
    assert len(cut.choices[0].message.content) < len(full)


def test_a_stream_says_the_same_and_gives_usage_when_asked(client: openai.OpenAI) -> None:
    whole = ask(client, "Where is the office?")
    plain = list(ask(client, "Where is the office?", stream=True))
    counted = list(ask(client, "Where is the office?", stream=True, stream_options={"include_usage": True}))
    for chunks in (plain, counted):
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == whole.choices[0].message.content
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert all(chunk.usage is None for chunk in plain)
    assert counted[-1].usage.total_tokens == whole.usage.total_tokens


def test_embeddings_rank_a_paraphrase_above_the_unrelated(client: openai.OpenAI) -> None:
    texts = ["How do I reset my password?", "I forgot my login secret", "Bananas grow in Ecuador"]
    floats = client.embeddings.create(model="wordllama-256", input=texts, encoding_format="float")
    packed = client.embeddings.create(model="wordllama-256", input=texts)  # the SDK asks for base64
    assert [len(row.embedding) for row in floats.data] == [256, 256, 256]
    assert floats.usage.prompt_tokens == floats.usage.total_tokens > 15
    for one, other in zip(floats.data, packed.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
    question, paraphrase, unrelated = (row.embedding for row in floats.data)

    def similarity(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    assert similarity(question, question) == pytest.approx(1, abs=1e-3)
    assert similarity(question, paraphrase) > similarity(question, unrelated) + 0.1


def test_refusals_are_openai_errors(client: openai.OpenAI, base_url: str) -> None:
    with pytest.raises(openai.AuthenticationError) as wrong:
        openai.OpenAI(base_url=base_url, api_key="wrong", max_retries=0).models.list()
    assert wrong.value.code == "invalid_api_key"
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "hi"}])
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as empty:
        client.chat.completions.create(model="gpt-4o", messages=[])
    assert empty.value.param == "messages"
