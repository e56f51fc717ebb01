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
    until(lambda: first(world, "limitranges"), "the LimitRange is back", 60)
    until(lambda: world.secret("tenant-missed", "accesskey-default"), "the key is back", 60)
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
