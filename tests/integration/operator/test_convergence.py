"""What was deleted unseen comes back; what is away is waited for; what is killed goes on."""

import random
import time

from tests.integration.operator.world import GROUP, World, until

SEED = 20261122


def test_an_event_of_a_deletion_missed_while_nobody_watched(operator):
    world = operator
    world.tenant("missed")
    world.ready("missed")
    world.stop()
    world.remove("/api/v1/namespaces/tenant-missed/limitranges/" + first(world, "limitranges"))
    world.remove(f"{GROUP}/namespaces/tenant-missed/accesskeys/default")
    world.start()
    until(lambda: first(world, "limitranges"), "the LimitRange is back", 30)
    until(lambda: world.secret("tenant-missed", "accesskey-default"), "the key is back", 30)
    world.ready("missed")
    world.stop()
    world.patch("/api/v1/namespaces/tenant-missed", {"metadata": {"labels": {"tenantry.dev/tenant": None}}})
    world.remove(f"{GROUP}/tenants/missed")
    world.start()
    world.deleted("missed")
    assert world.get("/api/v1/namespaces/tenant-missed") is None, "it is removed although it lost its label"


def first(world: World, plural: str) -> str:
    items = (world.get(f"/api/v1/namespaces/tenant-missed/{plural}") or {"items": []})["items"]
    return str(items[0]["metadata"]["name"]) if items else ""


def test_without_postgresql_the_rest_goes_on_and_it_heals(operator):
    world = operator
    world.tenant("before")
    world.ready("before")
    world.postgres.stop()
    try:
        uid = world.tenant("during")
        message = world.says("during", "DatabaseUnavailable", "DatabaseReady", 60)
        assert "password" not in message.lower() or "only-for-this-test" not in message
        until(lambda: world.condition("during", "VectorsReady").get("status") == "True", "vectors go on", 30)
        assert world.condition("during", "NamespacesReady")["status"] == "True"
        assert world.condition("during", "Stalled")["status"] == "False"
        assert world.places(uid)
    finally:
        world.postgres.start()
    world.ready("during", 120)
    world.ready("before", 60)


def test_killed_at_random_moments_everything_still_converges(operator):
    world = operator
    rng = random.Random(SEED)
    tiers = ("free", "pro", "free", "enterprise")
    uids: dict[str, str] = {}
    deleted: dict[str, str] = {}
    for step in range(9):
        name = f"kill-{step}"
        uids[name] = world.tenant(name, tiers[step % len(tiers)])
        if step % 3 == 2:
            gone = rng.choice(sorted(uids))
            deleted[gone] = uids.pop(gone)
            world.remove(f"{GROUP}/tenants/{gone}")
        if uids and step % 2:
            world.change(rng.choice(sorted(uids)), ai={"customInstructions": f"step {step}"})
        time.sleep(rng.uniform(0.05, 1.5))
        world.replicas[-1].kill()
        world.start()
    for name in uids:
        world.ready(name, 120)
    for name, uid in deleted.items():
        until(lambda n=name: world.get(f"{GROUP}/tenants/{n}") is None, f"{name} is gone", 120)
        assert [p for p in world.places(uid) if not p.startswith("shared_")] == []
        assert not world.schemas(name)
        assert not world.roles(name)
    for name in uids:
        schema = f"tenant_{name.replace('-', '_')}"
        assert world.schemas(name) == {schema, f"{schema}__runtime"}
    status, said = world.scan()
    assert status == 0, said


def test_the_scan_finds_what_nobody_owns(operator):
    world = operator
    uid = "00000000-1111-4222-8333-444444444444"
    world.tenant("living", "enterprise")
    world.ready("living")
    assert world.scan()[0] == 0
    world.rows(f"CREATE ROLE tenant_dead; COMMENT ON ROLE tenant_dead IS 'tenantry.dev/tenant-uid={uid}'")
    world.create(
        "/api/v1/namespaces",
        {
            "metadata": {
                "name": "tenant-dead",
                "labels": {"tenantry.dev/tenant": "dead", "app.kubernetes.io/managed-by": "tenantry"},
                "annotations": {"tenantry.dev/tenant-uid": uid},
            }
        },
    )
    partition = f"t_{uid.replace('-', '')}"
    with world.vectors() as client:
        shared = next((c for c in client.list_collections() if c.startswith("shared_")), None)
        if shared:
            client.create_partition(shared, partition)
    try:
        status, said = world.scan()
        assert status == 1
        for name in ("tenant_dead", "tenant-dead", *([partition] if shared else [])):
            assert name in said
        assert "living" not in said
    finally:
        world.rows("DROP ROLE tenant_dead")
        world.remove("/api/v1/namespaces/tenant-dead")
        if shared:
            with world.vectors() as client:
                client.release_partitions(shared, [partition])
                client.drop_partition(shared, partition)
    assert "only-for-this-test" not in said


def test_of_two_replicas_one_works_and_the_other_takes_over(operator):
    world = operator
    leader = world.replicas[-1]
    world.tenant("handed")
    world.ready("handed")
    standby = world.start("standby")
    until(lambda: metrics_answer(standby), "the standby serves its probes", 30)
    assert standby.value("tenantry_leader") == 0
    leader.kill()
    started = time.monotonic()
    world.change("handed", ai={"customInstructions": "after"})
    until(lambda: standby.value("tenantry_leader") == 1, "the standby leads", 15)
    assert time.monotonic() - started <= 15
    world.ready("handed")


def metrics_answer(replica) -> bool:
    try:
        replica.value("tenantry_leader")
    except Exception:
        return False
    return True


def test_one_region_that_is_away_slows_nobody_elsewhere(operator):
    world = operator
    from tests.integration.operator.world import region

    login = {**region(world, "gone")["spec"]["postgres"], "host": "127.0.0.1", "port": 1}
    world.create(f"{GROUP}/dataregions", region(world, "gone", default=False, postgres=login))
    try:
        for number in range(20):
            world.tenant(f"lost-{number}", region="gone")
        world.says("lost-19", "DatabaseUnavailable", "DatabaseReady", 60)
        started = time.monotonic()
        world.tenant("fine")
        world.ready("fine", 30)
        assert time.monotonic() - started < 15, "a user would wonder"
    finally:
        # Nothing was made in a PostgreSQL that never answered; the region gets a real one so that this can be seen.
        whole = region(world, "gone", default=False)["spec"]
        world.patch(f"{GROUP}/dataregions/gone", {"spec": {"postgres": whole["postgres"]}})
        world.deleted("fine", *(f"lost-{n}" for n in range(20)), seconds=150)
        world.remove(f"{GROUP}/dataregions/gone")
