"""What the status of an AccessKey says of it."""

import logging
from datetime import UTC, datetime
from typing import Any, Literal

from tenantry import keyturns
from tenantry.api import AccessKey, Reason
from tenantry.api.base import Condition
from tenantry.backends.connection import ApiError
from tenantry.backends.kinds import ACCESS_KEY
from tenantry.backends.kubernetes import KubernetesBackend
from tenantry.backends.observed import Key
from tenantry.desired import secrets
from tenantry.keyturns import Turn
from tenantry.saying import REAPPLY
from tenantry.status import stamp
from tenantry.view import Unreadable

logger = logging.getLogger(__name__)
Json = dict[str, Any]


class KeyTeller:
    """Writes only what the status does not say already.  Every method raises ApiError."""

    def __init__(self, backend: KubernetesBackend) -> None:
        self._backend = backend

    async def begin(self, key: AccessKey, begun: Turn) -> None:
        """A rotation that must be stored before anything is made of it."""
        await self._backend.merge(ACCESS_KEY, key.reference, {"status": _shown(begun)}, "status")

    async def say(
        self, key: AccessKey, turn: Turn, status: Literal["True", "False"], reason: Reason, message: str
    ) -> None:
        before = key.status.conditions if key.status else ()
        old = next((c for c in before if c.type == "Ready"), None)
        name = secrets.access_key_secret(key) if status == "True" else ""
        if (
            old
            and key.status
            and (old.status, old.reason) == (status, str(reason))
            and (keyturns.of(key), key.status.secret_name) == (turn, name)
            and key.status.observed_generation == key.metadata.generation
        ):
            return
        await self._write(
            key.reference,
            {"secretName": name, **_shown(turn)},
            _condition(old, status, reason, message, key.metadata.generation),
        )

    async def unreadable(self, where: Key, stored: Unreadable) -> None:
        """Whom it lets in, to what and until when is not known, so it lets in nobody."""
        _, namespace, name = where
        old = next((c for c in stored.conditions if c.type == "Ready"), None)
        message = f"The stored AccessKey can't be read ({stored.message}), so the key is refused; {REAPPLY}"
        made = _condition(old, "False", Reason.INVALID_SPEC, message, stored.generation)
        told = (made["reason"], made["message"], made["observedGeneration"])
        if old and (old.reason, old.message, old.observed_generation) == told:
            return
        meta = {"name": name, "namespace": namespace, "uid": stored.uid}
        try:
            await self._write({"metadata": meta}, {"secretName": ""}, made)
        except ApiError as error:
            if error.unavailable:
                raise
            # The tenant's other keys do not wait for this one.
            logger.warning("That AccessKey %s can't be read could not be said: %s", name, error.message)

    async def _write(self, reference: Json, more: Json, condition: Json) -> None:
        generation = condition["observedGeneration"]
        status = {"observedGeneration": generation, "conditions": [condition], **more}
        try:
            await self._backend.merge(ACCESS_KEY, reference, {"status": status}, "status")
        except ApiError as error:
            if error.status in (404, 409):
                return  # it is gone, or another one of its name is there
            raise


def _condition(old: Condition | None, status: str, reason: Reason, message: str, generation: int) -> Json:
    """A condition whose status stays keeps its transition time."""
    since = old.last_transition_time if old and old.status == status else None
    return {
        "type": "Ready",
        "status": status,
        "reason": str(reason),
        "message": message[:2048],
        "lastTransitionTime": stamp(since or datetime.now(UTC)),
        "observedGeneration": generation,
    }


def _shown(turn: Turn) -> Json:
    return {
        "generation": turn.generation,
        "rotation": turn.requested,
        "rotatedAt": stamp(turn.rotated_at) if turn.rotated_at else None,
        "previousUntil": stamp(turn.previous_until) if turn.previous_until else None,
    }
