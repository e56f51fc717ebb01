"""Which user of a shared collection is next, and which one can end."""

from __future__ import annotations

import pytest

from tenantry.api.tenant import RotatedCredentials as State
from tenantry.rotation import clock, closed, rolled_out
from tenantry.sharedlogins import MOST, Placed, SharedLogins, placed
from tests import samples

WHERE = ("main", "shared_1")
ELSEWHERE = ("main", "shared_2")
PIN = {
    "region": "main", "databaseIsolation": "Schema", "vectorIsolation": "Partition", "embeddingModel": "embed",
    "dimension": 4, "metric": "COSINE", "collection": "shared_1",
}  # fmt: skip


def member(name: str, collection: tuple[str, str] | None = WHERE, *, was_ready: bool = True) -> Placed:
    return Placed(name, True, collection, was_ready, False)


def logins(*there: int, tenants: tuple[Placed, ...] = (), runtimes: tuple[tuple[str, str], ...] = ()) -> SharedLogins:
    made = SharedLogins({t.identity: t for t in tenants}, lambda: runtimes)
    made.note(WHERE, frozenset(there))
    return made


def test_where_a_tenant_is() -> None:
    pinned = placed(samples.tenant("acme", status={"pinned": PIN}))
    assert (pinned.pinned, pinned.collection) == (True, WHERE)
    own = placed(samples.tenant("acme", status={"pinned": {**PIN, "vectorIsolation": "Collection"}}))
    assert (own.pinned, own.collection) == (True, None)
    assert not placed(samples.tenant("acme")).pinned


def test_the_next_user() -> None:
    one = logins(4)
    assert one.next(WHERE, 4, asked=True) == 5
    assert one.next(WHERE, 4, asked=False) == 5, "by age too"
    assert one.next(None, 0, asked=True) == 0, "a tenant with a user of its own"
    assert one.next(ELSEWHERE, 4, asked=True) is None, "Milvus was not asked yet"
    assert logins().next(WHERE, 0, asked=True) == 0, "nobody logs in there"
    both = logins(4, 5)
    assert both.next(WHERE, 4, asked=True) == 5, "the one that another tenant's rotation made"
    assert both.next(WHERE, 5, asked=True) == 6
    full = logins(*range(MOST))
    assert full.next(WHERE, MOST - 1, asked=True) is None, "a request waits"
    assert full.next(WHERE, MOST - 1, asked=False) == MOST - 1, "by age the tenant's other logins are rotated"


def test_what_is_used_and_what_is_known() -> None:
    both = logins(4, 5)
    assert both.used(WHERE, 4, "x") == 4
    assert both.used(WHERE, 6, "x") == 6, "its own rotation is about to make it"
    assert both.used(WHERE, 3, "x") == both.used(WHERE, -1, "x") == 5, "what is gone does not come back"
    assert (both.behind(WHERE, 4), both.behind(WHERE, 5), both.behind(None, 0)) == (True, False, False)
    assert both.settled(WHERE, State(shared_user=-1), fresh=False).shared_user == -1
    assert both.settled(WHERE, State(), fresh=True).shared_user == 5
    assert logins(5).settled(WHERE, State(shared_user=-1), fresh=False).shared_user == 5
    assert logins().settled(WHERE, State(shared_user=-1), fresh=False).shared_user == 0


def test_a_user_ends_when_nobody_can_hold_it() -> None:
    begun = State(generation=1, rotated_at=clock(), shared_user=1)
    draining = rolled_out(begun, clock(), clock() - clock())
    new, old = closed(draining), State()
    tenants = (member("x"), member("y"), member("z", ELSEWHERE))
    deployed = (("x", "x"), ("y", "y"), ("z", "z"))
    both = logins(0, 1, tenants=tenants, runtimes=deployed)
    assert both.ended(WHERE, {"x": new, "y": new}) == (0,)
    for state in (begun, draining, old, State(shared_user=-1)):
        assert both.ended(WHERE, {"x": new, "y": state}) == ()
    assert both.ended(WHERE, {"x": new}) == (), "a tenant that this process has not looked at"
    both.used(WHERE, 0, "y")
    assert both.ended(WHERE, {"x": new, "y": new}) == (), "it may be on its way into a Secret"
    three = logins(0, 1, 2, tenants=tenants, runtimes=deployed)
    newest = new.model_copy(update={"shared_user": 2})
    assert three.ended(WHERE, {"x": newest, "y": old}) == (1,), "one that can't roll keeps its own only"


@pytest.mark.parametrize(
    ("runtime", "ends"),
    [
        (("x", "x"), True),
        (("x", "lost"), True),  # somebody took our annotation from it
        (("gone", "gone"), False),  # its Tenant is deleted, or can't be read
        (("x", "before"), False),  # of a Tenant by the same name, which was not adopted yet
        (("new", "new"), False),
        (("unpinned", "unpinned"), False),
    ],
)
def test_a_runtime_that_nobody_can_tell_of_keeps_all_users(runtime: tuple[str, str], ends: bool) -> None:
    tenants = (member("x"), member("new", was_ready=False), Placed("unpinned", False, None, True, False))
    state = State(shared_user=1)
    assert bool(logins(0, 1, tenants=tenants, runtimes=(runtime,)).ended(WHERE, {"x": state})) is ends
