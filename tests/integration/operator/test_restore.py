"""New UIDs for old things: a cluster restored from a backup, CRDs deleted and applied again, a Tenant that is back."""

import subprocess
import sys

from tests import samples
from tests.controlplane import CRDS
from tests.integration.operator.restore import (
    Marked,
    accepted,
    adopt,
    backup,
    drop_retained,
    lose,
    restore,
)
from tests.integration.operator.world import GROUP, NAMESPACE, World, region, until


def settled(world: World, name: str) -> None:
    """What was made for the new UID before it stalled is removed again."""
    until(
        lambda: (world.seen(name).get("status", {}).get("rolledBack") or {}).get("state") == "Removed",
        f"{name} waits for a person",
        90,
    )


def test_a_cluster_restored_under_new_uids_waits_for_a_person_and_has_its_data(operator):
    world = operator
    own = {"database": {"isolation": "Database"}, "owners": [{"kind": "User", "name": "alice"}]}
    uids = {"alpha": world.tenant("alpha", "enterprise", **own), "beta": world.tenant("beta")}
    for name in uids:
        world.ready(name)
    marked = {name: Marked(world, name, uid).write() for name, uid in uids.items()}
    logins = {name: marked[name].login() for name in uids}
    keys = {name: world.secret(f"tenant-{name}", "accesskey-default") for name in uids}
    pinned = {name: world.seen(name)["status"]["pinned"] for name in uids}
    saved = [o for name in uids for o in backup(world, name)]
    places = {uid: world.places(uid) for uid in uids.values()}

    world.stop()
    lose(world, *uids)
    restore(world, saved)
    world.start()
    for name, uid in uids.items():
        message = world.says(name, "ForeignObject")
        assert f"tenantry.dev/adopt-uid={uid}" in message
        assert world.condition(name, "Stalled")["status"] == "True"
    for name, uid in uids.items():
        settled(world, name)
        new = world.seen(name)["metadata"]["uid"]
        assert new != uid
        assert world.places(new) == []
        assert world.places(uid) == places[uid]
        assert world.get(f"/apis/apps/v1/namespaces/runtime-{name}/deployments/runtime")
        assert accepted(logins[name])

    # What does not fit is refused, and changes nothing.
    for wrong, why in (
        ("alpha", "it is no UID"),
        ("00000000-1111-4222-8333-444444444444", f"carries the UID {uids['alpha']}"),
        (world.seen("beta")["metadata"]["uid"], "another Tenant that is there has it"),
    ):
        adopt(world, "alpha", wrong)
        until(lambda w=why: w in world.says("alpha", "AdoptionRefused"), why, 60)
    assert accepted(logins["alpha"])

    for name, uid in uids.items():
        adopt(world, name, uid)
    for name, uid in uids.items():
        status = world.ready(name, 120)["status"]
        assert status["adoptedUid"] == uid
        assert status["pinned"] == pinned[name]
        marked[name].check()
        assert (
            world.get(f"/api/v1/namespaces/tenant-{name}")["metadata"]["annotations"]["tenantry.dev/tenant-uid"] == uid
        )
        login = marked[name].login()
        assert accepted(login)
        assert login["password"] == logins[name]["password"]
        key = world.secret(f"tenant-{name}", "accesskey-default")
        assert key
        assert key["api-key"] != keys[name]["api-key"]  # an AccessKey of another UID is another key
        assert world.keys(name) == {"default"} if name == "beta" else True
    # It stays so without the annotation; and where the installation's secret was lost, new passwords are set.
    adopt(world, "beta", None)
    world.stop()
    world.remove(f"/api/v1/namespaces/{NAMESPACE}/secrets/tenantry-master")
    world.start()
    for name in uids:
        until(lambda n=name: not accepted(logins[n]), f"the old password of {name} is refused", 60)  # type: ignore[misc]
        until(lambda n=name: accepted(marked[n].login()), f"{name} has a new one", 60)  # type: ignore[misc]
        assert world.ready(name, 90)["status"]["adoptedUid"] == uids[name]
        marked[name].check()
    assert world.scan()[0] == 0
    # And a deletion takes what was adopted.
    world.deleted(*uids)
    for name, uid in uids.items():
        assert [p for p in world.places(uid) if not p.startswith("shared_")] == []
        assert not world.roles(name)
        assert world.get(f"/api/v1/namespaces/tenant-{name}") is None
    assert world.rows("SELECT count(*) FROM pg_database WHERE datname = 'tenant_alpha'") == [(0,)]


def test_a_deleted_tenant_that_comes_back_starts_empty(operator):
    world = operator
    uid = world.tenant("ghost", deletion={"policy": "Retain"})
    world.ready("ghost")
    Marked(world, "ghost", uid).write()
    world.deleted("ghost")
    try:
        world.create(f"{GROUP}/tenants", samples.manifest("ghost", deletion={"policy": "Delete"}))
        adopt(world, "ghost", uid)
        until(lambda: "retained" in world.says("ghost", "AdoptionRefused"), "it says that it was retained", 60)
        adopt(world, "ghost", None)
        world.ready("ghost")
        assert world.rows("SELECT count(*) FROM pg_class WHERE relname = 'precious'") == [(1,)]
        login = Marked(world, "ghost", uid).login()
        retained = f"retained_{uid.replace('-', '')}"
        assert world.rows("SELECT has_schema_privilege('tenant_ghost', %s, 'USAGE')", retained) == [(False,)]
        assert world.rows("SELECT has_schema_privilege('tenant_ghost__runtime_a', %s, 'USAGE')", retained) == [(False,)]
        assert accepted(login)
    finally:
        world.deleted("ghost")
        drop_retained(world, uid)


def test_crds_deleted_and_applied_again(operator):
    world = operator
    uid = world.tenant("survivor", "enterprise")
    world.ready("survivor")
    marked = Marked(world, "survivor", uid).write()
    login = marked.login()
    crds = sorted(path.stem for path in CRDS.glob("*.yaml"))
    saved = world.plane.kubectl("get", "tenants,tenanttiers,dataregions,accesskeys", "-A", "-o", "yaml").stdout
    world.plane.kubectl("delete", "--wait=false", "crd", *(f"{name}.tenantry.dev" for name in crds))
    assert "CustomResourceDefinition itself" in world.says("survivor", "DeletionProtected")
    assert world.condition("survivor", "Stalled")["status"] == "True"
    assert world.get("/apis/apps/v1/namespaces/runtime-survivor/deployments/runtime")
    assert accepted(login)
    marked.check()

    # As docs/restore.md says.
    world.plane.kubectl("patch", "tenant", "survivor", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    tenants = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/tenants.tenantry.dev"
    until(lambda: world.get(tenants) is None, "the CRD is gone", 60)
    world.plane.install_crds()
    again = subprocess.run(
        [sys.executable, "-m", "tenantry.readopt"], input=saved, capture_output=True, text=True, check=True, timeout=60
    ).stdout
    world.plane.kubectl("apply", "-f", "-", stdin=again)
    seen = world.ready("survivor", 120)
    assert seen["metadata"]["uid"] != uid
    assert seen["status"]["adoptedUid"] == uid
    marked.check()
    assert accepted(login)
    assert world.keys("survivor") == {"default"}
    # Everything else serves as before.
    world.tenant("after")
    world.ready("after")


def test_what_another_tool_drops_comes_back(operator):
    world = operator
    uid = world.tenant("replaced", "enterprise")
    world.ready("replaced")
    marked = Marked(world, "replaced", uid).write()
    pinned = world.seen("replaced")["status"]["pinned"]
    # kubectl replace with a manifest that knows nothing of what the operator keeps in the metadata.
    manifest = samples.manifest("replaced", "enterprise", deletion={"policy": "Delete"}, suspended=True)
    answer = world.api.put(f"{GROUP}/tenants/replaced", json=manifest)
    assert answer.status_code == 422, "a replacement names the version that it replaces"
    manifest["metadata"]["resourceVersion"] = world.seen("replaced")["metadata"]["resourceVersion"]
    assert world.api.put(f"{GROUP}/tenants/replaced", json=manifest).status_code == 200

    def whole() -> bool:
        meta = world.seen("replaced")["metadata"]
        return "tenantry.dev/cleanup" in meta.get("finalizers", ()) and "tenantry.dev/pinned" in meta["annotations"]

    until(lambda: "annotations" in world.seen("replaced")["metadata"] and whole(), "finalizer and pins are back", 60)
    assert world.ready("replaced")["status"]["pinned"] == pinned
    marked.check()
    # Server-side apply by another manager, which takes over the fields and then leaves some out.
    manifest = samples.manifest("replaced", "pro", deletion={"policy": "Delete"})
    for body in (manifest, samples.manifest("replaced", "enterprise", deletion={"policy": "Delete"})):
        answer = world.api.patch(
            f"{GROUP}/tenants/replaced",
            params={"fieldManager": "argocd-controller", "force": "true"},
            json=body,
            headers={"Content-Type": "application/apply-patch+yaml"},
        )
        assert answer.status_code == 200, answer.text
    status = world.ready("replaced")["status"]
    assert whole()
    assert status["pinned"] == pinned
    assert world.seen("replaced")["metadata"]["uid"] == uid
    marked.check()
    # A status that somebody wiped is written again; the pins come from the annotation.
    world.patch(f"{GROUP}/tenants/replaced/status", {"status": None})
    assert world.ready("replaced")["status"]["pinned"] == pinned
    marked.check()


def test_a_region_made_again_serves_what_it_served(operator):
    """A DataRegion of a new UID, from a backup or after its CRD was deleted."""
    world = operator
    world.create(f"{GROUP}/dataregions", region(world, "second", default=False))
    try:
        uid = world.tenant("moved", region="second")
        world.ready("moved")
        marked = Marked(world, "moved", uid).write()
        world.remove(f"{GROUP}/dataregions/second")
        assert "create it" in world.says("moved", "UnknownRegion")
        world.create(f"{GROUP}/dataregions", region(world, "second", default=False))
        world.ready("moved", 90)
        marked.check()
        # Deleted meanwhile, it waits for the region: nothing is left behind.
        world.remove(f"{GROUP}/dataregions/second")
        world.says("moved", "UnknownRegion")
        world.remove(f"{GROUP}/tenants/moved")
        until(lambda: "deletionTimestamp" in world.seen("moved")["metadata"], "it is being deleted", 60)
        until(lambda: "empty ones" in world.says("moved", "UnknownRegion"), "the message says what to do", 60)
        assert world.schemas("moved")
        world.create(f"{GROUP}/dataregions", region(world, "second", default=False))
        until(lambda: world.get(f"{GROUP}/tenants/moved") is None, "it is gone", 120)
        assert not world.roles("moved")
        assert [p for p in world.places(uid) if not p.startswith("shared_")] == []
    finally:
        if world.get(f"{GROUP}/dataregions/second") is None:
            world.create(f"{GROUP}/dataregions", region(world, "second", default=False))
        world.deleted("moved", seconds=120)
        world.remove(f"{GROUP}/dataregions/second")
