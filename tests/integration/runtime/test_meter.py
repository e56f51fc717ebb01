"""The meter's arithmetic where it is: in the database, on its clock."""

import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from tenantry_runtime import migrations
from tests.integration.runtime.stack import Stack

DEFAULTS: dict[str, Any] = {
    "requests": 1,
    "counts": True,
    "input": 100,
    "output": 200,
    "least": 32,
    "choices": 1,
    "again": 0,
    "input_nano": 1000,
    "output_nano": 10,
    "lease": 60.0,
    "zone": "UTC",
    "rpm": None,
    "tpm": None,
    "tpd": None,
    "concurrency": None,
    "budget": None,
}


class Meter:
    """The functions of one schema, called as the service calls them."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection

    def sql(self, statement: str, values: Any = ()) -> list[tuple[Any, ...]]:
        cursor = self.connection.execute(statement.encode(), values or None)
        return cursor.fetchall() if cursor.description else []

    def reserve(self, **changes: Any) -> tuple[uuid.UUID, str, int, float]:
        """The reservation's id, the outcome, the output granted, the seconds to wait."""
        v = DEFAULTS | changes
        identity = uuid.uuid4()
        ((outcome, granted, wait, _, _, _),) = self.sql(
            f"SELECT * FROM reserve({', '.join(['%s'] * 23)})",
            (identity, "key", "default", "user", "chat", "gpt", v["requests"], v["counts"], v["input"], v["output"],
             v["least"], v["choices"], v["again"], v["input_nano"], v["output_nano"], "p1", v["lease"], v["zone"],
             v["rpm"], v["tpm"], v["tpd"], v["concurrency"], v["budget"]),
        )  # fmt: skip
        return identity, outcome, granted, wait

    def settle(
        self, identity: uuid.UUID, given: int = 0, made: int = 0, nano: int = 0, status: str = "settled"
    ) -> bool:
        ((known,),) = self.sql(
            "SELECT settle(%s, %s, %s, %s, %s, 0, 0, 0, 0, false)", (identity, status, given, made, nano)
        )
        return bool(known)

    def row(self) -> dict[str, Any]:
        cursor = self.connection.execute("SELECT * FROM meter")
        assert cursor.description
        names = [column.name for column in cursor.description]
        return dict(zip(names, cursor.fetchone() or (), strict=True))


@pytest.fixture
def make(stack: Stack) -> Iterator[Callable[[], Meter]]:
    made: list[tuple[psycopg.Connection[Any], str]] = []

    def one() -> Meter:
        schema = f"meter_{uuid.uuid4().hex[:12]}"
        connection = stack.postgres.connect(dbname="tenantry")
        connection.execute(f"CREATE SCHEMA {schema}".encode())
        connection.execute(f"SET search_path = {schema}".encode())
        assert migrations.apply(connection) == [migration.number for migration in migrations.load()]
        assert migrations.apply(connection) == []
        made.append((connection, schema))
        return Meter(connection)

    yield one
    for connection, schema in made:
        connection.execute(f"DROP SCHEMA {schema} CASCADE".encode())
        connection.close()


@pytest.fixture
def meter(make: Callable[[], Meter]) -> Meter:
    while time.time() % 86_400 > 86_390:  # a test does not begin just before a day's end
        time.sleep(1)
    return make()


def test_all_or_none(meter: Meter) -> None:
    """A call that one limit refuses takes from no other."""
    limits = {"rpm": 10, "tpm": 1000, "tpd": 10_000, "concurrency": 5, "budget": 1_000_000}
    assert meter.reserve(**limits)[1:3] == ("ok", 200)
    before = meter.row()
    refusals = {
        "concurrency": {"concurrency": 1},
        "tokens": {"input": 900},
        "too_large": {"input": 1001},
        "budget": {"budget": 4200},
    }
    for outcome, change in refusals.items():
        assert meter.reserve(**(limits | change))[1] == outcome
    assert meter.row() == before
    assert meter.sql("SELECT count(*) FROM ledger") == [(1,)]


def test_the_output_is_what_is_left_but_never_nothing(meter: Meter) -> None:
    assert meter.reserve(tpm=250)[1:3] == ("ok", 150)
    _, outcome, granted, wait = meter.reserve(tpm=250)
    assert (outcome, granted) == ("tokens", 0)
    assert 25 < wait <= 32  # 132 tokens at 250 a minute
    fresh = meter.reserve(tpd=120, input=100, choices=2)
    assert fresh[1:3] == ("day", 0)


def test_choices_share_what_is_left(meter: Meter) -> None:
    assert meter.reserve(tpm=500, choices=4)[1:3] == ("ok", 100)
    ((tokens, nano),) = meter.sql("SELECT reserved_tokens, reserved_nano FROM ledger")
    assert (tokens, nano) == (500, 1000 + 400 * 10)


def test_settling_gives_back_what_was_not_used_and_twice_changes_nothing(meter: Meter) -> None:
    identity, *_ = meter.reserve(tpm=1000, tpd=1000)
    for _ in range(2):
        assert meter.settle(identity, 60, 40, 777)
    row = meter.row()
    assert row["tokens"] == pytest.approx(900, abs=1)
    assert (row["day_tokens"], row["month_nano"]) == (100, 777)
    assert meter.sql("SELECT calls, tokens_in, tokens_out, llm_nano FROM totals") == [(1, 60, 40, 777)]
    assert not meter.settle(uuid.uuid4())


def test_a_released_call_counts_for_nothing(meter: Meter) -> None:
    identity, *_ = meter.reserve(tpm=1000)
    meter.settle(identity, status="released")
    assert meter.sql("SELECT count(*) FROM totals") == [(0,)]
    assert meter.row()["month_nano"] == 0
    assert meter.row()["tokens"] == pytest.approx(1000, abs=1)


def test_a_lease_that_ran_out_holds_nothing_but_what_was_used_is_owed(meter: Meter) -> None:
    limits = {"budget": 3500, "concurrency": 1, "tpd": 400}
    identity, outcome, *_ = meter.reserve(**limits)
    assert outcome == "ok"
    assert meter.reserve(**limits)[1] == "budget"
    meter.sql("UPDATE ledger SET expires_at = clock_timestamp()")
    assert meter.reserve(**limits)[1] == "ok"  # marked or not
    assert meter.sql("SELECT expire_reservations()") == [(1,)]
    assert meter.settle(identity, 100, 10, 1100)  # its process lived after all
    assert meter.row()["month_nano"] == 1100


def test_debt_is_paid_before_the_next_call(meter: Meter) -> None:
    identity, *_ = meter.reserve(tpm=600, output=100)
    meter.settle(identity, 1000, 200)
    _, outcome, _, wait = meter.reserve(tpm=600)
    assert outcome == "tokens"
    assert 70 < wait <= 74  # from -600 to 132, at 10 a second


def test_a_change_of_time_zone_grants_no_second_day(meter: Meter) -> None:
    identity, *_ = meter.reserve(tpd=300)
    meter.settle(identity, 250, 50)
    end = meter.row()["day_ends_at"]
    for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago", "Asia/Tokyo", "UTC"):
        assert meter.reserve(tpd=300, zone=zone)[1] == "day"
    assert meter.row()["day_ends_at"] == end


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Pacific/Pago_Pago", "Asia/Tokyo", "America/New_York"])
def test_the_day_after_a_change_of_time_zone_is_no_short_one(meter: Meter, zone: str) -> None:
    meter.reserve()
    # as if the old day had just ended
    meter.sql("UPDATE meter SET day_ends_at = clock_timestamp(), month_ends_at = clock_timestamp(), day = day - 1")
    meter.reserve(zone=zone)
    ((day, month, midnight),) = meter.sql(
        "SELECT extract(epoch FROM day_ends_at - filled_at) / 3600, "
        "extract(epoch FROM month_ends_at - filled_at) / 86400, "
        "(day_ends_at AT TIME ZONE %s)::time = '00:00' FROM meter",
        (zone,),
    )
    assert 12 <= day <= 37
    assert 2 <= month <= 62
    assert midnight


def test_a_new_day_and_a_new_month_start_anew(meter: Meter) -> None:
    identity, *_ = meter.reserve(tpd=300, budget=4000)
    meter.settle(identity, 250, 50, 4000)
    assert meter.reserve(tpd=300)[1] == "day"
    assert meter.reserve(budget=4000)[1] == "budget"
    meter.sql(
        "UPDATE meter SET day = day - 40, day_ends_at = day_ends_at - interval '40 days', "
        "month = month - interval '2 months', month_ends_at = month_ends_at - interval '2 months'"
    )
    meter.sql("UPDATE ledger SET day = day - 40, month = month - interval '2 months'")
    assert meter.reserve(tpd=300, budget=4000)[1] == "ok"
    row = meter.row()
    assert (row["day_tokens"], row["month_nano"]) == (0, 0)
    ((same,),) = meter.sql(
        "SELECT day = (clock_timestamp() AT TIME ZONE 'UTC')::date "
        "AND month = date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC')::date FROM meter"
    )
    assert same


def test_a_call_settled_in_the_next_month_is_the_last_months(meter: Meter) -> None:
    identity, *_ = meter.reserve()
    meter.sql(
        "UPDATE meter SET month = month - interval '1 month', month_ends_at = clock_timestamp() - interval '1 second'"
    )
    meter.sql("UPDATE ledger SET month = month - interval '1 month'")
    meter.reserve()
    meter.settle(identity, 10, 10, 500)
    assert meter.row()["month_nano"] == 0
    ((label,), (now,)) = meter.sql("SELECT month FROM totals UNION ALL SELECT month FROM meter")
    assert label < now


def test_raising_and_lowering_a_limit(meter: Meter) -> None:
    assert meter.reserve(rpm=1)[1] == "ok"
    assert meter.reserve(rpm=1)[1] == "requests"
    meter.sql("UPDATE meter SET filled_at = filled_at - interval '1 minute'")
    assert [meter.reserve(rpm=100)[1] for _ in range(3)].count("ok") >= 2
    meter.sql("UPDATE meter SET requests = 1000")
    assert [meter.reserve(rpm=2)[1] for _ in range(3)] == ["ok", "ok", "requests"]
    assert meter.reserve(rpm=0)[1] == "too_large"


def test_what_reached_no_model_is_recorded_once(meter: Meter) -> None:
    identity = uuid.uuid4()
    for _ in range(2):
        meter.sql("SELECT record(%s, 'key', 'default', 'user', 'documents', 3, 1, 30, 7, 'p1', 'UTC')", (identity,))
    assert meter.row()["month_nano"] == 37
    assert meter.sql("SELECT database_queries, vector_searches, database_nano, vector_nano FROM totals") == [
        (3, 1, 30, 7)
    ]
    assert meter.sql("SELECT status, cost_nano FROM ledger") == [("settled", 37)]
