from tenantry import names
from tenantry.backends.kinds import ACCESS_KEY, REGION, TENANT, TIER
from tenantry.view import View
from tests import samples


def tenant(name="acme", version=1, uid="", **spec):
    made = samples.manifest(name, **spec)
    made["metadata"] |= {"uid": uid or samples.uid(name), "resourceVersion": str(version), "generation": version}
    return made


def named(kind, name, spec, version=1, namespace=""):
    meta = {"name": name, "uid": samples.uid(name), "resourceVersion": str(version), "generation": version}
    if namespace:
        meta["namespace"] = namespace
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": meta, "spec": spec}


def test_a_change_concerns_its_tenant_and_a_status_alone_nobody():
    view = View()
    assert view.put(TENANT, tenant()) == {"acme"}
    again = {**tenant(version=2), "status": {"tier": "free"}}
    again["metadata"]["generation"] = 1
    assert view.put(TENANT, again) == set()
    assert view.tenants["acme"].status is not None
    assert view.put(TENANT, tenant(version=3, suspended=True)) == {"acme"}


def test_who_wrote_to_a_tenants_spec_last_is_known_by_the_field_manager():
    view = View()
    made = tenant()

    def entry(manager, time, **fields):
        return {"manager": manager, "time": f"2026-11-22T{time}:00Z", "operation": "Apply", "fieldsV1": fields}

    made["metadata"]["managedFields"] = [
        entry("argocd", "10:00", **{"f:spec": {"f:tier": {}}}),
        entry("kubectl", "11:00", **{"f:spec": {"f:suspended": {}}}),
        entry("tenantry", "12:00", **{"f:metadata": {"f:finalizers": {}}}),
    ]
    view.put(TENANT, made)
    assert view.tenants["acme"].metadata.changed_by == "kubectl"
    view.put(TENANT, tenant("restored"))
    assert view.tenants["restored"].metadata.changed_by == ""


def test_a_late_event_does_not_undo_a_later_answer():
    view = View()
    view.put(TENANT, tenant(version=5, suspended=True))
    assert view.put(TENANT, tenant(version=4)) == set()
    assert view.tenants["acme"].spec.suspended
    assert view.put(TENANT, tenant(version=6, uid="made-again")) == {"acme"}


def test_the_answer_to_a_write_of_ours_is_no_news_but_what_came_with_it_is():
    view, told = View(), []
    view.notify = told.append
    view.put(TENANT, tenant())
    claimed = tenant(version=2)
    claimed["metadata"] |= {"generation": 1, "finalizers": ["x"], "annotations": {names.PINNED_ANNOTATION: "{}"}}
    view.learn(TENANT, claimed)
    assert told == []
    assert view.tenants["acme"].metadata.finalizers == ("x",)
    view.learn(TENANT, {**claimed, "metadata": {**claimed["metadata"], "resourceVersion": "3", "generation": 2}})
    assert told == ["acme"]


def test_a_late_answer_does_not_bring_back_what_was_deleted():
    view = View()
    view.put(TENANT, tenant())
    view.drop(TENANT, tenant(version=3))
    view.learn(TENANT, tenant(version=2))
    assert view.tenants == {}
    assert view.put(TENANT, tenant(version=4, uid="made-again")) == {"acme"}


def test_a_tier_concerns_its_tenants_and_a_region_those_without_one_too():
    view = View()
    view.put(TENANT, tenant("acme"))
    view.put(TENANT, tenant("globex", tier="pro"))
    assert view.put(TIER, samples.tier_manifest("pro") | {"metadata": {"name": "pro", "uid": "t"}}) == {"globex"}
    assert view.put(REGION, named(REGION, "main", samples.REGION)) == {"acme", "globex"}


def test_a_key_concerns_the_tenant_of_its_namespace_and_no_other():
    view = View()
    view.put(TENANT, tenant("acme"))
    assert view.put(ACCESS_KEY, named(ACCESS_KEY, "ci", {}, namespace="tenant-acme--dev")) == {"acme"}
    assert view.put(ACCESS_KEY, named(ACCESS_KEY, "ci", {}, namespace="tenant-other")) == set()
    assert view.put(ACCESS_KEY, named(ACCESS_KEY, "ci", {}, namespace="acme")) == set()


def test_a_list_finds_what_a_watch_missed():
    view = View()
    for made in (tenant("acme"), tenant("globex", version=2), tenant("later", version=90)):
        view.put(TENANT, made)
    assert view.missing(TENANT, {("Tenant", "", "acme")}, 50) == {"globex"}
    assert set(view.tenants) == {"acme", "later"}


def test_what_is_not_understood_is_named_and_harms_nobody(caplog):
    view = View()
    broken = tenant("acme")
    broken["spec"]["namespaces"] = "no list"
    assert view.put(TENANT, broken) == {"acme"}
    assert "acme" in caplog.text
    assert not view.tenants


def test_what_can_not_be_read_is_kept_apart_and_named_once():
    view = View()
    view.put(TENANT, tenant("beside"))
    view.put(TENANT, tenant("acme"))
    bad = tenant("acme", version=2)
    bad["spec"]["ai"] = {"temperature": "warm"}
    assert view.put(TENANT, bad) == {"acme"}
    assert view.put(TENANT, bad) == set()
    stored = view.unreadable[TENANT.kind, "", "acme"]
    assert "spec.ai.temperature" in stored.message
    assert "warm" not in stored.message
    assert "acme" not in view.tenants, "what it was before is not what is asked for now"
    assert "beside" in view.tenants
    assert view.put(TENANT, tenant("acme", version=3)) == {"acme"}
    assert not view.unreadable
    view.put(TENANT, {**bad, "metadata": {**bad["metadata"], "resourceVersion": "4"}})
    assert view.missing(TENANT, {(TENANT.kind, "", "beside")}, 10) == {"acme"}
    assert not view.unreadable


def test_a_status_that_can_not_be_read_is_written_anew():
    view = View()
    pinned = {
        "region": "main", "databaseIsolation": "Schema", "vectorIsolation": "Partition",
        "embeddingModel": "m", "dimension": 8, "metric": "COSINE",
    }  # fmt: skip
    assert view.put(TENANT, {**tenant(), "status": {"conditions": "all well", "pinned": pinned}}) == {"acme"}
    status = view.tenants["acme"].status
    assert status is not None
    assert status.pinned is not None
    assert status.pinned.region == "main"
    for status in ("lost", {"pinned": 7, "conditions": [{"type": 5}]}):
        view = View()
        assert view.put(TENANT, {**tenant(), "status": status}) == {"acme"}
        assert view.tenants["acme"].pinned is None


def test_a_tier_that_can_not_be_read_concerns_its_tenants():
    view = View()
    view.put(TENANT, tenant())
    good = samples.tier_manifest("free")["spec"]
    view.put(TIER, named(TIER, "free", good))
    assert view.put(TIER, named(TIER, "free", {**good, "quota": "much"}, version=2)) == {"acme"}
    assert "free" not in view.tiers
    assert view.put(TIER, named(TIER, "free", good, version=3)) == {"acme"}
    assert "free" in view.tiers


def test_a_key_whose_user_no_database_takes_is_kept_apart():
    """From before the schema refused it: with it, not one of the tenant's keys could be written or taken away."""
    view = View()
    view.put(TENANT, tenant())
    for name, user in (("bad", "a\x00b"), ("good", "a b")):
        made = named(ACCESS_KEY, name, {"user": user})
        made["metadata"]["namespace"] = "tenant-acme"
        view.put(ACCESS_KEY, made)
    assert list(view.keys["tenant-acme"]) == ["good"]
    assert "spec.user" in view.unreadable[ACCESS_KEY.kind, "tenant-acme", "bad"].message
