"""Events: what a user should see with `kubectl describe`.  Best effort; the status is the truth."""

import logging
from datetime import UTC, datetime
from typing import Literal

from tenantry import names
from tenantry.backends.apiserver import ApiServer
from tenantry.backends.connection import ApiError
from tenantry.backends.kinds import EVENT
from tenantry.status import stamp

logger = logging.getLogger(__name__)


class Events:
    def __init__(self, backend: ApiServer, instance: str) -> None:
        self._backend = backend
        self._instance = instance

    async def tell(
        self,
        kind: str,
        name: str,
        uid: str,
        level: Literal["Normal", "Warning"],
        reason: str,
        message: str,
        namespace: str = "",
        once: str = "",
    ) -> bool:
        """One event about one of our resources, of which those of cluster-scoped ones live in namespace default.

        `once`: the event's own name; another one of this name is not written.  Whether it is there.
        """
        now = stamp(datetime.now(UTC))
        home = namespace or "default"
        about = {"apiVersion": names.API_VERSION, "kind": kind, "name": name, "uid": uid}
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {**({"name": once} if once else {"generateName": f"{name}."}), "namespace": home},
            "involvedObject": {**about, "namespace": namespace} if namespace else about,
            "type": level,
            "reason": reason,
            "message": message[:1000],
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
            "source": {"component": names.MANAGER},
            "reportingComponent": names.GROUP,
            "reportingInstance": self._instance,
        }
        try:
            await self._backend.create(EVENT, event)
        except ApiError as error:
            logger.warning("An event could not be written: %s", error.message)
            return False
        return True
