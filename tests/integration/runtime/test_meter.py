"""The meter's arithmetic where it is: in the database, on its clock."""

import random
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from tenantry_runtime import fill, migrations
from tenantry_runtime.config import Limits, SubjectLimits
from tenantry_runtime.limits import arrays
from tests.integration.runtime.stack import Stack, eventually

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
    "user": "user",
    "key": "key",
    "each_user": {},
    "each_key": {},
}
EVENT = ("api_call", "chat.completions.create", "model", "gpt", "10.0.0.1", "openai/3")


def _limits(v: dict[str, Any]) -> dict[str, Any]:
    names = {"rpm": "requests_per_minute", "tpm": "tokens_per_minute", "tpd": "tokens_per_day"}
    return {name: v.get(short) for short, name in names.items()} | {"concurrency": v.get("concurrency")}


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
        own = Limits(
            **_limits(v),
            per_user=SubjectLimits(**_limits(v["each_user"])),
            per_key=SubjectLimits(**_limits(v["each_key"])),
        )
        ((outcome, granted, wait, *self.left),) = self.sql(
            f"SELECT * FROM reserve_call({', '.join(['%s'] * 30)})",
            (identity, v["key"], "default", v["user"], "chat", "gpt", v["requests"], v["counts"], v["input"],
             v["output"], v["least"], v["choices"], v["again"], v["input_nano"], v["output_nano"], "p1", v["lease"],
             v["zone"], *arrays(own), v["budget"], *EVENT, '{"a": 1}'),
        )  # fmt: skip
        return identity, outcome, granted, wait

    def settle(
        self, identity: uuid.UUID, given: int = 0, made: int = 0, nano: int = 0, status: str = "settled"
    ) -> bool:
        ((known,),) = self.sql(
            "SELECT settle_call(%s, %s, %s, 0, %s, %s, 0, 0, 0, 0, false, %s, %s, %s, %s, %s, %s, '200', '', '{}')",
            (identity, status, given, made, nano, *EVENT),
        )
        return bool(known)

    def row(self, subject: str = "tenant") -> dict[str, Any]:
        cursor = self.connection.execute("SELECT * FROM meter WHERE subject = %s", (subject,))
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


def test_who_waits_as_long_as_told_is_let_through(meter: Meter) -> None:
    """Whatever is asked, and whichever of the buckets refuses; nobody else takes anything meanwhile."""
    seed = random.SystemRandom().randrange(1 << 31)
    print(f"seed {seed}")
    chance, refused = random.Random(seed), set()
    for turn in range(60):
        limits = {
            "rpm": chance.choice((None, 1, 7, 60)),
            "tpm": chance.choice((None, 900, 5000)),
            "each_user": {"rpm": chance.choice((None, 2)), "tpm": chance.choice((None, 800))},
            "each_key": {"rpm": chance.choice((None, 3)), "tpm": chance.choice((None, 850))},
            "user": f"user-{turn}",
            "key": f"key-{turn}",
            "input": chance.randrange(1, 400),
            "output": chance.randrange(1, 400),
        }
        limits["least"] = min(32, limits["output"])
        for _ in range(4):
            _, outcome, _, wait = meter.reserve(**limits)
            if outcome == "ok":
                continue
            refused.add(outcome)
            assert 0 < wait <= 120, (outcome, limits)
            meter.sql("UPDATE meter SET filled_at = filled_at - make_interval(secs => %s)", (wait,))
            assert meter.reserve(**limits)[1] == "ok", (outcome, limits)
    assert {"requests", "tokens"} <= refused


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


@pytest.mark.parametrize(
    "column",
    ["reserved_tokens", "reserved_nano", "tokens_in", "tokens_cached", "tokens_out", "database_queries",
     "vector_searches", "llm_nano", "database_nano", "vector_nano"],
)  # fmt: skip
def test_nothing_of_a_call_is_negative(meter: Meter, column: str) -> None:
    meter.reserve()
    with pytest.raises(psycopg.errors.CheckViolation, match="ledger_not_negative"):
        meter.sql(f"UPDATE ledger SET {column} = -1")


def test_calls_that_were_settled_do_not_slow_the_next_down(meter: Meter) -> None:
    """Their entries in the index of open reservations are passed over, and their place used again.

    Also where the planner knows nothing of the ledger yet but that it is not empty.
    """

    def calls(number: int) -> None:
        for _ in range(number):
            identity, outcome, *_ = meter.reserve()
            assert outcome == "ok"
            meter.settle(identity)

    meter.sql("SET synchronous_commit = off")
    meter.sql("ALTER TABLE ledger SET (autovacuum_enabled = off)")
    meter.sql(
        "INSERT INTO ledger (id, at, month, day, key_uid, key_name, user_name, kind, model, status, expires_at)"
        " SELECT gen_random_uuid(), now(), now(), now(), 'k', 'k', 'u', 'chat', 'gpt', 'settled', now()"
        " FROM generate_series(1, 10000)"
    )
    calls(2_500)
    ((size,),) = meter.sql("SELECT pg_relation_size('ledger_reserved')")
    assert size <= 6 * 8192  # bytes; 3,000 entries of their own would be 15 pages


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


@pytest.mark.parametrize("turn", ["first", "later"])
def test_a_day_ends_at_the_first_of_two_midnights(meter: Meter, turn: str) -> None:
    """In a time zone of ours, whose clocks go back from one to midnight tomorrow: an hour ahead of UTC until then."""
    tomorrow = (datetime.now(UTC) + timedelta(days=1, hours=1)).date()
    back = tomorrow.replace(year=2025, day=min(tomorrow.day, 28 if tomorrow.month == 2 else 31)).timetuple().tm_yday
    zone = f"STD0DST,J{back % 365 + 1}/0,J{back}/1"
    meter.reserve(zone=zone)
    if turn == "later":
        meter.sql("UPDATE meter SET day = day - 1, day_ends_at = day_ends_at - interval '1 day'")
        meter.reserve(zone=zone)
    ends = meter.row()["day_ends_at"]
    assert ends == datetime(tomorrow.year, tomorrow.month, tomorrow.day, tzinfo=UTC) - timedelta(hours=1)
    assert meter.row()["day"] == tomorrow - timedelta(days=1)


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
        meter.sql(
            "SELECT record_request(%s, 'key', 'default', 'user', 'documents', 3, 1, 30, 7, 'p1', 'UTC', "
            "'data_access', 'files.list', 'file', '', '', '', '200', '', '{}')",
            (identity,),
        )
    assert meter.row()["month_nano"] == 37
    assert meter.sql("SELECT database_queries, vector_searches, database_nano, vector_nano FROM totals") == [
        (3, 1, 30, 7)
    ]
    assert meter.sql("SELECT status, cost_nano FROM ledger") == [("settled", 37)]
    assert meter.sql("SELECT id, phase, action, (details->>'cost_nano')::int FROM audit") == [
        (identity, "event", "files.list", 37)
    ]


def test_a_call_is_an_intent_and_an_outcome_of_its_ids(meter: Meter) -> None:
    identity, *_ = meter.reserve()
    told = "SELECT id, phase, at, action, resource_id, user_id, key_uid, status, error, details FROM audit ORDER BY at"
    ((at,),) = meter.sql("SELECT at FROM ledger")
    intent = (identity, "intent", at, "chat.completions.create", "gpt", "user", "key", "", "", {"a": 1})
    assert meter.sql(told) == [intent]
    for _ in range(2):  # a settlement that is tried again is one outcome
        meter.settle(identity, 60, 40, 777)
    before, outcome = meter.sql(told)
    assert before == intent
    ((settled_at,),) = meter.sql("SELECT settled_at FROM ledger")
    assert outcome == (identity, "outcome", settled_at, *intent[3:7], "200", "", {"cost_nano": 777})
    # a refusal takes nothing and writes nothing: the request's own event tells it
    assert meter.reserve(rpm=0)[1] == "too_large"
    assert meter.sql("SELECT count(*) FROM audit") == [(2,)]


def test_a_call_whose_process_died_has_an_outcome_and_one_more_if_it_lived(meter: Meter) -> None:
    identity, *_ = meter.reserve(lease=0)
    old = uuid.uuid4()  # a replica of before: without an intent
    meter.sql(OLD_RESERVE, (old,))
    meter.sql("UPDATE ledger SET expires_at = at")
    assert meter.sql("SELECT expire_reservations()") == [(2,)]
    assert meter.sql("SELECT expire_reservations()") == [(0,)]
    told = "SELECT id, status, error, action, user_id, details FROM audit WHERE phase = 'outcome' ORDER BY at"
    expired = (identity, "", "expired", "chat.completions.create", "user", {"cost_nano": 0})
    assert meter.sql(told) == [expired]
    meter.settle(identity, 10, 10, 500)
    assert meter.sql(told) == [expired, (identity, "200", "", *expired[3:5], {"cost_nano": 500})]


def test_the_usage_page_reads_what_a_reservation_finds(meter: Meter) -> None:
    """`fill.py` has the same sums in a form that locks and writes nothing."""
    seed = random.SystemRandom().randrange(1 << 31)
    print(f"seed {seed}")
    chance = random.Random(seed)
    rpm, tpm, own = 60, 9000, {"rpm": 30, "tpm": 5000, "tpd": 40_000, "concurrency": 9}
    none = (None,) * 4
    for _ in range(12):
        user = f"user-{chance.randrange(3)}"
        identity, outcome, *_ = meter.reserve(
            rpm=rpm, tpm=tpm, user=user, each_user=own, input=chance.randrange(1, 900), lease=chance.choice((0, 300))
        )
        if outcome == "ok" and chance.random() < 0.6:
            meter.settle(identity, chance.randrange(2000), chance.randrange(900))
        if chance.random() < 0.4:  # as if time had passed, or the user's meter had been dropped
            meter.sql("UPDATE meter SET filled_at = filled_at - make_interval(secs => %s)", (chance.randrange(90),))
        elif chance.random() < 0.2:
            meter.sql("DELETE FROM meter WHERE subject <> 'tenant'")
        ((requests, tokens, day, calls),) = meter.sql(fill._TENANT, (rpm, rpm, rpm, tpm, tpm, tpm))
        values = (*(own[name] for name in ("rpm", "tpm", "tpd", "concurrency")), *none, 9, 9)
        shown = {name: taken for _, name, *taken, _ in meter.sql(fill._SUBJECTS, values)}
        with meter.connection.transaction(force_rollback=True):
            open_ones = "status = 'reserved' AND expires_at > clock_timestamp()"
            ((m_requests, m_tokens, m_day, m_calls),) = meter.sql(
                "SELECT requests, tokens, day_tokens + (SELECT coalesce(sum(reserved_tokens), 0) FROM ledger "
                f"WHERE {open_ones}), (SELECT count(*) FROM ledger WHERE {open_ones}) "
                "FROM open_meter('tenant', 'UTC', %s, %s)",
                (rpm, tpm),
            )
            assert requests == pytest.approx(m_requests, abs=3)
            assert tokens == pytest.approx(m_tokens, abs=400)  # of some seconds, on a busy machine
            assert (day, calls) == (m_day, m_calls)
            ((s_requests, s_tokens, s_day),) = meter.sql(
                "SELECT s.requests, s.tokens, s.day_tokens + (SELECT coalesce(sum(reserved_tokens), 0) FROM ledger "
                f"WHERE {open_ones} AND user_name = %s) FROM open_meter('tenant', 'UTC', %s, %s) m, "
                "LATERAL open_subject('user:' || %s, m, %s, %s) s",
                (user, rpm, tpm, user, own["rpm"], own["tpm"]),
            )
            requests, tokens, day, _ = shown.get(user, (0, 0, 0, 0))  # what is less than a two-hundredth is not shown
            assert requests == pytest.approx(own["rpm"] - s_requests, abs=2)
            assert tokens == pytest.approx(own["tpm"] - s_tokens, abs=250)
            assert day == pytest.approx(s_day, abs=own["tpd"] / 200)


def test_expiry_and_settlements_of_one_transaction_never_wait_for_each_other(stack: Stack, meter: Meter) -> None:
    """As `line.py` writes them: the first holds the meter, the second is of a call whose lease has run out."""
    first, *_ = meter.reserve()
    late, *_ = meter.reserve()
    meter.reserve(user="idle", each_user={"rpm": 10})
    meter.sql("UPDATE meter SET filled_at = filled_at - interval '2 hours' WHERE subject <> 'tenant'")
    meter.sql("UPDATE ledger SET expires_at = clock_timestamp() WHERE id = %s", (late,))
    waits = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
    with stack.postgres.connect(dbname="tenantry") as other, ThreadPoolExecutor(1) as pool:
        ((schema,),) = meter.sql("SELECT current_schema()")
        other.execute(f"SET search_path = {schema}".encode())
        with meter.connection.transaction():
            meter.settle(first, 10, 10, 500)
            expired = pool.submit(lambda: other.execute("SELECT expire_reservations()").fetchall())
            eventually(lambda: meter.sql(waits, (other.info.backend_pid,)) == [(1,)])
            assert meter.settle(late, 10, 10, 300)
        assert expired.result(60) == [(0,)]  # it was settled meanwhile
    assert meter.row()["month_nano"] == 800
    assert meter.sql("SELECT count(*) FROM meter") == [(1,)]


def test_a_settlement_tried_again_beside_itself_waits_in_no_circle(stack: Stack, meter: Meter) -> None:
    """The first of one transaction holds the meter, as `line.py` writes them; the second is tried again elsewhere."""
    first, *_ = meter.reserve()
    second, *_ = meter.reserve()
    waits = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
    with stack.postgres.connect(dbname="tenantry") as other, ThreadPoolExecutor(1) as pool:
        ((schema,),) = meter.sql("SELECT current_schema()")
        other.execute(f"SET search_path = {schema}".encode())
        with meter.connection.transaction():
            meter.settle(first, 10, 10, 500)
            again = pool.submit(Meter(other).settle, second, 10, 10, 300)
            eventually(lambda: meter.sql(waits, (other.info.backend_pid,)) == [(1,)])
            assert meter.settle(second, 10, 10, 300)
        assert again.result(60)  # it was settled meanwhile, once
    assert meter.row()["month_nano"] == 800
    assert meter.sql("SELECT count(*) FROM audit WHERE phase = 'outcome'") == [(2,)]
    assert not meter.settle(uuid.uuid4())


OLD_RESERVE = """
SELECT outcome FROM reserve(%s, 'key', 'default', 'user', 'chat', 'gpt', 1, true, 100, 200, 32, 1, 0, 1000, 10, 'p1',
                            60, 'UTC', 10, 1000, NULL, NULL, NULL)
"""


def test_replicas_of_before_go_on_beside_new_ones(meter: Meter) -> None:
    """During a rollout: they share the limits, and their settlements are in the same totals."""
    old = uuid.uuid4()
    assert meter.sql(OLD_RESERVE, (old,)) == [("ok",)]
    new, outcome, granted, _ = meter.reserve(rpm=10, tpm=1000, output=900)
    assert (outcome, granted) == ("ok", pytest.approx(600, abs=2))
    assert meter.sql("SELECT settle(%s, 'settled', 60, 40, 777, 0, 0, 0, 0, false)", (old,)) == [(True,)]
    meter.settle(new, 60, 40, 23)
    meter.sql("SELECT record(%s, 'key', 'default', 'user', 'documents', 3, 0, 30, 0, 'p1', 'UTC')", (uuid.uuid4(),))
    assert meter.row()["month_nano"] == 830
    assert meter.sql("SELECT sum(calls), sum(llm_nano), sum(database_nano) FROM totals") == [(3, 800, 30)]


def test_cached_tokens_are_kept(meter: Meter) -> None:
    identity, *_ = meter.reserve()
    meter.sql(
        "SELECT settle_call(%s, 'settled', 100, 40, 10, 7, 0, 0, 0, 0, false, %s, %s, %s, %s, %s, %s, '200', '', '{}')",
        (identity, *EVENT),
    )
    assert meter.sql("SELECT tokens_in, tokens_cached, tokens_out FROM ledger") == [(100, 40, 10)]
    assert meter.sql("SELECT tokens_in, tokens_cached, tokens_out FROM totals") == [(100, 40, 10)]


def test_a_users_and_a_keys_limits_refuse_by_name_and_take_nothing(meter: Meter) -> None:
    limits: dict[str, Any] = {"rpm": 100, "tpm": 10_000, "tpd": 50_000, "concurrency": 50}
    users: dict[str, Any] = {"rpm": 2, "tpm": 5000, "tpd": 20_000, "concurrency": 5}
    assert [meter.reserve(**limits, each_user=users)[1] for _ in range(3)] == ["ok", "ok", "user_requests"]
    assert meter.left[1:3] == [pytest.approx(0, abs=0.1), 2]  # the headers are of the bucket that is nearly empty
    before = meter.row(), meter.row("user:user")
    refusals: dict[str, dict[str, Any]] = {
        "user_concurrency": {"each_user": {"concurrency": 2}},
        "user_tokens": {"each_user": {"tpm": 150}, "input": 149, "least": 1},
        "user_day": {"each_user": {"tpd": 650}},
        "key_requests": {"each_key": {"rpm": 1}, "requests": 1},
        "key_concurrency": {"each_key": {"concurrency": 1}},
        "too_large": {"each_key": {"tpm": 100}},
    }
    for outcome, change in refusals.items():
        if outcome == "user_tokens":
            meter.sql("UPDATE meter SET tokens = 10 WHERE subject = 'user:user'")
            assert meter.reserve(**(limits | change))[1] == outcome
            meter.sql("UPDATE meter SET tokens = %s WHERE subject = 'user:user'", (before[1]["tokens"],))
            continue
        if outcome == "key_requests":  # the key's row begins full: its first call empties it
            assert meter.reserve(**(limits | change), user="other")[1] == "ok"
            before = meter.row(), before[1]
        assert meter.reserve(**(limits | change))[1] == outcome, outcome
    assert (meter.row(), meter.row("user:user")) == before
    # another user has a bucket of its own, and the key is shared by both
    assert meter.reserve(**limits, each_user=users, user="second")[1] == "ok"


def test_the_settlement_gives_back_to_all_that_were_taken_from(meter: Meter) -> None:
    each = {"tpm": 1000, "tpd": 1000}
    identity, outcome, granted, _ = meter.reserve(tpm=5000, each_user=each, each_key=each)
    assert (outcome, granted) == ("ok", 200)
    meter.settle(identity, 60, 40)
    for subject, level in (("tenant", 4900), ("user:user", 900), ("key:key", 900)):
        assert meter.row(subject)["tokens"] == pytest.approx(level, abs=1)
        assert meter.row(subject)["day_tokens"] == 100
    # the answer is clamped to what the user has left, and to what came back meanwhile: 17 tokens a second
    assert 799 <= meter.reserve(tpm=5000, output=5000, each_user={"tpm": 1000})[2] < 900


def test_five_hundred_users_never_exceed_their_tenant(meter: Meter) -> None:
    outcomes = [
        meter.reserve(rpm=60, tpm=100_000, each_user={"rpm": 5, "tpm": 50_000}, user=f"user-{number}")[1]
        for number in range(500)
    ]
    assert 60 <= outcomes.count("ok") <= 65
    assert set(outcomes) == {"ok", "requests"}


def test_idle_users_are_forgotten_but_not_what_they_used_today(meter: Meter) -> None:
    each: dict[str, Any] = {"rpm": 10, "tpd": 500}
    for user in ("idle", "busy"):
        identity, *_ = meter.reserve(each_user=each, user=user)
        meter.settle(identity, 100, 100)
    meter.sql("UPDATE meter SET filled_at = filled_at - interval '2 hours' WHERE subject <> 'user:busy'")
    meter.sql("SELECT expire_reservations()")
    assert meter.sql("SELECT subject FROM meter ORDER BY 1") == [("tenant",), ("user:busy",)]
    _, outcome, granted, _ = meter.reserve(each_user=each, user="idle", output=1000)
    assert (outcome, granted) == ("ok", 200)  # 500 a day, 200 used, 100 of input
    assert meter.row("user:idle")["day_tokens"] == 200


def test_users_and_keys_at_once_neither_deadlock_nor_exceed(make: Callable[[], Meter], stack: Stack) -> None:
    """Reservations, settlements and housekeeping of many subjects in many sessions."""
    meter = make()
    ((schema,),) = meter.sql("SELECT current_schema()")

    def work(seed: int) -> tuple[int, int]:
        chance, taken, tokens = random.Random(seed), 0, 0
        with stack.postgres.connect(dbname="tenantry") as connection:
            connection.execute(f"SET search_path = {schema}".encode())
            own = Meter(connection)
            for _ in range(25):
                limits: dict[str, Any] = {"rpm": 80, "each_user": {"rpm": 20}, "each_key": {"tpm": 20_000, "rpm": 50}}
                user, key = f"u{chance.randrange(6)}", f"k{chance.randrange(3)}"
                identity, outcome, *_ = own.reserve(**limits, user=user, key=key)
                if outcome == "ok":
                    taken += 1
                    used = chance.randrange(300)
                    tokens += used
                    own.settle(identity, used, 0, used)
                elif chance.random() < 0.2:
                    own.sql("UPDATE meter SET filled_at = filled_at WHERE subject = 'tenant'")
                    own.sql("SELECT expire_reservations()")
        return taken, tokens

    started = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(8)))
    refilled = int((time.monotonic() - started) * 80 / 60) + 1
    taken, tokens = (sum(part) for part in zip(*results, strict=True))
    assert 0 < taken <= 80 + refilled
    assert meter.sql("SELECT count(*), sum(tokens_in), sum(cost_nano) FROM ledger") == [(taken, tokens, tokens)]
    assert meter.row()["month_nano"] == tokens
    assert meter.sql("SELECT sum((details->>'cost_nano')::bigint) FROM audit WHERE phase = 'outcome'") == [(tokens,)]
    for column, most in (("user_name", 20), ("key_uid", 50)):
        counted = f"SELECT count(*) AS n FROM ledger GROUP BY {column}"
        ((highest,),) = meter.sql(f"SELECT max(n) FROM ({counted}) AS counted")
        assert highest <= most + (time.monotonic() - started) * most / 60 + 1
