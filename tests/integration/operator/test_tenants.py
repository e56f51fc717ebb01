"""What a Tenant becomes, and what a change, a mistake and its end do."""

import json
import time

from tests import samples
from tests.integration.operator.world import GROUP, NAMESPACE, Json, World, region, until

FIRST_TEMPLATE = "You work for {{ tenantName }}."


def configuration(world: World, tenant: str) -> dict:
    rows = world.rows(f"SELECT document FROM tenant_{tenant.replace('-', '_')}__runtime.configuration")
    found = rows[0][0]
    return found if isinstance(found, dict) else json.loads(found)


def test_three_tiers_become_what_they_should_and_then_nothing_is_written(operator):
    world = operator
    uids = {tier: world.tenant(f"one-{tier}", tier) for tier in ("free", "pro", "enterprise")}
    for tier, uid in uids.items():
        name = f"one-{tier}"
        status = world.ready(name)["status"]
        assert status["tier"] == tier
        assert status["region"] == "main"
        assert status["endpoint"] == f"http://runtime.runtime-{name}.svc:8000/v1"
        assert status["namespaces"] == [f"tenant-{name}", f"runtime-{name}"]
        own = tier == "enterprise"
        assert status["pinned"]["vectorIsolation"] == ("Collection" if own else "Partition")
        assert f"tenant-{name}/postgres" in status["secrets"]
        assert (f"tenant-{name}/milvus" in status["secrets"]) is own
        assert (world.secret(f"tenant-{name}", "milvus") is not None) is own
        assert world.places(uid)
        key = world.secret(f"tenant-{name}", "accesskey-default")
        assert key is not None
        assert key["base-url"] == status["endpoint"]
        assert key["api-key"].startswith("tk-")
        assert world.keys(name) == {"default"}
        told = world.secret(f"runtime-{name}", "runtime")
        assert told is not None
        assert json.loads(told["credentials.json"])["provider"]["api_key"] == "not-called-here"
        assert configuration(world, name)["display_name"] == name.title()
    operator_process = world.replicas[-1]
    before = operator_process.rests()
    time.sleep(10)  # more than a resync
    assert operator_process.writes() == before, "a steady tenant was written"
    for name in ("one-free", "one-pro", "one-enterprise"):
        assert operator_process.value("tenantry_tenant_condition", tenant=name, type="Ready", status="True") == 1


def test_a_change_of_tier_and_settings_arrives_and_the_level_stays(operator):
    world = operator
    world.tenant("moving", "pro", ai={"customInstructions": "Be brief."})
    world.ready("moving")
    spec = {"ai": {"customInstructions": "Be kind."}, "namespaces": [{"suffix": "dev"}], "suspended": True}
    world.change("moving", tier="enterprise", **spec)
    status = world.ready("moving")["status"]
    assert status["pinned"]["vectorIsolation"] == "Partition"
    assert "vectors stay at level Partition" in world.condition("moving")["message"]
    assert world.condition("moving")["reason"] == "Suspended"
    told = configuration(world, "moving")
    assert told["prompt"]["custom_instructions"] == "Be kind."
    assert told["tier"] == "enterprise"
    assert told["suspended"] is True
    assert world.get("/api/v1/namespaces/tenant-moving--dev")
    world.change("moving", namespaces=None, suspended=False)
    world.says("moving", "Ready")
    until(lambda: world.get("/api/v1/namespaces/tenant-moving--dev") is None, "the extra namespace is gone")


def test_an_unknown_tier_or_region_stalls_and_heals_when_it_comes(operator):
    world = operator
    world.tenant("early", "gold", region="moon")
    message = world.says("early", "UnknownRegion")
    assert "DataRegion 'moon' does not exist" in message
    assert "TenantTier 'gold' does not exist (there are: enterprise, free, pro)" in message
    assert world.condition("early", "Stalled")["status"] == "True"

    world.create(f"{GROUP}/dataregions", region(world, "moon", default=False))
    world.create(f"{GROUP}/tenanttiers", samples.tier_manifest("pro") | {"metadata": {"name": "gold"}})
    try:
        world.ready("early")
        assert world.condition("early", "Stalled")["status"] == "False"
        # A tier deleted while it is in use: named, and what runs goes on.
        world.remove(f"{GROUP}/tenanttiers/gold")
        assert "gold" in world.says("early", "UnknownTier")
        assert world.condition("early", "DatabaseReady")["status"] == "True"
    finally:
        world.deleted("early")
        world.remove(f"{GROUP}/dataregions/moon")


def test_a_bad_template_stalls_and_the_old_prompt_goes_on(operator):
    """One that does not compile, one that reaches for Python's internals, and two that would never end."""
    world = operator
    world.tenant("template", "pro", ai={"systemPrompt": {"template": FIRST_TEMPLATE}})
    world.ready("template")
    for template in (
        "{% for x in %}",
        "{{ ''.__class__.__mro__ }}",
        "{% for x in range(10**9) %}{% for y in range(10**9) %}x{% endfor %}{% endfor %}",
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    ):
        world.change("template", ai={"systemPrompt": {"template": template}})
        assert "template can't be used" in world.says("template", "InvalidTemplate"), template
        assert configuration(world, "template")["prompt"]["template"] == FIRST_TEMPLATE
        assert world.condition("template", "RuntimeReady")["status"] == "True", "it goes on with the old one"
        world.change("template", ai={"systemPrompt": {"template": FIRST_TEMPLATE}})
        world.ready("template")
    world.deleted("template")


def test_foreign_things_of_our_names_are_named_and_left_alone(operator):
    world = operator
    world.create("/api/v1/namespaces", {"metadata": {"name": "tenant-taken"}})
    world.rows("CREATE SCHEMA tenant_squatted")
    try:
        world.tenant("taken")
        world.tenant("squatted")
        assert "Namespace tenant-taken" in world.says("taken", "ForeignObject")
        assert "tenant_squatted" in world.says("squatted", "ForeignObject")
    finally:
        world.remove("/api/v1/namespaces/tenant-taken")
        world.rows("DROP SCHEMA tenant_squatted")
    world.ready("squatted", 120)
    world.deleted("taken", "squatted")


def test_retain_keeps_the_data_out_of_reach(operator):
    world = operator
    uid = world.tenant("kept", "enterprise", deletion={"policy": "Retain"})
    world.ready("kept")
    world.rows("CREATE TABLE tenant_kept.precious AS SELECT 42 AS x")
    before = world.places(uid)
    world.deleted("kept")
    retained = f"retained_{uid.replace('-', '')}"
    assert world.rows(f"SELECT x FROM {retained}.precious") == [(42,)]
    assert not world.schemas("kept")
    assert not world.roles("kept")
    left = world.places(uid)
    assert left, "the vectors are kept"
    assert set(left) < set(before), "its user and role are gone"
    with world.vectors() as client:
        for name in left:
            if name in client.list_collections():
                client.drop_collection(name)
    world.rows(f"DROP SCHEMA {retained} CASCADE")
    world.rows(f"DROP SCHEMA {retained}__runtime CASCADE")


def test_a_protected_tenant_is_kept_even_when_admission_was_not_asked(operator):
    world = operator
    uid = world.tenant("guarded", deletionProtection=True)
    world.ready("guarded")
    world.remove(f"{GROUP}/tenants/guarded")  # no admission policies are installed here
    assert "set it to false" in world.says("guarded", "DeletionProtected")
    assert world.schemas("guarded")
    assert world.places(uid)
    world.change("guarded", deletionProtection=False)
    until(lambda: world.get(f"{GROUP}/tenants/guarded") is None, "it is gone", 90)


def test_events_and_logs_say_what_happened_and_hold_no_secret(operator):
    world = operator
    world.tenant("spoken", "enterprise")
    world.ready("spoken")

    def told() -> Json:
        """All events, once one says so: it is written after the status."""
        events = world.get("/api/v1/namespaces/default/events") or {"items": []}
        about = [e.get("reason") for e in events["items"] if e["involvedObject"].get("name") == "spoken"]
        return events if "Ready" in about else {}

    events = until(told, "an Event says that it is Ready")
    secrets = [
        value
        for namespace, name in (
            ("tenant-spoken", "accesskey-default"),
            ("tenant-spoken", "postgres"),
            ("tenant-spoken", "milvus"),
        )
        for key, value in (world.secret(namespace, name) or {}).items()
        if key in ("api-key", "password")
    ]
    assert len(secrets) == 3
    said = (
        world.replicas[-1].log.read_text()
        + json.dumps(events)
        + json.dumps(world.seen("spoken"))
        + world.api.get(f"/api/v1/namespaces/{NAMESPACE}").text
    )
    for line in world.replicas[-1].log.read_text().splitlines():
        assert json.loads(line)["message"]
    for secret in secrets:
        assert secret not in said


def test_a_new_region_is_prepared_before_its_first_tenant(operator):
    world = operator
    usual = {"model": "text-embedding-3-small", "dimension": 24, "metric": "L2"}
    world.create(f"{GROUP}/dataregions", region(world, "early", default=False, embedding=usual))
    try:
        with world.vectors() as client:
            found = until(lambda: [n for n in client.list_collections() if "_24_l2_" in n], "a shared collection")
            (collection,) = found
            until(lambda: "Loaded" in str(client.get_load_state(collection)["state"]), "it serves")
            assert client.list_partitions(collection) == ["_default"]
            users = until(lambda: [u for u in client.list_users() if u.startswith("s_")], "its user")
        uid = world.tenant("early-bird", region="early")
        assert world.ready("early-bird")["status"]["pinned"]["collection"] == collection
        assert [p for p in world.places(uid) if p.startswith("t_")]
        with world.vectors() as client:
            assert [n for n in client.list_collections() if "_24_l2_" in n] == [collection], "made twice"
            assert set(users) <= set(client.list_users())
    finally:
        world.remove(f"{GROUP}/tenants/early-bird")
        world.deleted("early-bird")
        world.remove(f"{GROUP}/dataregions/early")
