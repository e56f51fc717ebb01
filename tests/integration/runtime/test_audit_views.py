"""GET /v1/audit: pages that hold still while rows arrive, and an export that any size fits through."""

import csv
import io
import uuid
from typing import Any

import httpx
import pytest

from tests.integration.runtime.stack import Replica, Tenant, eventually

COLUMNS = ["Timestamp", "Event Type", "Action", "Resource Type", "Resource ID", "User ID", "Status", "Error"]


@pytest.fixture(scope="module")
def tenant(home: Tenant) -> Tenant:
    return home


def audit(replica: Replica, key: str, path: str = "/v1/audit", **query: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.get(f"{replica.url}{path}", params=query, headers=headers, timeout=60)


def add(tenant: Tenant, user: str, count: int, at: str = "2026-03-01T00:00:00Z", **columns: Any) -> None:
    """`count` events a second apart."""
    given = {"phase": "event", "event_type": "data_access", "action": "files.list", "status": "200"} | columns
    names = ", ".join(given)
    tenant.sql(
        f"INSERT INTO audit (id, at, user_id, {names}) SELECT gen_random_uuid(), "
        f"%s::timestamptz + make_interval(secs => i), %s, {', '.join(['%s'] * len(given))} "
        "FROM generate_series(0, %s) i",
        (at, user, *given.values(), count - 1),
    )


def add_call(tenant: Tenant, user: str, at: str, outcome: str | None) -> uuid.UUID:
    """A call with its ledger row and its intent; `outcome` is its status."""
    identity = uuid.uuid4()
    tenant.sql(
        "INSERT INTO ledger (id, at, month, day, key_uid, key_name, user_name, kind, model, status, expires_at, "
        "settled_at) VALUES (%s, %s, '2026-03-01', '2026-03-01', 'k', 'k', %s, 'chat', 'gpt', 'released', "
        "'2026-03-02', %s::timestamptz + interval '50 minutes')",
        (identity, at, user, at if outcome else None),
    )
    row = (
        "INSERT INTO audit (id, phase, at, event_type, action, user_id, status, details) "
        "VALUES (%s, %s, %s::timestamptz + %s::interval, 'api_call', 'chat.completions.create', %s, %s, %s)"
    )
    tenant.sql(row, (identity, "intent", at, "0", user, "", '{"messages": 1}'))
    if outcome:
        tenant.sql(row, (identity, "outcome", at, "50 minutes", user, outcome, '{"tokens": 22}'))
    return identity


def pages(replica: Replica, key: str, **query: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after = None
    while True:
        answer = audit(replica, key, **query, **({"after": after} if after else {})).json()
        found += answer["data"]
        after = answer["next"]
        assert answer["has_more"] is (after is not None)
        if not after:
            return found


def test_a_call_is_one_event(tenant: Tenant, service: Replica) -> None:
    done = add_call(tenant, "caller", "2026-03-01T10:00:00.000001Z", "200")
    lost = add_call(tenant, "caller", "2026-03-01T10:00:01Z", None)
    events = pages(service, tenant.key, user="caller")
    assert [event["id"] for event in events] == [str(lost), str(done)]
    assert [event["status"] for event in events] == ["unfinished", "200"]
    assert events[1]["timestamp"] == "2026-03-01T10:00:00.000001Z"
    assert events[1]["finishedAt"] == "2026-03-01T10:50:00.000001Z"
    assert events[1]["details"] == {"messages": 1, "tokens": 22}
    assert events[0]["finishedAt"] is None
    # An outcome alone is no event, and a range ends where events begin.
    assert pages(service, tenant.key, user="caller", **{"from": "2026-03-01T10:00:02Z"}) == []
    rows = list(csv.DictReader(io.StringIO(audit(service, tenant.key, user="caller", format="csv").text, newline="")))
    assert [row["Status"] for row in rows] == ["200", "unfinished"]


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_hold_still_while_rows_arrive(tenant: Tenant, service: Replica, order: str) -> None:
    user = f"pages-{order}"
    add(tenant, user, 25)
    before = [event["id"] for event in pages(service, tenant.key, user=user, order=order)]
    assert len(set(before)) == 25
    found: list[str] = []
    after = None
    while True:
        answer = audit(service, tenant.key, user=user, order=order, limit=7, **({"after": after} if after else {}))
        found += [event["id"] for event in answer.json()["data"]]
        add(tenant, user, 3, at="2026-04-01T00:00:00Z")
        after = answer.json()["next"]
        if not after or len(found) > 60:
            break
    if order == "desc":
        assert found == before
    else:
        assert found[:25] == before
        assert len(set(found)) == len(found)


def test_events_of_one_instant_are_all_there(tenant: Tenant, service: Replica) -> None:
    for _ in range(9):
        add(tenant, "instant", 1)
    for order in ("asc", "desc"):
        assert len({event["id"] for event in pages(service, tenant.key, user="instant", limit=2, order=order)}) == 9


def test_filters(tenant: Tenant, service: Replica) -> None:
    add(tenant, "ann", 2, at="2026-05-01T22:30:00Z")
    add(tenant, "ann", 1, at="2026-05-02T00:00:00Z", event_type="deletion", action="files.delete")
    add(tenant, "bob", 1, at="2026-05-02T00:00:00Z")
    key = tenant.key

    def count(**query: str) -> int:
        return len(pages(service, key, **query))

    assert count(user="ann") == 3
    assert count(user="ann", type="deletion") == 1
    day = {"from": "2026-05-02", "to": "2026-05-02"}  # UTC, where the tenant has no budget
    assert count(user="ann", **day) == 1
    assert count(**day) == 2
    assert count(user="ann", **{"from": "2026-05-02T00:30:00+02:00", "to": "2026-05-01T22:30:01Z"}) == 1
    assert count(user="' OR true --") == 0
    refused = audit(service, key, type="everything")
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, "type")
    assert audit(service, tenant.add_key("no-audit", scopes=("chat", "usage", "admin"))).status_code == 403


def test_the_export_is_csv_that_calculates_nothing(tenant: Tenant, service: Replica) -> None:
    add(tenant, "csv", 3, action='=HYPERLINK("http://x")', resource_id="a,b\r\nc", error='say "no"')
    answer = audit(service, tenant.key, "/v1/audit/export", user="csv")
    assert answer.headers["content-type"].startswith("text/csv")
    assert answer.headers["content-disposition"].startswith("attachment; filename=")
    assert answer.text.splitlines()[0].startswith(",".join(COLUMNS))
    header, *rows = csv.reader(io.StringIO(answer.text, newline=""), strict=True)
    assert header[:8] == COLUMNS
    assert len(rows) == 3
    assert rows[0][:8] == [
        "2026-03-01T00:00:00.000000Z", "data_access", "'=HYPERLINK(\"http://x\")", "", "a,b\r\nc", "csv", "200",
        'say "no"',
    ]  # fmt: skip
    assert answer.content.endswith(b"\r\n")
    assert sorted(row[0] for row in rows) == [row[0] for row in rows]


def test_a_large_export_comes_in_batches_and_holds_no_transaction(tenant: Tenant, service: Replica) -> None:
    add(tenant, "large", 1700, at="2026-06-01T00:00:00Z", user_agent="x" * 250)
    tenant.sql(
        "INSERT INTO audit (id, phase, at, event_type, action, user_id, status, details) "
        "SELECT gen_random_uuid(), 'event', timestamptz '2026-06-02' + make_interval(secs => i), 'api_call', 'big', "
        "'large', '200', jsonb_build_object('body', (SELECT string_agg(md5((i * n)::text), '') "
        "FROM generate_series(1, 16000) n)) FROM generate_series(1, 24) i"
    )
    listed = audit(service, tenant.key, user="large", limit=1000)
    assert listed.json()["has_more"]  # bodies of half a megabyte do not all come at once
    assert len(listed.content) < 2_000_000
    assert len({event["id"] for event in pages(service, tenant.key, user="large", limit=1000)}) == 1724

    headers = {"Authorization": f"Bearer {tenant.key}"}
    url = f"{service.url}/v1/audit/export"
    with httpx.stream("GET", url, params={"user": "large"}, headers=headers, timeout=60) as answer:
        text = answer.iter_bytes()
        received = [next(text)]
        # The client reads no further: what the service waits in is its own, not the database's.
        eventually(lambda: tenant.sql(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tenantry-runtime' AND usename = %s "
            "AND (state LIKE 'idle in transaction%%' OR (state = 'active' AND query LIKE '%%FROM audit%%'))",
            (tenant.credentials.postgres.user,),
        )[0][0] == 0)  # fmt: skip
        add(tenant, "large", 1, at="2199-01-01T00:00:00Z")  # later than the export's own beginning
        received.extend(text)
    usual = csv.field_size_limit(1_000_000)
    try:
        rows = list(csv.DictReader(io.StringIO(b"".join(received).decode(), newline="")))
    finally:
        csv.field_size_limit(usual)
    assert len(rows) == 1724
    assert len({row["Event ID"] for row in rows}) == 1724
