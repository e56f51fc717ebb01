from tenantry import names
from tenantry.backends.inventory import Stored
from tenantry.scan import judge

ALIVE = "11111111-2222-4333-8444-555555555555"
GONE = "99999999-2222-4333-8444-555555555555"


def test_what_lives_is_no_finding_in_either_spelling():
    things = [
        Stored("PostgreSQL", "schema", "tenant_acme", names.bare(ALIVE)),
        Stored("Milvus", "user", f"t_{names.short(ALIVE)}_a", names.short(ALIVE)),
    ]
    assert judge(things, {ALIVE}, "main") == []


def test_what_belongs_to_nobody_is_named():
    (found,) = judge([Stored("PostgreSQL", "role", "tenant_old", names.bare(GONE))], {ALIVE}, "main")
    assert (found.verdict, found.where, found.name) == ("orphan", "PostgreSQL of main", "tenant_old")


def test_an_archived_audit_is_no_orphan_and_excuses_none():
    gone = names.bare(GONE)
    things = [
        Stored("PostgreSQL", "archived audit", "old: 7 rows until 2027-01-31", gone, archived=True),
        Stored("PostgreSQL", "role", "tenant_old", gone),
    ]
    assert sorted(f.verdict for f in judge(things, {ALIVE}, "main")) == ["archived", "orphan"]


def test_what_was_kept_on_purpose_is_told_apart_in_milvus_too():
    kept = names.bare(GONE)
    things = [
        Stored("PostgreSQL", "schema", f"retained_{kept}", kept, retained=True),
        Stored("Milvus", "collection", f"t_{kept}", kept),
        Stored("Milvus", "user", f"t_{names.short(GONE)}_a", names.short(GONE)),
    ]
    found = {f.name: f.verdict for f in judge(things, {ALIVE}, "main")}
    assert found[f"t_{kept}"] == found[f"retained_{kept}"] == "retained"
    assert found[f"t_{names.short(GONE)}_a"] == "orphan", "a retained tenant has no login left"
