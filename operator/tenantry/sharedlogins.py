"""The Milvus users of shared collections: which there are, which is next, and which nobody can hold any more.

No effects: what Milvus has is told to it.

The runtimes of all tenants in one shared collection use one Milvus user.  Its users are counted from 0, each with a
name and a password of its own.  Which there are is kept nowhere but in Milvus, so that no two tenants can disagree:

- new tenants take the newest one;
- a tenant's rotation goes with a newer user than the tenant had: with the newest, or with the next, which is made then;
- a tenant that has not the newest is due for its rotation;
- one that no tenant can hold any more ends: each has to be at rest (tenantry.rotation), which says that none of its
  processes has a login from before.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from tenantry.api import Tenant
from tenantry.api.tenant import RotatedCredentials as State
from tenantry.backends.observed import LOST

MOST = 3
"""Users of one collection at the same time.  With two, one tenant that can't roll would keep all others from it."""

Collection = tuple[str, str]
"""Region and name."""


class Placed(NamedTuple):
    """Of one Tenant, what is asked of all of them at once."""

    identity: str
    pinned: bool
    """Whether it is known where its vectors lie."""
    collection: Collection | None
    """The shared collection that it is in."""
    was_ready: bool
    rolling: bool


def collection(tenant: Tenant) -> Collection | None:
    pinned = tenant.pinned
    if pinned is None or pinned.vector_isolation != "Partition" or not pinned.collection:
        return None
    return sys.intern(pinned.region), sys.intern(pinned.collection)


def placed(tenant: Tenant) -> Placed:
    state = tenant.status.credentials if tenant.status else None
    rolling = state is not None and state.rolling
    return Placed(tenant.identity, tenant.pinned is not None, collection(tenant), tenant.was_ready, rolling)


Runtimes = Callable[[], Iterable[tuple[str, str]]]
"""Of each Deployment of a runtime: its tenant's name and UID."""


class SharedLogins:
    def __init__(self, tenants: Mapping[str, Placed], runtimes: Runtimes) -> None:
        """`tenants` by name, as they are at any time."""
        self._tenants = tenants
        self._runtimes = runtimes
        self._there: dict[Collection, frozenset[int]] = {}
        self._used: dict[str, int] = {}
        """By UID: what was last given out; it may be on its way into a Secret."""

    def note(self, where: Collection, there: frozenset[int]) -> None:
        """The users that Milvus has."""
        self._there[where] = there

    def rolling(self) -> int:
        """Tenants whose runtimes are being replaced by newer ones."""
        return sum(t.rolling for t in self._tenants.values())

    def next(self, where: Collection | None, user: int, asked: bool) -> int | None:
        """Which user the next generation of a tenant that had `user` goes with; None: that has to wait."""
        if where is None:
            return max(user, 0)
        there = self._there.get(where)
        if there is None:
            return None
        newest = max(there, default=user)
        if user < newest:
            return newest
        if there and len(there) < MOST:
            return user + 1
        return None if asked and there else max(user, 0)

    def behind(self, where: Collection | None, user: int) -> bool:
        """Whether others of its collection have gone on to a newer user."""
        there = self._there.get(where, frozenset()) if where else frozenset()
        return len(there) > 1 and user < max(there)

    def settled(self, where: Collection, state: State, fresh: bool) -> State:
        """The state, with its user where what Milvus has leaves no doubt; `fresh`: nothing was made of the tenant."""
        there = self._there[where]
        newest = max(there, default=0)
        if (fresh or len(there) < 2) and state.shared_user < newest:
            return state.model_copy(update={"shared_user": newest})
        return state

    def used(self, where: Collection, user: int, uid: str) -> int:
        """The one to use now: the newest, where the tenant's own is gone or not known."""
        there = self._there[where]
        newest = max(there, default=0)
        self._used[uid] = user if user in there or user > newest else newest
        return self._used[uid]

    def forget(self, uid: str) -> None:
        self._used.pop(uid, None)

    def ended(self, where: Collection | None, states: Mapping[str, State]) -> tuple[int, ...]:
        """Those that nobody can hold any more.  `states`: by UID, of the tenants that this process has looked at."""
        there = self._there.get(where, frozenset()) if where else frozenset()
        if len(there) < 2:
            return ()
        held = {max(there)}
        for tenant in self._tenants.values():
            if tenant.collection != where:
                continue
            state = states.get(tenant.identity)
            held |= {self._used[tenant.identity]} if tenant.identity in self._used else set()
            if state is None:
                if tenant.was_ready:
                    return ()
                continue  # else it has a runtime, which is looked for below
            if state.rolling or state.draining or state.shared_user not in there:
                return ()
            held.add(state.shared_user)
        if held >= there or any(self._unknown(where, *runtime, states) for runtime in self._runtimes()):
            return ()
        return tuple(sorted(there - held))

    def _unknown(self, where: Collection | None, name: str, owner: str, states: Mapping[str, State]) -> bool:
        """A runtime of which nobody can say which user it holds, such as one whose Tenant can't be read."""
        tenant = self._tenants.get(name)
        if tenant is None or owner not in (tenant.identity, LOST):
            return True
        return (not tenant.pinned or tenant.collection == where) and tenant.identity not in states
