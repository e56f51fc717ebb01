"""Whose turn it is among a tenant's logins, and when the next one's comes.

A tenant at rest accepts one generation n.  A rotation goes through:

1. rolling: n+1 is stored in the Tenant's status; then both n and n+1 are accepted; then the runtime's Secret holds
   n+1 and its Pods are replaced one by one.
2. draining, once every replica was seen to be new: Pods that are ending may still settle a call, and the tenant's own
   programs must read their Secret again.
3. at rest: n is closed, and its sessions are ended.

Each step may be done again.  Until 3, whatever of the two generations a Pod holds is accepted.  A forgotten status is
put together again from what PostgreSQL's roles say (`found`): no generation that was closed is opened again.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from tenantry import names, pauses
from tenantry.api import Resource, Tenant
from tenantry.api.conditions import Type
from tenantry.api.tenant import UNKNOWN
from tenantry.api.tenant import RotatedCredentials as State
from tenantry.credentials import Logins
from tenantry.desired.vectors import SharedUsers
from tenantry.desired.workload import GRACE_SECONDS
from tenantry.resolve import Resolved
from tenantry.sharedlogins import Collection, SharedLogins, collection

DRAIN = timedelta(seconds=GRACE_SECONDS + 90)
"""How long an ending Pod may live, and as much as a mounted Secret may be late, after every replica was seen new."""

LOOK_SECONDS = 3.0
"""Between two looks whether a login that drains is still in use."""

QUEUE_SECONDS = 60.0
"""Between two looks whether fewer tenants than ROLLING_AT_ONCE are rolled by age."""

ROLLING_AT_ONCE = 10
"""Tenants that are rolled by age at the same time; those asked for by a person are not held back."""

LONGEST_REQUEST = 128

FIRST_WAIT_SECONDS = 2.0
LONGEST_WAIT_SECONDS = 60.0
"""Between two tries to make room for one more user in a region's Milvus."""


@dataclass(frozen=True)
class Refusal:
    """A region's Milvus did not make one more user."""

    message: str
    tries: int
    until: datetime
    """Nobody tries again before."""


def clock() -> datetime:
    """Now, as the API server keeps times: in whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)


def logins(state: State, now: datetime, in_use: bool) -> Logins:
    """`in_use`: whether the runtime's login of the generation before has sessions; only asked while draining."""
    if state.rolling:
        return Logins(state.generation, True, True)
    if state.rolled_out_at and state.previous_until:
        return Logins(state.generation, in_use and now < state.rolled_out_at + DRAIN, now < state.previous_until)
    return Logins(state.generation)


def begun(state: State, now: datetime, request: str, shared_user: int = 0) -> State:
    """The next generation; to be stored before anything is made of it."""
    return State(
        generation=state.generation + 1,
        rotated_at=now,
        requested=request or state.requested,
        shared_user=shared_user,
    )


def rolled_out(state: State, now: datetime, overlap: timedelta) -> State:
    """Every replica is new.  `overlap`: how long the generation before was promised to others than the runtime."""
    assert state.rotated_at is not None
    until = max(now + DRAIN, state.rotated_at + overlap)
    return state.model_copy(update={"rolled_out_at": now, "previous_until": until})


def closed(state: State) -> State:
    return state.model_copy(update={"previous_until": None})


def found(seen: Logins, now: datetime, request: str, overlap: timedelta, shared_user: int = 0) -> State:
    """What the server has, where the status has forgotten it; a request that is there counts as heard."""
    state = State(generation=seen.generation, rotated_at=now, requested=request, shared_user=shared_user)
    return state if seen.database_previous else rolled_out(state, now, overlap)


def newest(states: Iterable[State | None]) -> State | None:
    """The one that is furthest; the first among equals."""
    return max(
        (s for s in states if s is not None),
        key=lambda s: (s.generation, s.rolled_out_at is not None, s.previous_until is None, s.shared_user),
        default=None,
    )


def request(resource: Resource) -> str:
    """What the annotation asks for, in at most 128 characters."""
    value = resource.metadata.annotations.get(names.ROTATE_ANNOTATION, "")
    if len(value) <= LONGEST_REQUEST:
        return value
    return "sha256:" + hashlib.sha256(value.encode()).hexdigest()


def jitter(uid: str) -> float:
    """Between 0.9 and 1.1, always the same for one tenant."""
    return 0.9 + 0.2 * int.from_bytes(hashlib.sha256(uid.encode()).digest()[:4]) / 2**32


def own_vectors(resolved: Resolved) -> bool:
    """Whether the tenant has a Milvus user of its own."""
    return resolved.vectors.isolation != "Partition" and resolved.region_spec.milvus.credentials_secret is not None


class Rotations:
    """What each tenant's state is, and whether its time has come.  Has no effects."""

    def __init__(self, rotate_after: timedelta | None, overlap: timedelta, shared: SharedLogins) -> None:
        self._age = rotate_after
        self._overlap = overlap
        self.shared = shared
        self._known: dict[str, State] = {}
        """By the tenant's UID: what this process has stored, and seen in PostgreSQL."""
        self._refused: dict[str, Refusal] = {}
        """By region; one tenant at a time finds out whether there is room now."""

    def state(self, tenant: Tenant, uid: str) -> State:
        stored = tenant.status.credentials if tenant.status else None
        if found := newest((stored, self._known.get(uid))):
            return found
        lost = collection(tenant) and not self.fresh(tenant, uid) and not tenant.was_ready
        return State(shared_user=UNKNOWN if lost else 0)

    def fresh(self, tenant: Tenant, uid: str) -> bool:
        """Whether nothing was made of it yet."""
        return names.FINALIZER not in tenant.metadata.finalizers and uid == tenant.uid

    def known(self, tenant: Tenant, uid: str) -> bool:
        """Else PostgreSQL must be asked first: a status may be lost, or come from a backup."""
        return self.fresh(tenant, uid) or uid in self._known

    def note(self, uid: str, state: State) -> None:
        self._known[uid] = state

    def forget(self, uid: str) -> None:
        self._known.pop(uid, None)
        self.shared.forget(uid)

    def due(self, tenant: Tenant, uid: str, now: datetime) -> datetime | None:
        """When the tenant's next rotation may begin; None: not before something changes."""
        state = self.state(tenant, uid)
        if state.rolling or state.draining:
            return None
        if _asked(tenant, state) or self.shared.behind(collection(tenant), state.shared_user):
            return now
        since = state.rotated_at or tenant.metadata.creation_timestamp
        if self._age is None or since is None:
            return None
        return since.astimezone(UTC) + self._age * jitter(uid)

    def next(self, tenant: Tenant, uid: str, now: datetime) -> State | None:
        """The state to store now, if the tenant's next rotation shall begin now."""
        due, state = self.due(tenant, uid, now), self.state(tenant, uid)
        if due is None or due > now or not self.known(tenant, uid) or not tenant.holds(Type.READY):
            return None
        asked = _asked(tenant, state)
        if not asked and self.shared.rolling() >= ROLLING_AT_ONCE:
            return None
        user = self.shared.next(collection(tenant), state.shared_user, asked)
        if user is None or ((refusal := self._refusal(tenant)) and now < refusal.until):
            return None
        return begun(state, now, request(tenant), user)

    # -- room for one more user -------------------------------------------------------

    def tries(self, region: str, now: datetime) -> int:
        """How often in vain so far.  Where there is a refusal, one tenant tries now, and the others wait for it."""
        refusal = self._refused.get(region)
        if refusal is None:
            return 0
        self._refused[region] = replace(refusal, until=now + timedelta(seconds=LONGEST_WAIT_SECONDS))
        return refusal.tries

    def refused(self, region: str, now: datetime, message: str, tries: int) -> None:
        """Milvus has not made the user that a rotation needs: the tenants of the region wait, longer each time.

        `message`: what a person must do; empty where it may pass by itself.  `tries`: that were in vain before.
        """
        seconds = pauses.at_most(min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** min(tries, 10)))
        self._refused[region] = Refusal(message, tries + 1, now + timedelta(seconds=seconds))

    def taken(self, region: str) -> None:
        """There was room."""
        self._refused.pop(region, None)

    def waits(self, tenant: Tenant, uid: str, now: datetime) -> str:
        """What a rotation that is due waits for; empty where nothing is due, or nothing in the way."""
        due, refusal = self.due(tenant, uid, now), self._refusal(tenant)
        if due is None or due > now or refusal is None or not refusal.message:
            return ""
        return f"The rotation of its logins waits, and those that it has go on: {refusal.message}"

    def _refusal(self, tenant: Tenant) -> Refusal | None:
        """Of the tenant's region, where it needs a user that is not there yet."""
        pinned = tenant.pinned
        if pinned is None or self.shared.behind(collection(tenant), self.state(tenant, tenant.identity).shared_user):
            return None
        return self._refused.get(pinned.region)

    def found(self, tenant: Tenant, seen: Logins, now: datetime, resolved: Resolved) -> State:
        user = UNKNOWN if resolved.vectors.isolation == "Partition" else 0
        return found(seen, now, request(tenant), self._promised(resolved), user)

    def users(
        self, tenant: Tenant, state: State, where: Collection, there: frozenset[int]
    ) -> tuple[State, SharedUsers]:
        """Of the shared collection `where`, which has these users: what that says of the state, and whom to use now."""
        self.shared.note(where, there)
        state = self.shared.settled(where, state, self.fresh(tenant, tenant.identity))
        return state, SharedUsers(
            self.shared.used(where, state.shared_user, tenant.identity), self.shared.ended(where, self._known)
        )

    def ended(self, state: State, now: datetime, resolved: Resolved, *, ready: bool, used: Logins) -> State:
        """The state after a reconcile; `ready`: all of it was seen to hold, with `used` accepted in PostgreSQL."""
        if ready and state.rolling:
            return rolled_out(state, now, self._promised(resolved))
        if ready and state.draining and not used.database_previous:
            assert state.previous_until is not None
            if not own_vectors(resolved) or now >= state.previous_until:
                return closed(state)
        return state

    def look(self, tenant: Tenant, uid: str, now: datetime) -> float | None:
        """Seconds until this tenant should be looked at for its rotation's sake."""
        state = self.state(tenant, uid)
        if state.rolling:
            return None  # the Deployment's events tell
        if state.previous_until and state.rolled_out_at:
            if now < state.rolled_out_at + DRAIN or now >= state.previous_until:
                return LOOK_SECONDS
            return (state.previous_until - now).total_seconds() + 0.05
        where = collection(tenant)
        if self.shared.ended(where, self._known):
            return LOOK_SECONDS
        due = self.due(tenant, uid, now)
        if due is None:
            return None
        if due <= now:
            if _asked(tenant, state) and (refusal := self._refusal(tenant)):
                return max(1.0, (refusal.until - now).total_seconds() + 0.05)
            at_once = _asked(tenant, state) and self.shared.next(where, state.shared_user, True) is not None
            return 0.05 if at_once else QUEUE_SECONDS * jitter(uid)
        return (due - now).total_seconds() + 0.05

    def _promised(self, resolved: Resolved) -> timedelta:
        return self._overlap if own_vectors(resolved) else timedelta(0)


def _asked(tenant: Tenant, state: State) -> bool:
    return request(tenant) not in ("", state.requested)
