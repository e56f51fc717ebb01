"""The audit from a Tenant's first configuration to the end of its retention."""

import json

from tests.integration.operator.world import GROUP, World, until


def rows(world: World, table: str, where: str = "true") -> list[tuple[str, str, dict]]:
    found = world.rows(f"SELECT event_type, action, details FROM {table} WHERE {where} ORDER BY at")
    return [
        (kind, action, details if isinstance(details, dict) else json.loads(details)) for kind, action, details in found
    ]


def living(world: World, name: str, database: str = "tenantry") -> list[str]:
    table = f"tenant_{name.replace('-', '_')}__runtime.audit"
    return [row[0] for row in world.rows(f"SELECT action FROM {table} ORDER BY at", database=database)]


def test_what_compliance_keeps_outlives_the_tenant(operator):
    world = operator
    compliance = {"certifications": ["SOC2"]}
    uids = {
        "audited-one": world.tenant("audited-one", compliance=compliance),
        "audited-own": world.tenant("audited-own", compliance=compliance, database={"isolation": "Database"}),
        "audited-not": world.tenant("audited-not", ai={"budget": {"monthly": "1", "alertAt": [50]}}),
    }
    for name in uids:
        world.ready(name)
    world.change("audited-one", ai={"customInstructions": "Be brief."})
    until(lambda: living(world, "audited-one") == ["create", "update"], "the change is in the audit")
    assert living(world, "audited-own", database="tenant_audited_own") == ["create"]

    # What gives a tenant away is in the region's list, and in the copy of who has a database of its own.
    def listed(database: str = "tenantry") -> set[str]:
        there = world.rows("SELECT to_regclass('tenantry_shared.leak_settings')", database=database)
        query = "SELECT owner FROM tenantry_shared.leak_identifiers"
        return {row[0] for row in world.rows(query, database=database)} if there[0][0] else set()

    owners = {uid.replace("-", "") for uid in uids.values()}
    until(lambda: owners <= listed(), "the list has all tenants")
    until(lambda: owners <= listed("tenant_audited_own"), "so has the copy")

    # Vectors were deleted: Milvus, which lets no tenant ask, is asked for their space by the operator.
    table = "tenant_audited_one__runtime.documents_state"
    world.rows(f"UPDATE {table} SET removed_at = clock_timestamp()")
    until(lambda: world.rows(f"SELECT removed_at FROM {table}") == [(None,)], "compaction was asked for")

    # The month's spend reaches a percent of the budget: one Event, however often it is looked at.
    world.rows(
        "INSERT INTO tenant_audited_not__runtime.meter (subject, filled_at, day, day_zone, day_ends_at, month,"
        " month_zone, month_ends_at, month_nano) VALUES ('tenant', now(), now(), 'UTC', now() + interval '1 day',"
        " now(), 'UTC', now() + interval '1 day', 600000000)"
    )
    until(lambda: world.condition("audited-not", "WithinBudget").get("reason") == "BudgetAlert", "it is said")
    assert world.seen("audited-not")["status"]["spend"]["alerted"] == [50]
    assert world.condition("audited-not")["status"] == "True"
    shown = {"tenant": "audited-not", "type": "WithinBudget", "status": "True", "reason": "BudgetAlert"}
    until(lambda: world.replicas[-1].value("tenantry_tenant_condition", **shown) == 1, "it is in the metrics")
    # What `kubectl get tenants` prints is the API server's own table.
    table = world.table(f"{GROUP}/tenants")
    assert table["audited-not"] | {"Tier": "free", "Ready": "True", "Spend": "0.60"} == table["audited-not"]
    assert table["audited-one"]["Spend"] in (None, "0.00")
    told = [
        event["message"]
        for event in world.get("/api/v1/namespaces/default/events")["items"]
        if event.get("reason") == "BudgetAlert" and event["involvedObject"].get("uid") == uids["audited-not"]
    ]
    assert [text.split(" is spent (0.60 in ")[0] for text in told] == ["50 % of the month's budget of 1 US dollars"]
    world.deleted(*uids)
    until(lambda: not owners & listed(), "the list has none of them")

    archived = {name: rows(world, "tenantry_archive.audit", f"tenant_uid = '{uid}'") for name, uid in uids.items()}
    # Kubernetes tells the time of a deletion in whole seconds: it may come before what was done in the same one.
    assert sorted((kind, action) for kind, action, _ in archived["audited-one"]) == [
        ("configuration_change", "create"),
        ("configuration_change", "update"),
        ("deletion", "delete"),
    ]
    assert [details["fields"] for _, action, details in archived["audited-one"] if action == "update"] == [
        ["prompt.custom_instructions"]
    ]
    assert sorted(action for _, action, _ in archived["audited-own"]) == ["create", "delete"]
    assert archived["audited-not"] == []
    status, said = world.scan()
    assert status == 0, said
    assert "audited-one: 3 rows until 20" in said
    assert "audited-own: 2 rows until 20" in said
    assert "audited-not" not in said

    again = world.tenant("audited-one", compliance=compliance)
    world.ready("audited-one")
    assert living(world, "audited-one") == ["create"]
    assert rows(world, "tenantry_archive.audit", f"tenant_uid = '{again}'") == []

    # Its time is over: the next resync removes it, and counts it.
    world.rows("UPDATE tenantry_archive.audit SET keep_until = now() WHERE tenant = 'audited-own'")
    until(lambda: not rows(world, "tenantry_archive.audit", "tenant = 'audited-own'"), "the archive is purged")
    assert len(rows(world, "tenantry_archive.audit", f"tenant_uid = '{uids['audited-one']}'")) == 3
    purged = world.replicas[-1].value
    until(lambda: purged("tenantry_audit_archive_purged_rows_total", region="main") == 2, "the purge is counted")
