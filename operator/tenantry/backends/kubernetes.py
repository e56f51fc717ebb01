"""A tenant's objects: compared first, applied server-side, never over what is not ours."""

import asyncio
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tenantry import names
from tenantry.api.conditions import Reason
from tenantry.backends import kinds
from tenantry.backends.apiserver import JSON_PATCH, ApiServer
from tenantry.backends.compare import holds
from tenantry.backends.connection import ApiError, Connection, Json
from tenantry.backends.contest import Contests, other
from tenantry.backends.errors import BackendError, foreign
from tenantry.backends.kinds import Kind
from tenantry.backends.observed import LOST, Key, Observed, Seen, key, owner

FOLLOWING = frozenset({"ResourceQuota", "Service", "PodDisruptionBudget"})
"""Kinds of which others write a status, or what they derive from one, at each change of what it counts or selects."""
SECRET_RIGHTS_SECONDS = 5
"""How long a new RoleBinding may take to reach the authorizer."""


@dataclass(frozen=True)
class Applied:
    """What was written: `made` and `changed` on purpose, `corrected` because it had drifted."""

    made: tuple[Key, ...] = ()
    changed: tuple[Key, ...] = ()
    corrected: tuple[Key, ...] = ()
    sure: bool = True
    """All of it was seen to be as it should, and a watch tells when it is not."""


def owned(obj: Json, uid: str) -> bool:
    """Made by us for this Tenant: by the annotation, or, where somebody took that away, by the field manager."""
    return owner(obj) in (uid, LOST)


def said(obj: Json) -> str:
    """The UID of the Tenant that it was made for, as its annotation says; empty where nothing says."""
    return str(obj["metadata"].get("annotations", {}).get(names.UID_ANNOTATION, ""))


class KubernetesBackend(ApiServer):
    """Brings about what a tenant has there, and puts it back where others change it."""

    def __init__(self, connection: Connection, observed: Observed) -> None:
        super().__init__(connection, observed)
        self.contests = Contests()

    # -- a tenant's objects ----------------------------------------------------

    async def ensure(self, objects: Sequence[Json], uid: str) -> Applied:
        """Make every object hold, in waves, those of one wave at once.

        Raises BackendError (FOREIGN_OBJECT, QUOTA_EXCEEDED) or ApiError; what was written stays.
        """
        waves = [self._wave(o) for o in objects]
        fight: BackendError | None = None
        results: list[list[tuple[Key, str]]] = []
        for wave in sorted({*waves}):
            try:
                results.append(await self._each([o for o, its in zip(objects, waves, strict=True) if its == wave], uid))
            except BackendError as error:
                if error.reason is not Reason.CONTESTED:
                    raise
                # A namespace whose label is fought over is there all the same.
                fight = fight or error
        if fight:
            raise fight
        return Applied(
            tuple(k for r in results for k, how in r if how == "made"),
            tuple(k for r in results for k, how in r if how == "changed"),
            tuple(k for r in results for k, how in r if how == "corrected"),
            all(e.held == e.applied for o in objects if kinds.of(o).watched and (e := self.observed.note(o))),
        )

    def _wave(self, desired: Json) -> int:
        """Namespaces, quotas that grow before the Pods that need it, what stands there, and then what comes last.

        Nobody is given rights in a namespace without its quota.
        """
        if desired["kind"] == kinds.NAMESPACE.kind:
            return 0
        if self.comes_last(desired):
            return 4 if desired["kind"] == "RoleBinding" else 3
        return 1 if desired["kind"] == "ResourceQuota" else 2

    def comes_last(self, desired: Json) -> bool:
        """Whether it is new, and a quota, the owners' rights, or what follows the runtime's Pods.

        While a quota is there, the API server writes its status for each object that it counts: some ten writes for
        a tenant whose quotas came first.  Likewise its controllers write what they derive from a Service or a
        disruption budget at each change of the Pods.  What is there already waits for nothing: an owner who goes loses
        the rights whatever else fails.
        """
        rights = desired["kind"] == "RoleBinding" and desired["roleRef"]["name"] == names.OWNER_ROLE
        return (rights or desired["kind"] in FOLLOWING) and self.absent(desired)

    async def _each(self, objects: Iterable[Json], uid: str) -> list[tuple[Key, str]]:
        answers = await asyncio.gather(*(self._ensure(o, uid) for o in objects), return_exceptions=True)
        failures = [a for a in answers if isinstance(a, BaseException)]
        if failures:
            # A fight over one object says less than anything else that failed; what was put back counts all the same.
            failures.sort(key=lambda e: isinstance(e, BackendError) and e.reason is Reason.CONTESTED)
            if isinstance(failures[0], BackendError):
                back = [a[0] for a in answers if not isinstance(a, BaseException) and a[1] == "corrected"]
                more = [c for e in failures if isinstance(e, BackendError) for c in e.corrected]
                failures[0].corrected = (*("/".join(k) for k in back), *more)
            raise failures[0]
        return [a for a in answers if not isinstance(a, BaseException)]

    async def _ensure(self, desired: Json, uid: str, *, first: bool = False) -> tuple[Key, str]:
        kind, k = kinds.of(desired), key(desired)
        digest, entry = hash(json.dumps(desired)), self.observed.note(desired)
        before = entry.applied
        if before != digest:
            entry.applied = digest
        else:
            digest = before  # one number that is kept, not two
        seen = None
        if kind.watched:
            if entry.present and entry.held == digest and entry.owned(uid) and not entry.deleting:
                self.contests.held(k)
                return k, "held"
            seen = self.observed.get(k)
        elif not first:
            seen = await self.get(kind, k[1], k[2])
        if seen is not None and seen["metadata"].get("deletionTimestamp"):
            raise BackendError(Reason.WAITING, f"{k[0]} {k[2]} is being deleted; it is made again once it is gone")
        if seen is None:
            if before:
                self.contests.before(k)
            made = await self._create(kind, desired, uid)
            if made is not None:
                self._note(entry, desired, made, digest, kind)
                if before:
                    self.contests.corrected(k)
                return k, "corrected" if before else "made"
            seen = await self.get(kind, k[1], k[2])
            if seen is None:
                raise BackendError(Reason.RETRYING, f"{k[0]} {k[2]} vanished while it was made; it is tried again")
            self._keep(kind, seen)
        # What is kept of a watched object has no field managers; its entry knows what they said.
        if not (owned(seen, uid) or (kind.watched and entry.present and entry.owned(uid))):
            raise foreign(f"{k[0]} {k[1] + '/' if k[1] else ''}{k[2]}", said(seen))
        if self._note(entry, desired, seen, digest, kind):
            self.contests.held(k)
            return k, "held"
        if before != digest:
            await self._update(kind, desired, seen, entry, digest)
            return k, "changed"
        self.contests.before(k)
        # Our own write takes the other one's name off the fields.
        who = other(await self.get(kind, k[1], k[2]) or seen) if self.contests.near(k) else ""
        await self._update(kind, desired, seen, entry, digest)
        self.contests.corrected(k, who)
        return k, "corrected"

    @staticmethod
    def _note(entry: Seen, desired: Json, seen: Json, digest: int, kind: Kind) -> bool:
        """Whether it is as it should be, which is then known until a watch says otherwise."""
        good = holds(desired, seen, kind.exact)
        if good and str(entry.version) == seen["metadata"].get("resourceVersion"):
            entry.held = digest
        return good

    async def _create(self, kind: Kind, desired: Json, uid: str) -> Json | None:
        """Apply with a resourceVersion that only a new object accepts; None if there is one already."""
        body = {**desired, "metadata": {**desired["metadata"], "resourceVersion": "1"}}
        try:
            made = await self.apply(kind, body)
        except ApiError as error:
            if error.status == 409:
                return None
            raise explained(error, desired) from None
        if not owned(made, uid):
            raise foreign(f"{desired['kind']} {desired['metadata']['name']}", said(made))
        return made

    async def _update(self, kind: Kind, desired: Json, seen: Json, entry: Seen, digest: int) -> None:
        body = {**desired, "metadata": {**desired["metadata"], "uid": seen["metadata"]["uid"]}}
        try:
            now = await self.apply(kind, body)
            if not holds(desired, now, kind.exact) and (fields := _whole(kind, desired, now)):
                # Server-side apply leaves what another manager added: take it out.
                patch = [{"op": "test", "path": "/metadata/uid", "value": now["metadata"]["uid"]}, *fields]
                now = await self._patch("patch", kind, desired["metadata"], patch, JSON_PATCH)
            self._note(entry, desired, now, digest, kind)
        except ApiError as error:
            raise explained(error, desired) from None

    # -- Secrets, which nobody watches --------------------------------------------

    async def ensure_secret(self, desired: Json, uid: str, *, first: bool = False) -> str:
        """How it was written (made, changed, corrected); empty where it held.

        Read each time, since the operator may not list Secrets.

        `first`: there is likely none yet, so that one write that an existing one refuses spares the reading.
        """
        for attempt in range(SECRET_RIGHTS_SECONDS * 5):
            try:
                _, how = await self._ensure(desired, uid, first=first)
                return "" if how == "held" else how
            except ApiError as error:
                if error.status != 403 or attempt == SECRET_RIGHTS_SECONDS * 5 - 1:
                    raise
                await asyncio.sleep(0.2)
        return ""

    def absent(self, desired: Json) -> bool:
        """Of a watched kind: whether it was not seen to be there."""
        return not self.observed.note(desired).present

    def forget(self, tenant: str) -> None:
        """A tenant ends."""
        self.contests.forget(self.observed.forget(tenant))

    def unwanted(self, k: Key) -> None:
        """Of a tenant that goes on, an object that is no longer asked for."""
        self.observed.unwanted(k)
        self.contests.forget([k])


def _whole(kind: Kind, desired: Json, now: Json) -> list[Json]:
    """The steps of a JSON patch that leave nothing of others' in what must be exactly as we say."""
    if kind.exact:
        return [
            {"op": "add" if field in desired else "remove", "path": f"/{field}", "value": desired.get(field)}
            for field in sorted({*desired, *now} - {"metadata", "status", "apiVersion", "kind"})
        ]
    if kind.kind == "Service":
        return [{"op": "add", "path": "/spec/selector", "value": desired["spec"]["selector"]}]
    return []


def explained(error: ApiError, obj: Json) -> Exception:
    """A refusal that a person can mend, as a condition will say it; else the error itself."""
    what = f"{obj['kind']} {obj['metadata']['name']}"
    if error.status == 403 and "exceeded quota" in error.message:
        return BackendError(Reason.QUOTA_EXCEEDED, f"{what} was refused: {error.message}")
    if error.status == 422:
        return BackendError(Reason.INVALID_SPEC, f"{what} was refused: {error.message}")
    if error.status == 409:
        return BackendError(Reason.RETRYING, f"{what} was changed by somebody else meanwhile; it is tried again")
    return error


def selector() -> str:
    """Of everything that the operator made for tenants."""
    return f"{names.MANAGED_BY_LABEL}={names.MANAGER},{names.TENANT_LABEL}"
