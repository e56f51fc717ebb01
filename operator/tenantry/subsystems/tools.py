"""What every subsystem works with."""

import logging
from dataclasses import dataclass
from typing import Any

from tenantry import memo
from tenantry.backends.kubernetes import KubernetesBackend
from tenantry.credentials import Credentials
from tenantry.desired.options import Options
from tenantry.metrics import Metrics
from tenantry.regions import Regions
from tenantry.rotation import Rotations
from tenantry.work import Work

logger = logging.getLogger(__name__)
Json = dict[str, Any]

_SECRETS = {"postgres": "database", "milvus": "vectors", "runtime": "runtime"}
"""To which subsystem a drift of a Secret is counted."""


@dataclass(frozen=True)
class Tools:
    kubernetes: KubernetesBackend
    regions: Regions
    derived: Credentials
    options: Options
    metrics: Metrics
    verified: memo.Memo
    rotations: Rotations

    async def secret(self, work: Work, desired: Json) -> None:
        """Have a Secret hold; it is read again only when it was not looked at for long."""
        # Of one tenant, all have different names; which namespace it is in is in the digest.
        uid, name = work.resolved.uid, f"secret/{desired['metadata']['name']}"
        digest = memo.digest(desired)
        if self.verified.holds(uid, name, digest):
            return
        if how := await self.kubernetes.ensure_secret(desired, uid, first=work.first):
            logger.info("Secret %s was written", desired["metadata"]["name"])
            self.drift(_SECRETS[desired["metadata"]["name"]], how == "corrected")
        self.verified.note(uid, name, digest)

    def split(self, work: Work, objects: list[Json]) -> tuple[list[Json], list[Json]]:
        """What is made at once, and what a tenant that was never Ready gets only when all else is there."""
        later = [o for o in objects if work.first and self.kubernetes.comes_last(o)]
        return [o for o in objects if o not in later], later

    def drift(self, subsystem: str, count: int) -> None:
        """So many things of it were put back that others had changed."""
        if count:
            self.metrics.drift.labels(subsystem).inc(count)
