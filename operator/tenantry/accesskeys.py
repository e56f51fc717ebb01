"""AccessKeys: a Secret beside each, a hash in the tenant's runtime schema, and `default` for every tenant."""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal

from tenantry import keyturns, memo, names, rotation
from tenantry.api import AccessKey, Reason
from tenantry.backends.errors import BackendError
from tenantry.backends.kinds import ACCESS_KEY, SECRET
from tenantry.backends.kubernetes import KubernetesBackend
from tenantry.backends.observed import Key
from tenantry.backends.postgres import KeysAhead
from tenantry.credentials import Credentials
from tenantry.desired import secrets
from tenantry.keysaying import KeyTeller
from tenantry.keyturns import Turn
from tenantry.resolve import Resolved
from tenantry.view import Unreadable, View
from tenantry_runtime.config import AccessKeyRow, key_sha256

logger = logging.getLogger(__name__)
DEFAULT = "default"
DEFAULT_SCOPES = ("chat", "embeddings", "documents", "conversations", "usage")
"""Of the first key: what a developer works with.  What others did and were told (`audit`) takes a key of its own."""
MOST_KEYS = 200
"""Of one tenant, the oldest first: every row is looked at when a key is."""

_ROWS = "rows"

Sync = Callable[[Sequence[AccessKeyRow]], Awaitable[bool]]


class AccessKeys:
    def __init__(self, backend: KubernetesBackend, view: View, derived: Credentials, believed_seconds: float) -> None:
        self._backend = backend
        self._view = view
        self._derived = derived
        self._teller = KeyTeller(backend)
        self._seen = memo.Memo(believed_seconds)
        """Of a tenant its rows, of an AccessKey its Secret."""
        self.drifted: Callable[[], None] = lambda: None
        """Called for each thing of a key that somebody else had changed."""
        self._turns: dict[str, Turn] = {}
        """By the AccessKey's UID: what this process has stored or found, should the status forget it."""
        self._secrets: dict[str, dict[str, Key]] = {}
        """By the tenant's UID and the AccessKey's: where the Secret is of each key that is there."""

    def due(self, resolved: Resolved) -> float | None:
        """Seconds until the next key expires, is due for its rotation, or ends with its overlap."""
        now = datetime.now(UTC)
        times = (keyturns.due(self._turn(k), k, now) for k in self._valid(resolved, now))
        return min((max((t - now).total_seconds(), 0.0) for t in times if t), default=None)

    def forget(self, tenant: str, uid: str) -> None:
        """A tenant ends, or begins anew."""
        self._keep(uid, {})
        self._seen.forget(uid)
        self._backend.contests.forget([_default_key(names.workload_namespace(tenant))])

    def _keep(self, uid: str, there: Mapping[str, Key]) -> None:
        """Of a tenant's keys only these are there: nothing is known any more of those that are gone."""
        for gone, secret in self._secrets.pop(uid, {}).items():
            if gone not in there:
                self._turns.pop(gone, None)
                self._seen.forget(gone)
                self._backend.unwanted(secret)
        if there:
            self._secrets[uid] = dict(there)

    async def sync(self, resolved: Resolved, write: Sync, *, first: bool = False) -> None:
        """Rows first, so that a deleted key stops at once; then Secrets and what each key's status says."""
        fight = await self._default(resolved)
        keys, unreadable = self._of(resolved), self._unreadable(resolved)
        self._keep(resolved.uid, {**{k.uid: _secret_key(k) for k in keys}, **{s.uid: w for w, s in unreadable}})
        now = rotation.clock()
        valid = self._valid(resolved, now)
        counted, over = valid[:MOST_KEYS], valid[MOST_KEYS:]
        await self._write(resolved, counted, write)  # what the table knows of rotations is known from here on
        for k in counted:
            await self._begin(k, now)
        await self._write(resolved, counted, write)
        for k in counted:
            await self._secret(resolved, k, first)
            turn = self._turn(k)
            if turn != Turn():
                self._turns[k.uid] = keyturns.in_force(turn, k, now) if turn.under_way else keyturns.settled(turn, now)
            await self._say(k, "True", Reason.IN_FORCE, "The key works")
        await self._write(resolved, counted, write)  # with the end of those whose overlap began
        for k in over:
            await self._say(k, "False", Reason.TOO_MANY_KEYS, f"A tenant has at most {MOST_KEYS} keys; delete some")
        for k in keys:
            if k not in valid:
                await self._say(k, "False", Reason.EXPIRED, "spec.expiresAt has passed; the key is refused")
        for where, stored in unreadable:
            await self._teller.unreadable(where, stored)
        if fight:
            raise fight

    def _valid(self, resolved: Resolved, now: datetime) -> list[AccessKey]:
        return [k for k in self._of(resolved) if not (k.spec.expires_at and k.spec.expires_at <= now)]

    def _turn(self, key: AccessKey) -> Turn:
        return max(keyturns.of(key), self._turns.get(key.uid, Turn()), key=lambda turn: turn.order)

    async def _begin(self, key: AccessKey, now: datetime) -> None:
        """A rotation whose time has come is stored before anything is made of it."""
        turn = self._turn(key)
        at = keyturns.next_at(turn, key, now)
        if at is None or at > now:
            return
        begun = keyturns.begun(turn, key)
        await self._teller.begin(key, begun)
        self._turns[key.uid] = begun
        logger.info("AccessKey %s is rotated: generation %d begins", key.name, begun.generation)

    async def _write(self, resolved: Resolved, keys: Sequence[AccessKey], write: Sync) -> None:
        """The rows, where they are others than those written lately."""
        for _ in range(2):
            now = rotation.clock()
            rows = [row for k in keys for row in self._rows(k, now)]
            digest = memo.digest(rows)
            if self._seen.holds(resolved.uid, _ROWS, digest):
                return
            try:
                written = await write(rows)
            except KeysAhead as ahead:
                self._find(keys, ahead, now)
                continue
            if written:
                logger.info("The keys of the tenant were written: %d are valid", len(rows))
                if self._seen.held(resolved.uid, _ROWS, digest):
                    self.drifted()
            self._seen.note(resolved.uid, _ROWS, digest)
            return

    def _find(self, keys: Sequence[AccessKey], ahead: KeysAhead, now: datetime) -> None:
        """What the table knows of keys whose status has forgotten a rotation."""
        for key in keys:
            if rows := ahead.found.get(key.uid):
                generation = max(rows)
                until = rows.get(generation - 1)
                end = datetime.fromtimestamp(until, UTC) if until else None
                self._turns[key.uid] = keyturns.found(generation, end, key, now)
                logger.warning("AccessKey %s: its status has forgotten a rotation", key.name)

    def _of(self, resolved: Resolved) -> list[AccessKey]:
        found = [k for w in resolved.workloads for k in self._view.keys.get(w.name, {}).values()]
        return sorted(
            (k for k in found if not k.metadata.deletion_timestamp),
            key=lambda k: (str(k.metadata.creation_timestamp), k.metadata.namespace, k.name),
        )

    def _unreadable(self, resolved: Resolved) -> list[tuple[Key, Unreadable]]:
        homes = {w.name for w in resolved.workloads}
        return sorted(
            (where, stored)
            for where, stored in self._view.unreadable.items()
            if where[0] == ACCESS_KEY.kind and where[1] in homes
        )

    def _key(self, key: AccessKey) -> str:
        return self._derived.access_key(key.uid, self._turn(key).generation)

    def _rows(self, key: AccessKey, now: datetime) -> list[AccessKeyRow]:
        return [
            AccessKeyRow(
                uid=key.uid,
                name=key.name,
                namespace=key.metadata.namespace,
                key_sha256=key_sha256(self._derived.access_key(key.uid, generation)),
                user_name=key.spec.user,
                scopes=tuple(sorted(key.spec.scopes)),
                act_for_users=key.spec.act_for_users,
                expires_at=until.timestamp() if until else None,
                generation=generation,
            )
            for generation, until in keyturns.accepted(self._turn(key), key, now)
        ]

    async def _default(self, resolved: Resolved) -> BackendError | None:
        """Every tenant has one; the error where another program deletes it each time."""
        where = _default_key(resolved.home)
        contests = self._backend.contests
        known = self._seen.knows(resolved.uid, _ROWS)
        try:
            if where in self._view.unreadable or DEFAULT in self._view.keys.get(resolved.home, {}):
                contests.held(where)
                return None
            if known:
                contests.before(where)
            if await self._make_default(resolved) and known:
                self.drifted()
                contests.corrected(where)
        except BackendError as error:
            return error
        return None

    async def _make_default(self, resolved: Resolved) -> bool:
        """Whether there was none."""
        made = await self._backend.create(
            ACCESS_KEY,
            {
                "apiVersion": names.API_VERSION,
                "kind": "AccessKey",
                "metadata": {
                    "name": DEFAULT,
                    "namespace": resolved.home,
                    "labels": {names.TENANT_LABEL: resolved.name, names.MANAGED_BY_LABEL: names.MANAGER},
                    "annotations": {names.UID_ANNOTATION: resolved.uid},
                },
                "spec": {"user": DEFAULT, "scopes": list(DEFAULT_SCOPES)},
            },
        )
        if made is None and (there := await self._backend.get(ACCESS_KEY, resolved.home, DEFAULT)):
            self._view.put(ACCESS_KEY, there)
        return made is not None

    async def _secret(self, resolved: Resolved, key: AccessKey, first: bool) -> None:
        desired = secrets.access_key(resolved, key, self._key(key), names.endpoint(resolved.name))
        digest = memo.digest(desired)
        if self._seen.holds(key.uid, SECRET.kind, digest):
            return
        made = first or not (key.status and key.status.secret_name)
        if how := await self._backend.ensure_secret(desired, resolved.uid, first=made):
            logger.info("The Secret of AccessKey %s was written", key.name)
            if how == "corrected":
                self.drifted()
        self._seen.note(key.uid, SECRET.kind, digest)

    async def _say(self, key: AccessKey, status: Literal["True", "False"], reason: Reason, message: str) -> None:
        await self._teller.say(key, self._turn(key), status, reason, message)


def _default_key(home: str) -> Key:
    return ACCESS_KEY.kind, home, DEFAULT


def _secret_key(key: AccessKey) -> Key:
    return SECRET.kind, key.metadata.namespace, secrets.access_key_secret(key)
