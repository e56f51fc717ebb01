"""Tokens, chunks, errors, headers: the parts that need no server."""

import itertools
import json
import unicodedata
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import QueryParams

from tenantry_runtime import answers, errors, fields, limits, metrics, tokens
from tenantry_runtime.chunking import CHUNK, OVERLAP, Chunker
from tenantry_runtime.config import (
    Configuration,
    Credentials,
    Limits,
    Milvus,
    ModelPrice,
    Postgres,
    Provider,
    SubjectLimits,
    nano_dollars,
)
from tenantry_runtime.ledger import cost_nano
from tenantry_runtime.limits import Left, duration, limit_headers
from tenantry_runtime.provider import usage_of
from tenantry_runtime.reservation import Usage
from tenantry_runtime.retrieval import chunk_id, ingestion_of
from tenantry_runtime.settings import CredentialsFile
from tenantry_runtime.store import connection_string

from .configuration import configuration


def chunks(*pieces: str) -> list[str]:
    chunker = Chunker()
    return [chunk for piece in pieces for chunk in chunker.feed(piece)] + list(chunker.end())


def test_paragraphs_are_kept_together_while_they_fit() -> None:
    assert chunks("one\n\ntwo\n \n\nthree") == ["one\n\ntwo\n\nthree"]
    assert chunks("a" * 400 + "\n\n" + "b" * 400) == ["a" * 400, "b" * 400]
    assert chunks("") == chunks("\n\n \n") == []


def test_a_long_paragraph_is_cut_at_sentences_with_overlap() -> None:
    text = " ".join(f"Sentence number {n} ends here." for n in range(100))
    found = chunks(text)
    assert all(len(chunk) <= CHUNK for chunk in found)
    assert all(chunk.endswith(".") for chunk in found)
    for one, other in itertools.pairwise(found):
        start = other[:20]
        assert start in one[-OVERLAP - 1 :]  # it repeats the end of its predecessor


def test_a_gap_between_pieces_is_a_gap() -> None:
    paragraphs = ["a" * 500, "b" * 500, "c" * 500]
    text = "\n\n".join(paragraphs)
    for cut in range(495, 1010):
        assert chunks(text[:cut], text[cut:]) == paragraphs


@given(st.text(alphabet=st.sampled_from("ab .\n,é"), max_size=4000))
def test_chunks_hold_every_word_and_none_is_too_long(text: str) -> None:
    found = chunks(text)
    assert all(0 < len(chunk) <= CHUNK for chunk in found)
    kept = set("".join(found).replace("\n", " ").replace(" ", ""))
    assert kept == set(text.replace("\n", "").replace(" ", ""))
    words = [word for word in text.split() if len(word) < 50]
    joined = "\n".join(found)
    assert all(word in joined for word in words)


def test_a_text_without_a_break_is_cut_anywhere_and_overlaps_too() -> None:
    text = "".join(f"{number:07}" for number in range(20_000))
    found = chunks(text[:100_000], text[100_000:])
    assert {len(chunk) for chunk in found[:90]} == {CHUNK}
    for one, other in itertools.pairwise(found[:90]):
        assert one[-OVERLAP:] == other[:OVERLAP]
    assert all(text[place : place + 20] in "\n".join(found) for place in range(0, 60_000, 99))


@pytest.mark.parametrize(
    "text",
    [
        "โดรนฟอลคอนสามารถคืนได้ภายในสี่สิบห้าวัน",
        "\U0001f469\u200d\U0001f469\u200d\U0001f467",
        "猎鹰无人机可以在四十五天内退货。",
    ],
    ids=["Thai", "joined", "Chinese"],
)
def test_no_letter_is_parted_from_its_marks(text: str) -> None:
    found = chunks(text * 400)
    assert len(found) > 2
    for one, other in itertools.pairwise(found):
        assert not unicodedata.category(other[0]).startswith("M")
        assert other[0] != "\u200d" != one[-1]
        assert other[:20] in one[-OVERLAP - 1 :]
    if text.endswith("。"):
        assert all(chunk.endswith("。") and chunk.startswith("猎") for chunk in found)


@given(st.text())
def test_the_bound_of_tokens_is_never_below_the_estimate(text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    body = {"messages": [{"role": "user", "content": text}]}
    estimate, bound = tokens.prompt_size(body)
    assert len(text.encode()) <= bound
    assert estimate <= bound
    assert tokens.estimate(text) <= len(text.encode())


def test_the_estimate_is_near_a_tokenizers_count() -> None:
    text = Path(tokens.__file__).with_name("prompt.py").read_text().split('"""')[1] * 5
    real = len(text) / 4.4  # what byte-pair tokenizers make of English prose
    assert real <= tokens.estimate(text) <= 1.5 * real


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_cost_is_exact(given_: int, made: int) -> None:
    price = ModelPrice(input_nano=nano_dollars("0.00000015"), output_nano=nano_dollars("0.0000006"))
    dollars = given_ * Decimal("0.00000015") + made * Decimal("0.0000006")
    assert cost_nano(price, Usage(given_, made)) == nano_dollars(dollars)


def test_cached_input_has_its_own_price_where_there_is_one() -> None:
    usage = Usage(1000, 10, cached_tokens=400)
    assert cost_nano(ModelPrice(input_nano=100, output_nano=7), usage) == 100_070
    assert cost_nano(ModelPrice(input_nano=100, output_nano=7, cached_input_nano=50), usage) == 80_070
    assert cost_nano(ModelPrice(input_nano=100, output_nano=7, cached_input_nano=0), usage) == 60_070


def test_limits_are_arrays_of_the_tenants_a_users_and_a_keys() -> None:
    assert limits.arrays(Limits()) == ("{NULL,NULL,NULL}",) * 4
    own = Limits(requests_per_minute=7, per_key=SubjectLimits(concurrency=0), per_user=SubjectLimits(tokens_per_day=9))
    assert limits.arrays(own) == ("{7,NULL,NULL}", "{NULL,NULL,NULL}", "{NULL,9,NULL}", "{NULL,NULL,0}")


def test_the_most_that_a_call_may_take_is_the_smallest_of_all_limits() -> None:
    assert limits.most_tokens(Limits(requests_per_minute=1)) is None
    assert limits.most_tokens(Limits(tokens_per_minute=9, tokens_per_day=8)) == 8
    for part in ("per_user", "per_key"):
        for name in ("tokens_per_minute", "tokens_per_day"):
            assert limits.most_tokens(Limits(tokens_per_minute=9, **{part: SubjectLimits(**{name: 7})})) == 7


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0ms"), (0.0004, "1ms"), (0.012, "12ms"), (1, "1s"), (6.5, "6.5s"), (60, "1m0s"), (61.25, "1m1.25s")],
)
def test_durations_are_openais(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_limit_headers_are_for_the_limits_that_there_are() -> None:
    assert limit_headers(Left()) == {}
    headers = limit_headers(Left(tokens=-30.5, tokens_size=600))
    assert headers == {
        "x-ratelimit-limit-tokens": "600",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "1m3.05s",
    }


LIMITS = {"requests_per_minute": 5, "tokens_per_minute": 600, "tokens_per_day": 7, "concurrency": 2}
REFUSALS = [f"{whose}{limit}" for whose in ("", "user_", "key_") for limit in limits._SENTENCES]


@pytest.mark.parametrize("outcome", [*REFUSALS, "budget", "too_large"])
def test_every_refusal_is_a_sentence_in_openais_object(outcome: str) -> None:
    own = Limits(**LIMITS, per_user=SubjectLimits(**LIMITS), per_key=SubjectLimits(**LIMITS))
    error = limits.refusal(own, outcome, 12.3456, 600, Left(0.2, 5, 10.9, 600), {"x-ratelimit": "1"})
    body = orjson.loads(bytes(error.response().body))["error"]
    assert body["message"].endswith(".")
    assert set(body) >= {"message", "type", "param", "code"}
    if outcome == "too_large":
        assert error.status == 413
        return
    assert error.status == 429
    assert body["limit"] == outcome
    assert body["retryAfter"] >= 12.3456
    for whose in ("user", "key"):
        assert (f"for one {whose}" in body["message"]) is outcome.startswith(f"{whose}_")
    assert int(error.headers["Retry-After"]) >= body["retryAfter"]
    assert (error.headers.get("x-should-retry") == "false") is (outcome == "budget")


@pytest.mark.parametrize(("wait", "again"), [(0.5, True), (120, True), (120.001, False), (40_000, False)])
def test_who_would_wait_longer_than_the_sdk_does_is_told_not_to_try_again(wait: float, again: bool) -> None:
    error = limits.refusal(Limits(**LIMITS), "day", wait, None, Left(), {})
    assert ("x-should-retry" not in error.headers) is again
    assert error.headers.get("x-should-retry", "false") == "false"


def test_errors_have_openais_shape() -> None:
    for error in (
        errors.wrong_key(),
        errors.forbidden("No."),
        errors.not_found(),
        errors.invalid("x must be y.", "x"),
        errors.bad_json("No."),
        errors.too_large("No."),
        errors.store_unavailable(),
        errors.vectors_unavailable(),
        errors.upstream_failed("No."),
    ):
        response = error.response()
        assert response.status_code == error.status
        assert response.media_type == "application/json"
        assert {"message", "type", "param", "code"} <= set(orjson.loads(bytes(response.body))["error"])


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 4}, Usage(3, 4)),
        ({"prompt_tokens": 3}, Usage(3, 0)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, Usage(0, 0)),
        ({"prompt_tokens": -3, "completion_tokens": 4}, None),
        ({"prompt_tokens": "3"}, None),
        (None, None),
        ([], None),
        ({"prompt_tokens": True}, None),
        ({"prompt_tokens": 10**30}, None),
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 7}}, Usage(9, 0, cached_tokens=7)),
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 70}}, Usage(9, 0, cached_tokens=9)),
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": -7}}, Usage(9, 0)),
        ({"prompt_tokens": 9, "prompt_tokens_details": [7]}, Usage(9, 0)),
    ],
)
def test_usage_is_taken_only_where_it_can_be_counted(usage: Any, expected: Usage | None) -> None:
    assert usage_of({"usage": usage}) == expected


def test_a_chunks_id_names_its_ingestion() -> None:
    ingestion = "0123456789abcdef" * 2
    assert ingestion_of(chunk_id(ingestion, 17)) == ingestion
    assert len(chunk_id(ingestion, 10**9)) <= 64
    for foreign in ("", "x-1", "0" * 31 + "-1", "'; DROP TABLE files" + "0" * 13):
        assert ingestion_of(foreign) == ""


def test_model_labels_are_bounded() -> None:
    settings = configuration()
    labels = {metrics.model_label(settings, f"model-{n}") for n in range(10_000)}
    assert labels == {"other"}
    assert metrics.model_label(settings, "gpt-4o-mini") == "gpt-4o-mini"
    assert metrics.model_label(settings, "") == "none"


def test_pages() -> None:
    assert answers.page(QueryParams("")) == (20, True, None)
    assert answers.page(QueryParams("limit=5&order=asc&after=file-1")) == (5, False, "file-1")
    for query, param in (("limit=0", "limit"), ("limit=x", "limit"), ("order=up", "order"), ("after=a'b", "after")):
        with pytest.raises(errors.ApiError) as refused:
            answers.page(QueryParams(query))
        assert refused.value.param == param


@pytest.mark.parametrize(
    "value", [7, {"k" * 65: "v"}, {"k": "v" * 513}, {"k": []}, {"k": "\x00"}, {str(n): "v" for n in range(17)}]
)
def test_labels_are_bounded(value: Any) -> None:
    with pytest.raises(errors.ApiError) as refused:
        fields.labels({"metadata": value}, "metadata")
    assert refused.value.param == "metadata"
    assert fields.labels({"metadata": {"a": "b", "n": 1}}, "metadata") == {"a": "b", "n": 1}


@pytest.fixture
def credentials() -> Credentials:
    return Credentials(
        postgres=Postgres(host="db", database="d", user="u", password="pa ss'\\", schema_name="tenant_a__runtime"),
        milvus=Milvus(uri="http://m", collection="c", tag="t" * 32, password="m-secret"),
        provider=Provider(base_url="http://p/v1", api_key="p-secret"),
    )


def test_credentials_are_read_as_they_were_written_and_never_quoted(credentials: Credentials, tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    path.write_text(credentials.to_json())
    file = CredentialsFile(path)
    assert file.load() == credentials
    assert "secret" not in repr(credentials)
    path.write_text(credentials.to_json().replace('"uri"', '"uri_"'))
    with pytest.raises(ValueError, match="milvus") as refused:
        file.load()
    assert "secret" not in str(refused.value)


def test_what_a_newer_operator_adds_is_left_aside(credentials: Credentials, tmp_path: Path) -> None:
    """It may be upgraded while the runtimes' image stays."""
    path = tmp_path / "credentials.json"
    newer = json.loads(credentials.to_json())
    newer["postgres"]["proxy"] = newer["tracing"] = {"to": "somewhere"}
    path.write_text(json.dumps(newer))
    assert CredentialsFile(path).load() == credentials
    made = configuration()
    document = json.dumps({**json.loads(made.canonical()), "routing": ["a"]})
    assert Configuration.model_validate_json(document) == made


def test_a_connection_string_bears_any_password(credentials: Credentials) -> None:
    from psycopg.conninfo import conninfo_to_dict

    parsed = conninfo_to_dict(connection_string(credentials.postgres))
    assert parsed["password"] == "pa ss'\\"
    assert parsed["options"] == "-c search_path=tenant_a__runtime"
