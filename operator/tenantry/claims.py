"""What is written into a Tenant before anything is made for it, so that what was made is found again."""

import logging
from dataclasses import replace

from tenantry import names, rotation
from tenantry.api import Reason
from tenantry.api.tenant import Pinned, RotatedCredentials
from tenantry.backends.apiserver import ApiServer
from tenantry.backends.connection import ApiError, Json
from tenantry.backends.errors import BackendError
from tenantry.backends.kinds import TENANT
from tenantry.subsystems import Subsystems
from tenantry.work import Work

logger = logging.getLogger(__name__)


class Claims:
    """Every method raises ApiError where the API server did not take what was written."""

    def __init__(self, kubernetes: ApiServer, subsystems: Subsystems) -> None:
        self._kubernetes = kubernetes
        self._subsystems = subsystems

    async def claim(self, work: Work) -> None:
        """The finalizer and the pins, in one write."""
        tenant, report = work.tenant, work.report
        if report.pinned is None:
            work.resolved = replace(work.resolved, collection=await self._subsystems.collection(work))
            report.pinned = work.resolved.pins
        rest = [f for f in tenant.metadata.finalizers if f != names.FINALIZER]
        patch = _pinned(report.pinned)
        patch["metadata"] |= {
            "finalizers": [*rest, names.FINALIZER],
            "resourceVersion": tenant.metadata.resource_version,
        }
        await self._kubernetes.merge(TENANT, tenant.reference, patch)

    async def pin(self, work: Work, pinned: Pinned) -> None:
        """Other pins than before."""
        work.report.pinned = pinned
        await self._kubernetes.merge(TENANT, work.tenant.reference, _pinned(pinned))

    async def turn(self, work: Work) -> RotatedCredentials:
        """Whose turn it is among the tenant's logins, with a rotation that begins now."""
        tenant, uid = work.tenant, work.resolved.uid
        rotations = self._subsystems.rotations
        begun = rotations.next(tenant, uid, rotation.clock())
        if begun is None or not await self._room(work, begun):
            return rotations.state(tenant, uid)
        patch = {"status": {"credentials": begun.model_dump(mode="json", by_alias=True)}}
        await self._kubernetes.merge(TENANT, tenant.reference, patch, "status")
        rotations.note(uid, begun)
        logger.info("The credentials are rotated: generation %d begins", begun.generation)
        return begun

    async def _room(self, work: Work, begun: RotatedCredentials) -> bool:
        """Whether Milvus has the user that this rotation needs: one that begins must be able to end."""
        rotations, region = self._subsystems.rotations, work.resolved.region
        tries = rotations.tries(region, rotation.clock())
        try:
            await self._subsystems.room(work, begun)
        except (BackendError, ApiError) as error:
            full = isinstance(error, BackendError) and error.reason is Reason.CAPACITY_EXHAUSTED
            rotations.refused(region, rotation.clock(), error.message if full else "", tries)
            logger.warning("The rotation of the credentials waits: %s", error.message)
            return False
        rotations.taken(region)
        return True


def _pinned(pinned: Pinned) -> Json:
    return {"metadata": {"annotations": {names.PINNED_ANNOTATION: pinned.model_dump_json(by_alias=True)}}}
