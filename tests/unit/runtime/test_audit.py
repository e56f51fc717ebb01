"""The audit's event: what each level keeps, and that no text of a client's can break its row."""

import json
import re
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry_runtime import audit
from tenantry_runtime.audit import MAX_DETAILS, Allowance, Event, encoded, news, prompt_digest, snapshot, tellable
from tenantry_runtime.config import Compliance, UnitPrices
from tenantry_runtime.endpoint import Endpoint
from tenantry_runtime.keys import Caller
from tenantry_runtime.recording import Record
from tenantry_runtime.routes import ROUTES

from .configuration import configuration

ANY = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters()), inner, max_size=4),
    max_leaves=20,
)


HOSTILE = re.compile("[\x00\ud800-\udfff]")


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from (name, *texts(item))


def test_each_level_keeps_what_the_one_before_keeps() -> None:
    event = Event("api_call", "x", basic={"a": 1}, detailed={"b": 2}, full={"c": 3})
    assert event.details("Basic") == {"a": 1}
    assert event.details("Detailed") == {"a": 1, "b": 2}
    assert event.details("Full") == {"a": 1, "b": 2, "c": 3}


@given(st.dictionaries(st.text(st.characters()), ANY, max_size=5))
def test_details_are_always_json_that_postgresql_takes(details: dict[str, Any]) -> None:
    read = json.loads(encoded(details))
    assert not any(HOSTILE.search(text) for text in texts(read))
    if not any(HOSTILE.search(text) for text in texts(details)):
        assert read == details


def test_a_backslash_before_a_nul_stays_one() -> None:
    assert json.loads(encoded({"a": "\\\x00", "b": "\\u0000", "c": "\x00\x00\\\\\x00"})) == {
        "a": "\\\ufffd",
        "b": "\\u0000",
        "c": "\ufffd\ufffd\\\\\ufffd",
    }


def test_what_cannot_be_written_is_left_out_and_said_so() -> None:
    nested: list[Any] = []
    for _ in range(5000):
        nested = [nested]
    for hostile in ("x" * (MAX_DETAILS + 1), nested, {"a": "\ud800"}, ["\udfff"]):
        read = json.loads(encoded({"request": "req_1", "messages": 3, "body": hostile}))
        assert (read["request"], read["messages"]) == ("req_1", 3)
        assert read["left_out"]
        assert "body" not in read


def test_texts_of_clients_are_cut_and_cleaned() -> None:
    event = Event("api_call", "x", "file", "a\x00b\n" + "c" * 999, address="::1", user_agent="\x1b[31m" + "d" * 999)
    *_, resource_id, address, agent = event.columns()
    assert resource_id.startswith("a\ufffdb\ufffdc")
    assert len(resource_id) == len(agent) == 256
    assert address == "::1"
    assert "\x1b" not in agent
    assert tellable("a\ud800", 9) == "a\ufffd"


def test_an_outcome_says_only_what_its_intent_did_not() -> None:
    details: dict[str, Any] = {"a": 1, "b": [1], "leaks": {"prompt": 1}, "odd": ["\ud800"]}
    told = snapshot(details)
    assert news(details, told) == {"odd": ["\ud800"]}
    details["b"].append(2)
    details["leaks"]["answer"] = 1  # added to in place
    assert news({**details, "c": 3}, told) == {
        name: value for name, value in {**details, "c": 3}.items() if name != "a"
    }


def test_the_prompts_digest_changes_with_all_that_makes_it() -> None:
    base = configuration()
    changed = [
        base.model_copy(update={"prompt": base.prompt.model_copy(update={"template": "x"})}),
        base.model_copy(update={"prompt": base.prompt.model_copy(update={"custom_instructions": "x"})}),
        base.model_copy(update={"display_name": "x"}),
        base.model_copy(update={"tier": "x"}),
    ]
    assert len({prompt_digest(one) for one in [base, *changed]}) == 5
    assert prompt_digest(base) == prompt_digest(configuration())


def test_refusals_of_strangers_are_a_burst_and_then_some_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(audit.time, "monotonic", lambda: now)
    allowance = Allowance(burst=3, per_second=2)
    assert [allowance.take() for _ in range(6)] == [0, 0, 0, None, None, None]
    now = 0.5
    assert [allowance.take() for _ in range(3)] == [3, None, None]
    now = 100.0
    assert [allowance.take() for _ in range(4)] == [2, 0, 0, None]


def test_every_route_with_a_key_says_what_it_does_and_to_what() -> None:
    endpoints = [route for route in ROUTES if isinstance(route, Endpoint)]
    actions = [route.action for route in endpoints]
    assert len(actions) == len(set(actions))
    for route in endpoints:
        assert route.action == route.action.lower()
        assert "." in route.action
        assert route.resource


def record(event: Event, **changes: Any) -> Record:
    prices = UnitPrices(database_query_nano=3, vector_search_nano=5)
    values: dict[str, Any] = {
        "configuration": configuration(unit_prices=prices, compliance=Compliance()),
        "caller": Caller("uid", "key", "ann", frozenset()),
        "kind": "documents",
        "event": event,
        "status": 200,
        "at": datetime(2026, 11, 1, tzinfo=UTC),
        "queries": 2,
        "searches": 1,
    }
    return Record(**(values | changes))


def test_a_request_that_used_nothing_is_one_row_without_a_ledgers() -> None:
    event = Event("data_access", "files.list", "file", basic={"request": "req_1"})
    statement, values = record(event).statement()
    assert "record_request" in statement
    assert tuple(values[7:9]) == (6, 5)
    statement, values = record(event, queries=0, searches=0).statement()
    assert "INSERT INTO audit" in statement
    assert isinstance(values[1], uuid.UUID)
    assert statement.count("%s") == len(values)


def test_what_could_not_be_written_in_time_tells_what_the_client_was_told() -> None:
    event = Event("deletion", "files.delete", "file", basic={"request": "req_1"})
    refused = record(event).refused()
    assert (refused.status, refused.event.error) == (503, "store_unavailable")
    assert refused.event.basic == {"request": "req_1", "handled": "200"}
    assert (event.error, event.basic) == ("", {"request": "req_1"})
    assert refused.id == record(event, id=refused.id).id
    assert "handled" not in record(event, status=503).refused().event.basic
