import hashlib

from tenantry import names
from tenantry.backends.compare import holds
from tenantry.backends.kinds import CHILDREN
from tenantry.backends.kubernetes import owned
from tenantry.backends.observed import GRAVE_SECONDS, Observed, Rollout

QUOTA = next(k for k in CHILDREN if k.kind == "ResourceQuota")


def quota(version: int, tenant: str = "acme", uid: str = "1", name: str = "tenant", **spec):
    return {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {
            "name": name,
            "namespace": "tenant-acme",
            "uid": uid,
            "resourceVersion": str(version),
            "labels": {names.TENANT_LABEL: tenant},
            "managedFields": [{"manager": "tenantry"}],
        },
        "spec": spec or {"hard": {"pods": "10"}},
    }


def has(observed: Observed, name: str = "tenant"):
    return observed.get(("ResourceQuota", "tenant-acme", name))


def test_the_newer_one_wins_whatever_comes_first():
    observed = Observed()
    assert observed.put(quota(9, hard={"pods": "2"})) == {"acme"}
    assert observed.put(quota(10, hard={"pods": "3"})) == {"acme"}
    assert observed.put(quota(8, hard={"pods": "1"})) == set()
    assert has(observed)["spec"] == {"hard": {"pods": "3"}}
    assert len(observed.of_tenant("acme")) == 1


def test_what_lost_its_labels_is_gone_until_it_has_them_again():
    observed = Observed()
    observed.put(quota(5))
    without = quota(6)
    without["metadata"]["labels"] = {}
    assert observed.drop(without) == {"acme"}, "a watch that selects by labels calls it deleted"
    observed.put(without)
    observed.put(quota(5))
    assert observed.of_tenant("acme") == []
    observed.put(quota(7))  # the answer to our own write
    assert len(observed.of_tenant("acme")) == 1
    observed.drop(without)  # the watch is late
    assert len(observed.of_tenant("acme")) == 1
    assert observed.drop(quota(8)) == {"acme"}
    assert observed.of_tenant("acme") == []


def test_only_what_we_look_at_is_news():
    observed = Observed()
    observed.put(quota(9))
    assert observed.put({**quota(10), "status": {"used": {"pods": "3"}}}) == set()
    before = observed.changes["acme"]
    assert observed.put(quota(11, hard={"pods": "3"}), ours=True) == {"acme"}
    assert observed.changes["acme"] == before, "our own write asks for no other look"
    assert observed.put(quota(12, hard={"pods": "4"})) == {"acme"}
    assert observed.changes["acme"] == before + 1


def test_what_is_kept_is_what_came():
    observed = Observed()
    made = with_annotation("b" * 32)
    made["spec"] = {"scopes": ["tenant-acme", "acme", "\x00\x01\x02"], "digest": "0123456789abcdef" * 4}
    made["metadata"]["deletionTimestamp"] = "2026-11-22T00:00:00Z"
    observed.put(made)
    kept = has(observed)
    assert kept["spec"] == made["spec"]
    assert kept["metadata"]["annotations"] == made["metadata"]["annotations"]
    assert kept["metadata"]["labels"] == made["metadata"]["labels"]
    assert (kept["metadata"]["uid"], kept["metadata"]["resourceVersion"]) == ("1", "1")
    assert kept["metadata"]["deletionTimestamp"]
    assert "managedFields" not in kept["metadata"]


def test_tenants_that_differ_in_name_and_uid_only_share_one_text():
    observed = Observed()
    for tenant in ("acme", "globex"):
        made = quota(1, tenant=tenant)
        made["metadata"] |= {"namespace": f"tenant-{tenant}", "annotations": {names.UID_ANNOTATION: tenant * 4}}
        made["spec"] = {"of": f"tenant-{tenant}", "digest": hashlib.sha256(tenant.encode()).hexdigest()}
        observed.put(made)
    texts = [seen.text for tenant in ("acme", "globex") for _, seen in observed.of_tenant(tenant)]
    assert len(texts) == 2
    assert texts[0] is texts[1]


def test_a_late_event_does_not_bring_back_what_is_gone_but_a_new_one_of_its_name_is_there():
    observed = Observed()
    observed.put(quota(5))
    assert observed.drop(quota(6)) == {"acme"}
    observed.put(quota(5))
    assert observed.of_tenant("acme") == []
    observed.put(quota(7, uid="2"))
    assert len(observed.of_tenant("acme")) == 1
    assert observed.drop(quota(6)) == set(), "late news of the first one"
    assert len(observed.of_tenant("acme")) == 1


def test_what_lost_our_labels_and_got_them_back_is_there_again():
    observed = Observed()
    observed.put(quota(5))
    observed.drop(quota(6))  # what a watch with a selector says then
    observed.put(quota(7), ours=True)
    assert len(observed.of_tenant("acme")) == 1


def test_a_list_finds_what_a_watch_missed():
    observed = Observed()
    for made in (quota(5, name="a"), quota(6, name="b", tenant="other"), quota(90, name="later")):
        observed.put(made)
    assert observed.missing(QUOTA, {("ResourceQuota", "tenant-acme", "a")}, 50) == {"other"}
    assert [k[2] for k, _ in observed.of_tenant("acme")] == ["a", "later"]
    assert observed.of_tenant("other") == []


def test_of_a_tenant_that_ended_nothing_is_kept_for_ever():
    now = [0.0]
    observed = Observed(clock=lambda: now[0])
    observed.note(quota(0, name="asked-for")).applied = 7
    observed.put(quota(5))
    observed.forget("acme")
    observed.drop(quota(6))
    now[0] = GRAVE_SECONDS + 1
    observed.forget("another")
    assert observed._objects == {}
    assert observed._tenants == {}


def deployment(version: int, **status):
    made = {**quota(version), "kind": "Deployment", "apiVersion": "apps/v1", "status": status}
    made["metadata"]["generation"] = 2
    return made


def test_a_rollout_is_news_but_no_change():
    observed = Observed()
    observed.put(deployment(1, observedGeneration=1))
    before = observed.changes["acme"]
    key = ("Deployment", "tenant-acme", "tenant")
    assert not observed.rollout(key).current
    assert observed.put(deployment(2, observedGeneration=2, replicas=1, updatedReplicas=1)) == {"acme"}
    assert observed.rollout(key) == Rollout(True, 1, 1, 0, "")
    assert observed.put(deployment(3, observedGeneration=2, replicas=1, updatedReplicas=1, x=1)) == set()
    stuck = [{"type": "Progressing", "status": "False", "message": "no room"}]
    assert observed.put(deployment(4, observedGeneration=2, conditions=stuck)) == {"acme"}
    assert observed.rollout(key).failing == "no room"
    assert observed.changes["acme"] == before


def with_annotation(uid: str):
    made = quota(1)
    made["metadata"]["annotations"] = {names.UID_ANNOTATION: uid}
    return made


def test_ownership_goes_by_the_tenants_uid():
    assert owned(with_annotation("uid-1"), "uid-1")
    assert not owned(with_annotation("uid-2"), "uid-1")


def test_what_lost_its_annotation_is_known_by_the_field_manager():
    made = quota(1)
    assert not owned(made, "uid-1")
    made["metadata"]["managedFields"] = [{"manager": "tenantry", "operation": "Apply"}]
    assert owned(made, "uid-1")


def test_what_the_server_defaults_is_no_difference_where_it_may_default():
    desired = {"metadata": {"labels": {"a": "1"}}, "spec": {"replicas": 1, "containers": [{"name": "x"}]}}
    seen = {
        "metadata": {"labels": {"a": "1", "b": "2"}},
        "spec": {"replicas": 1, "strategy": "x", "containers": [{"name": "x", "tty": False}]},
        "status": {"x": 1},
    }
    assert holds(desired, seen, exact=False)
    assert not holds(desired, seen, exact=True)


def test_an_exact_kind_may_hold_nothing_more():
    desired = {"metadata": {}, "spec": {"hard": {"pods": "10"}}}
    assert holds(desired, {"metadata": {}, "spec": {"hard": {"pods": "10"}}}, exact=True)
    assert not holds(desired, {"metadata": {}, "spec": {"hard": {"pods": "10", "cpu": "1"}}}, exact=True)
    assert not holds(desired, {"metadata": {}, "spec": {"hard": {"pods": "11"}}}, exact=True)


def test_quantities_are_equal_however_they_are_written():
    assert holds({"metadata": {}, "spec": {"cpu": "1000m"}}, {"metadata": {}, "spec": {"cpu": "1"}}, exact=True)
    assert not holds({"metadata": {}, "spec": {"cpu": "1000m"}}, {"metadata": {}, "spec": {"cpu": "2"}}, exact=True)


def test_a_shorter_or_longer_list_is_a_difference():
    desired = {"metadata": {}, "spec": {"ports": [{"port": 1}]}}
    assert not holds(desired, {"metadata": {}, "spec": {"ports": []}}, exact=False)
    assert not holds(desired, {"metadata": {}, "spec": {"ports": [{"port": 1}, {"port": 2}]}}, exact=False)


def test_lost_labels_and_annotations_are_differences():
    desired = {"metadata": {"labels": {"a": "1"}, "annotations": {"b": "2"}}}
    assert not holds(desired, {"metadata": {"labels": {"a": "2"}, "annotations": {"b": "2"}}}, exact=False)
    assert not holds(desired, {"metadata": {"labels": {"a": "1"}}}, exact=False)


def test_a_selector_holds_nothing_more():
    desired = {"metadata": {}, "spec": {"selector": {"app": "runtime"}}}
    assert holds(desired, {"metadata": {}, "spec": {"selector": {"app": "runtime"}, "clusterIP": "10.0.0.1"}}, False)
    more = {"app": "runtime", "also": "this"}
    assert not holds(desired, {"metadata": {}, "spec": {"selector": more}}, False)
