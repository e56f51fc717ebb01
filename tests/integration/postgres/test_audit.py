"""The audit of a living tenant: only added to, by month, and the operator's own rows exactly once."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from psycopg.errors import CheckViolation, InsufficientPrivilege

from dev.cluster import postgres
from tenantry.backends.postgres import PostgresBackend
from tenantry.desired.database import DatabasePlan
from tenantry.desired.postgres import audit
from tenantry_runtime.config import Budget, Prompt
from tests.integration.postgres import support
from tests.integration.postgres.support import Tenant

ROW = (
    "INSERT INTO audit (id, phase, at, event_type, action)"
    " VALUES (gen_random_uuid(), 'event', coalesce(%s, clock_timestamp()), 'api_call', 'test')"
)


def add(tenant: Tenant, *times: datetime | None) -> None:
    with tenant.session("a") as runtime:
        for at in times:
            runtime.execute(ROW, (at,))


def partitions(tenant: Tenant) -> dict[str, int]:
    """Those attached, with their rows."""
    names = tenant.superuser(
        "SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r'"
        " AND relnamespace = '{runtime}'::regnamespace"
    )
    return {str(name): int(tenant.superuser(f"SELECT count(*) FROM {{runtime}}.{name}")[0][0]) for (name,) in names}


def changes(tenant: Tenant) -> list[tuple[Any, ...]]:
    return tenant.superuser(
        "SELECT action, user_id, details FROM {runtime}.audit WHERE event_type = 'configuration_change' ORDER BY at"
    )


def today(tenant: Tenant) -> date:
    return date.fromisoformat(str(tenant.superuser("SELECT (now() AT TIME ZONE 'UTC')::date")[0][0]))


def at(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, 12, tzinfo=UTC)


def month(day: date, back: int) -> date:
    for _ in range(back):
        day = day.replace(day=1) - timedelta(days=1)
    return day.replace(day=1)


def kept(plan: DatabasePlan, days: int) -> DatabasePlan:
    return replace(plan, audit_retention_days=days)


def lose(tenant: Tenant, day: date) -> None:
    """As if the operator had been away when this month was to be made."""
    tenant.superuser(f"DROP TABLE {{runtime}}.{audit.partition(day)}")


def expected(tenant: Tenant, *more: date) -> set[str]:
    return {"audit_default", *map(audit.partition, audit.ahead(today(tenant))), *map(audit.partition, more)}


async def settled(backend: PostgresBackend, tenant: Tenant) -> None:
    """Provisioned, and looked at again."""
    await backend.ensure(tenant.plan())
    await backend.ensure(tenant.plan())


async def test_a_new_tenant_has_its_months_at_the_next_look(backend: PostgresBackend, tenant: Tenant) -> None:
    seen = await backend.ensure(tenant.plan())
    assert (seen.corrected, seen.kept_up) == ((), ())
    add(tenant, None)
    assert partitions(tenant) == {"audit_default": 2}  # with the operator's own
    seen = await backend.ensure(tenant.plan())
    assert (seen.corrected, len(seen.kept_up)) == ((), 1)  # both in one transaction
    assert set(partitions(tenant)) == expected(tenant)
    add(tenant, None)
    found = partitions(tenant)
    assert (found[audit.partition(today(tenant))], found["audit_default"]) == (3, 0)
    assert (await backend.ensure(tenant.plan())).kept_up == ()


async def test_rows_are_only_added(backend: PostgresBackend, tenant: Tenant) -> None:
    await settled(backend, tenant)
    add(tenant, None)
    this = audit.partition(today(tenant))
    with tenant.session("a") as runtime:
        assert runtime.execute("SELECT count(*) FROM audit WHERE action = 'test'").fetchone() == (1,)
        for refused in (
            "UPDATE audit SET action = 'other'",
            "DELETE FROM audit",
            "TRUNCATE audit",
            f"ALTER TABLE audit DETACH PARTITION {this}",
            f"DROP TABLE {this}",
            *(
                words.format(table)
                for table in (this, "audit_default")
                for words in (
                    "SELECT * FROM {}",
                    "DELETE FROM {}",
                    "UPDATE {} SET action = 'other'",
                    "INSERT INTO {} (id, phase, event_type, action) VALUES (gen_random_uuid(), 'event', '', '')",
                )
            ),
            "CREATE TRIGGER t BEFORE INSERT ON audit EXECUTE FUNCTION suppress_redundant_updates_trigger()",
            "CREATE RULE r AS ON INSERT TO audit DO INSTEAD NOTHING",
        ):
            with pytest.raises(InsufficientPrivilege):
                runtime.execute(refused)
        for at_ in ("infinity", "-infinity", "1999-12-31"):
            with pytest.raises(CheckViolation):
                runtime.execute(ROW, (at_,))
    with tenant.session() as own:
        for words in ("SELECT * FROM {}.audit", "SELECT * FROM {}.audit_default", f"SELECT * FROM {{}}.{this}"):
            with pytest.raises(InsufficientPrivilege, match="denied for schema"):
                own.execute(words.format(tenant.things.runtime_schema))


async def test_a_partition_granted_or_given_away_is_put_back(backend: PostgresBackend, tenant: Tenant) -> None:
    await settled(backend, tenant)
    table = f"{{runtime}}.{audit.partition(today(tenant))}"
    tenant.superuser(f"GRANT DELETE ON {table} TO {{group}}")
    label = f"grants on table {tenant.things.runtime_schema}.{audit.partition(today(tenant))}"
    assert (await backend.ensure(tenant.plan())).corrected == (label,)
    tenant.superuser("GRANT UPDATE ON {runtime}.audit TO {a}")
    assert (await backend.ensure(tenant.plan())).corrected == (f"grants on table {tenant.things.runtime_schema}.audit",)
    assert (await backend.ensure(tenant.plan())).corrected == ()


async def test_rows_without_a_month_move_when_it_is_made(backend: PostgresBackend, tenant: Tenant) -> None:
    """The operator was away for three months; one row claims to be of the future."""
    await settled(backend, tenant)
    now = today(tenant)
    for day in audit.ahead(now):
        lose(tenant, day)
    add(tenant, None, *(at(month(now, back)) for back in (1, 1, 2, 3)), at(now + timedelta(days=400)))
    assert partitions(tenant) == {"audit_default": 6}
    seen = await backend.ensure(tenant.plan())
    assert seen.corrected == ()
    assert len(seen.kept_up) == 1 + 3
    found = partitions(tenant)
    assert set(found) == expected(tenant, *(month(now, back) for back in (1, 2, 3)))
    assert [found[audit.partition(month(now, back))] for back in (0, 1, 2, 3)] == [1, 2, 1, 1]
    assert found["audit_default"] == 1
    assert (await backend.ensure(tenant.plan())).kept_up == ()


async def test_what_is_past_its_retention_goes(backend: PostgresBackend, tenant: Tenant) -> None:
    await settled(backend, tenant)
    now = today(tenant)
    add(tenant, *(at(month(now, back)) for back in (2, 3, 8)))
    plan = kept(tenant.plan(), (now - month(now, 2)).days)
    await backend.ensure(plan)
    assert set(partitions(tenant)) == expected(tenant, month(now, 2))
    assert partitions(tenant)["audit_default"] == 0
    shorter = kept(plan, 1)
    seen = await backend.ensure(shorter)
    assert seen.kept_up == (f"the end of audit partition {audit.partition(month(now, 2))}",)
    assert set(partitions(tenant)) == expected(tenant)
    assert (await backend.ensure(shorter)).kept_up == ()
    told = tenant.superuser(
        "SELECT user_id, action, resource_id, details FROM {runtime}.audit WHERE event_type = 'deletion' ORDER BY at"
    )
    rule = {"rule": "auditRetentionDays"}
    assert told == [
        ("tenantry", "expire", audit.DEFAULT, {**rule, "days": plan.audit_retention_days, "rows": 2}),
        ("tenantry", "expire", audit.partition(month(now, 2)), {**rule, "days": 1}),
    ]


async def test_strays_past_their_retention_go_a_batch_at_a_time(backend: PostgresBackend, tenant: Tenant) -> None:
    """Rows of long ago in the DEFAULT partition, more than one statement may delete."""
    await settled(backend, tenant)
    long_ago = at(month(today(tenant), 30))
    tenant.superuser(
        "INSERT INTO {runtime}.audit (id, phase, at, event_type, action) SELECT gen_random_uuid(), 'event',"
        f" timestamptz '{long_ago.isoformat()}' + make_interval(secs => i), 'api_call', 'test'"
        f" FROM generate_series(1, {audit.BATCH + 10}) i RETURNING 1"
    )
    for _ in range(3):
        await backend.ensure(tenant.plan())
    assert partitions(tenant)["audit_default"] == 0
    told = tenant.superuser(
        "SELECT (details->>'rows')::int FROM {runtime}.audit WHERE event_type = 'deletion' ORDER BY at"
    )
    assert told == [(audit.BATCH,), (10,)]


async def test_a_detached_month_and_a_lost_default_come_back(backend: PostgresBackend, tenant: Tenant) -> None:
    await settled(backend, tenant)
    add(tenant, None)
    this = audit.partition(today(tenant))
    tenant.superuser(f"ALTER TABLE {{runtime}}.audit DETACH PARTITION {{runtime}}.{this}")
    tenant.superuser("DROP TABLE {runtime}.audit_default")
    await backend.ensure(tenant.plan())
    assert partitions(tenant)[this] == 2
    assert set(partitions(tenant)) == expected(tenant)


async def test_a_lock_that_somebody_holds_is_no_failure(backend: PostgresBackend, tenant: Tenant) -> None:
    await settled(backend, tenant)
    now = today(tenant)
    lose(tenant, now)
    with tenant.session("a") as reader, reader.transaction():
        reader.execute(ROW, (None,))
        seen = await backend.ensure(tenant.plan())
        assert (seen.corrected, seen.kept_up) == ((), ())
    assert (await backend.ensure(tenant.plan())).kept_up == (f"audit partition {audit.partition(now)}",)
    assert partitions(tenant)[audit.partition(now)] == 1  # the operator's own went with the lost month


async def test_two_operators_and_a_busy_runtime(server: postgres.Server, tenant: Tenant) -> None:
    """Not an insert fails or is lost while the month that it belongs to is made."""
    one, two = support.backend(server), support.backend(server)
    await settled(one, tenant)
    lose(tenant, today(tenant))
    done, written = threading.Event(), [0, 0]

    def write(number: int) -> None:
        with tenant.session("a") as runtime:
            while not done.is_set():
                runtime.execute(ROW, (None,))
                written[number] += 1

    writers = [asyncio.create_task(asyncio.to_thread(write, number)) for number in range(len(written))]
    try:
        for _ in range(300):
            if min(written) > 50:
                break
            await asyncio.sleep(0.1)
        for _ in range(20):
            await asyncio.gather(one.ensure(tenant.plan()), two.ensure(tenant.plan()))
            if audit.partition(today(tenant)) in partitions(tenant):
                break
    finally:
        done.set()
        await asyncio.gather(*writers)
    found = partitions(tenant)
    assert found["audit_default"] == 0
    assert found[audit.partition(today(tenant))] == sum(written)  # the operator's own went with the lost month
    await one.close()
    await two.close()


async def test_a_crash_while_months_are_made(server: postgres.Server) -> None:
    healthy = support.backend(server)
    tenant = Tenant(server, "Schema")
    plan = kept(tenant.plan(), 365)
    await settled(healthy, tenant)
    now = today(tenant)

    async def begin() -> Tenant:
        for name in set(partitions(tenant)) - {"audit_default"}:
            tenant.superuser(f"DROP TABLE {{runtime}}.{name}")
        add(tenant, None, at(month(now, 1)))
        return tenant

    async for _ in support.crashes(server, "Schema", begin, lambda dying, _: dying.ensure(plan)):
        await healthy.ensure(plan)
        assert (await healthy.ensure(plan)).kept_up == ()
        found = partitions(tenant)
        assert [found[audit.partition(month(now, back))] for back in (0, 1)] == [1, 1]
        assert found["audit_default"] == 0
    await healthy.close()


async def test_a_change_of_the_configuration_is_one_row(server: postgres.Server, tenant: Tenant) -> None:
    one, two = support.backend(server), support.backend(server)
    first, second = tenant.plan(), tenant.plan(instructions="Don't say \0 or 'no' to secret-word.")
    await one.ensure(first)
    await one.ensure(first)
    assert changes(tenant) == [("create", "tenantry", {"newDigest": first.configuration_digest})]
    await asyncio.gather(one.ensure(second), two.ensure(second))
    digests = {"oldDigest": first.configuration_digest, "newDigest": second.configuration_digest}
    assert changes(tenant)[1:] == [("update", "tenantry", {**digests, "fields": ["prompt.custom_instructions"]})]
    assert "secret-word" not in repr(changes(tenant))

    tenant.superuser("UPDATE {runtime}.configuration SET document = 'no JSON'")
    assert (await one.ensure(second)).corrected == ("configuration row",)
    (*_, (action, _, details)) = changes(tenant)
    assert (action, details["newDigest"], len(details)) == ("restore", second.configuration_digest, 2)
    assert len(changes(tenant)) == 3
    await one.close()
    await two.close()


async def test_a_change_says_where_and_from_detailed_on_what(backend: PostgresBackend, tenant: Tenant) -> None:
    def plan(level: str, **more: Any) -> DatabasePlan:
        made = support.configuration(tenant.name, tenant.uid, "Keep secret-word.", compliance={"logging_level": level})
        settings = made.model_copy(update=more)
        return replace(
            tenant.plan(),
            configuration=settings.canonical(),
            configuration_digest=settings.digest(),
            values=level != "Basic",
            changed_by="it's \\ kubectl",
            tenant_generation=7,
        )

    async def last(wanted: DatabasePlan) -> dict[str, Any]:
        await backend.ensure(wanted)
        return {k: v for k, v in changes(tenant)[-1][2].items() if not k.endswith("Digest")}

    who = {"manager": "it's \\ kubectl", "generation": 7}
    assert await last(plan("Basic")) == who
    money = {"budget": Budget(monthly_nano=5, alert_at=(50, 80)), "spec": {"owners": [{"name": "eve"}], "quota": {}}}
    fields = ["budget.alert_at", "budget.monthly_nano", "budget.on_exceeded", "budget.time_zone", "spec.owners"]
    assert await last(plan("Basic", **money)) == {**who, "fields": fields}
    found = await last(plan("Detailed", temperature=0.5, prompt=Prompt(template="Other secret-word."), **money))
    assert found == {
        **who,
        "fields": ["compliance.logging_level", "prompt.custom_instructions", "prompt.template", "temperature"],
        "values": {
            "compliance.logging_level": {"old": "Basic", "new": "Detailed"},
            "temperature": {"old": 0.7, "new": 0.5},
        },
    }
    found = await last(plan("Full", temperature=0.5, prompt=Prompt(template="Other secret-word.")))
    assert found["values"]["spec.owners"] == {"old": [{"name": "eve"}]}
    assert len(changes(tenant)) == 4
    assert "secret-word" not in repr(changes(tenant))


async def test_a_crash_while_the_configuration_changes(server: postgres.Server) -> None:
    tenant = Tenant(server, "Schema")
    healthy = support.backend(server)
    await healthy.ensure(tenant.plan())
    versions = 1

    async def begin() -> Tenant:
        nonlocal versions
        versions += 1
        return tenant

    def plan() -> DatabasePlan:
        return tenant.plan(instructions=f"Version {versions}")

    async for _ in support.crashes(server, "Schema", begin, lambda dying, _: dying.ensure(plan()), every=1):
        await healthy.ensure(plan())
        assert len(changes(tenant)) == versions
    await healthy.close()
