"""A first provisioning that fails for good takes back what it made; a tenant that was ever Ready keeps all."""

from tests.integration.operator.world import GROUP, World, region, until

REMOVED = "What had been made was removed"


def state(world: World, name: str) -> str:
    return str((world.seen(name).get("status", {}).get("rolledBack") or {}).get("state", ""))


def nothing(world: World, name: str, uid: str) -> bool:
    """Whether nothing is left of the tenant anywhere."""
    spaces = [world.get(f"/api/v1/namespaces/{kind}-{name}") for kind in ("tenant", "runtime")]
    return not (any(spaces) or world.roles(name) or world.places(uid))


def removed(world: World, name: str, reason: str) -> str:
    until(lambda: state(world, name) == "Removed", f"what was made for {name} is removed", 90)
    message = world.says(name, reason)
    assert message.endswith(REMOVED)
    assert world.condition(name, "Stalled")["status"] == "True"
    assert "tenantry.dev/cleanup" in world.seen(name)["metadata"]["finalizers"]
    return message


def test_something_in_the_way_takes_back_the_rest_until_it_is_gone(operator):
    world = operator
    world.rows("CREATE SCHEMA tenant_undone")
    try:
        uid = world.tenant("undone", "enterprise")
        until(lambda: state(world, "undone") == "Removing", "the removal has begun", 60)
        world.replicas[-1].kill()  # in the middle of it
        replica = world.start()
        assert "Schema tenant_undone" in removed(world, "undone", "ForeignObject")
        assert nothing(world, "undone", uid)
        assert world.schemas("undone") == {"tenant_undone"}
        before = replica.value("tenantry_reconcile_total")
        until(lambda: replica.value("tenantry_reconcile_total") >= before + 2, "it is looked at again", 60)
        assert nothing(world, "undone", uid)
        assert state(world, "undone") == "Removed"
        assert "endpoint" not in world.seen("undone")["status"]
    finally:
        world.rows("DROP SCHEMA tenant_undone")
    status = world.ready("undone", 90)["status"]
    assert "rolledBack" not in status
    assert status["firstReadyAt"]
    # From now on nothing is taken back, whatever goes wrong.
    world.change("undone", tier="no-such-tier")
    assert REMOVED not in world.says("undone", "UnknownTier")
    assert world.schemas("undone")
    assert world.get("/api/v1/namespaces/runtime-undone")


def test_a_server_that_is_full_is_tried_alone_and_a_changed_spec_at_once(operator):
    world = operator
    # The shared collection has a role too, for all of its tenants: made before Milvus is full.
    world.tenant("roomy", "pro")
    world.ready("roomy")
    with world.vectors() as client:
        fillers = [f"filler_{n}" for n in range(100 - len(client.list_roles()))]
        for role in fillers:
            client.create_role(role)
        try:
            uid = world.tenant("crowded", "enterprise")
            assert "proxy.maxRoleNum" in removed(world, "crowded", "CapacityExhausted")
            assert nothing(world, "crowded", uid)
            # While it tries is a moment that may pass unseen; only a try that failed is followed by a removal.
            until(lambda: state(world, "crowded") in ("Trying", "Removing"), "it is tried again", 60)
            until(lambda: state(world, "crowded") == "Removed", "and taken back", 60)
            assert world.get("/api/v1/namespaces/tenant-crowded") is None
            assert not world.roles("crowded")
            # What was fixed at first provisioning is not, if there was none: a partition needs no role.
            world.change("crowded", tier="pro")
            assert world.ready("crowded", 60)["status"]["pinned"]["vectorIsolation"] == "Partition"
        finally:
            for role in fillers:
                client.drop_role(role)


def test_a_spec_that_becomes_wrong_half_way_and_a_store_that_is_away(operator):
    world = operator
    away = {**region(world, "later")["spec"]["postgres"], "port": 1}
    world.create(f"{GROUP}/dataregions", region(world, "later", default=False, postgres=away))
    try:
        uid = world.tenant("halfway", "pro", region="later")
        world.says("halfway", "DatabaseUnavailable")
        until(lambda: world.condition("halfway", "VectorsReady").get("status") == "True", "vectors are made", 60)
        assert state(world, "halfway") == ""  # what passes takes nothing back
        world.change("halfway", tier="no-such-tier")
        until(lambda: "can't be removed yet" in world.says("halfway", "UnknownTier"), "it says that it waits", 60)
        assert world.places(uid)
        world.patch(f"{GROUP}/dataregions/later", {"spec": {"postgres": region(world, "later")["spec"]["postgres"]}})
        removed(world, "halfway", "UnknownTier")
        assert nothing(world, "halfway", uid)
    finally:
        world.patch(f"{GROUP}/dataregions/later", {"spec": {"postgres": region(world, "later")["spec"]["postgres"]}})
        world.deleted("halfway")
        world.remove(f"{GROUP}/dataregions/later")
