from tenantry import names
from tenantry.backends.compare import holds
from tenantry.backends.kinds import CHILDREN
from tenantry.backends.kubernetes import owned
from tenantry.backends.observed import Observed

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


def test_the_newer_one_wins_whatever_comes_first():
    observed = Observed()
    observed.put(quota(9, hard={"pods": "2"}))
    observed.put(quota(10, hard={"pods": "3"}))
    observed.put(quota(8, hard={"pods": "1"}))
    assert observed.get(("ResourceQuota", "tenant-acme", "tenant"))["spec"] == {"hard": {"pods": "3"}}
    assert len(observed.of_tenant("acme")) == 1


def test_what_lost_its_labels_is_gone_until_it_has_them_again():
    observed = Observed()
    observed.put(quota(5))
    without = quota(6)
    without["metadata"]["labels"] = {}
    assert observed.drop(without) == "acme", "a watch that selects by labels calls it deleted"
    observed.put(without)
    observed.put(quota(5))
    assert observed.of_tenant("acme") == []
    observed.put(quota(7))  # the answer to our own write
    assert len(observed.of_tenant("acme")) == 1
    observed.drop(without)  # the watch is late
    assert len(observed.of_tenant("acme")) == 1
    assert observed.drop(quota(8)) == "acme"
    assert observed.of_tenant("acme") == []


def test_a_late_event_does_not_bring_back_what_is_gone_but_a_new_one_of_its_name_is_there():
    observed = Observed()
    observed.put(quota(5))
    observed.drop(quota(6))
    observed.put(quota(5))
    assert observed.of_tenant("acme") == []
    observed.put(quota(7, uid="2"))
    assert len(observed.of_tenant("acme")) == 1


def test_a_list_finds_what_a_watch_missed():
    observed = Observed()
    observed.put(quota(5, name="a"))
    observed.put(quota(6, name="b", tenant="other"))
    assert observed.replace(QUOTA, [quota(5, name="a"), quota(9, name="c")]) == {"other", "acme"}
    assert [o["metadata"]["name"] for o in observed.of_tenant("acme")] == ["a", "c"]
    assert observed.replace(QUOTA, [quota(5, name="a"), quota(9, name="c")]) == set()


def test_managed_fields_are_not_kept():
    observed = Observed()
    observed.put(quota(1))
    assert "managedFields" not in observed.of_tenant("acme")[0]["metadata"]


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
