"""The end of a Tenant: data first, then what serves it, then the finalizer.  Each step can be done again."""

import asyncio
import logging

from tenantry import names
from tenantry.api import Reason, Tenant
from tenantry.api.conditions import Type
from tenantry.api.tenant import Pinned
from tenantry.backends.connection import ApiError
from tenantry.backends.errors import BackendError
from tenantry.backends.kinds import CRD, DEPLOYMENT, NAMESPACE, TENANT
from tenantry.backends.kubernetes import KubernetesBackend, owned
from tenantry.desired.postgres.archive import Ending
from tenantry.desired.postgres.things import Policy
from tenantry.regions import Backends, Regions
from tenantry.status import Outcome
from tenantry.view import View

logger = logging.getLogger(__name__)


class Deletion:
    def __init__(self, backend: KubernetesBackend, view: View, regions: Regions) -> None:
        self._backend = backend
        self._view = view
        self._regions = regions

    async def run(self, tenant: Tenant) -> Outcome | None:
        """What is still to be done, or None when the finalizer is off.

        Raises BackendError and ApiError: the finalizer stays until every step was seen done.
        """
        if held := await self._held(tenant):
            return held
        if left := await self._take_away(tenant, tenant.identity, tenant.spec.deletion.policy):
            return left
        await self._release(tenant)
        return None

    async def undo(self, tenant: Tenant) -> Outcome | None:
        """Take back what was made under the Tenant's own UID; what is still to be done, or None.

        Never what it has adopted: that was not made for it.
        """
        return await self._take_away(tenant, tenant.uid, "Delete")

    async def used(self, tenant: Tenant) -> bool:
        """Whether anybody stored anything in what was made under the Tenant's own UID."""
        if (pinned := tenant.pinned) is None:
            return False
        backends = await self._backends(pinned)
        return await backends.database_breaker(
            lambda: backends.postgres.used(tenant.name, tenant.uid, pinned.database_isolation), tenant.name
        )

    async def _take_away(self, tenant: Tenant, uid: str, policy: Policy) -> Outcome | None:
        """Nobody is served, the data is dealt with, then the namespaces go.  Each step looks first."""
        serving = await self._runtime(tenant, uid)
        await self._data(tenant, uid, policy)
        if serving:
            return Outcome(Type.READY, "False", Reason.DELETING, "Waits for the runtime's Pods to end")
        left = await self._namespaces(tenant, uid)
        if left:
            return Outcome(
                Type.READY, "False", Reason.DELETING, f"Waits for namespaces to end: {', '.join(sorted(left))}"
            )
        return None

    async def _held(self, tenant: Tenant) -> Outcome | None:
        if tenant.spec.deletion_protection:
            # Deleting the CRD reaches the objects without asking admission.
            return Outcome(
                Type.READY,
                "False",
                Reason.DELETION_PROTECTED,
                "spec.deletionProtection is true, so nothing is removed; set it to false to let the deletion go on",
            )
        crd = await self._backend.get(CRD, "", f"{TENANT.plural}.{names.GROUP}")
        if crd and crd["metadata"].get("deletionTimestamp"):
            return Outcome(
                Type.READY,
                "False",
                Reason.DELETION_PROTECTED,
                "The CustomResourceDefinition itself is being deleted, so nothing of the tenant is removed; "
                "docs/restore.md says how to go on",
            )
        return None

    async def _data(self, tenant: Tenant, uid: str, policy: Policy) -> None:
        """Both stores at once: where one is away, the other one locks the tenant out all the same."""
        pinned = tenant.pinned
        if pinned is None:
            # What is pinned is written before anything is made outside of Kubernetes.
            return
        backends = await self._backends(pinned)
        ending = audit_ends(tenant) if tenant.metadata.deletion_timestamp else None
        done = await asyncio.gather(
            backends.database_breaker(
                lambda: backends.postgres.remove(tenant.name, uid, pinned.database_isolation, policy, ending),
                tenant.name,
            ),
            backends.vectors_breaker(
                lambda: backends.milvus.remove(uid, pinned.collection, pinned.vector_isolation, policy), tenant.name
            ),
            return_exceptions=True,
        )
        for error in done:
            if error is not None:
                raise error

    async def _backends(self, pinned: Pinned) -> Backends:
        region = self._view.regions.get(pinned.region)
        if region is None:
            raise BackendError(
                Reason.UNKNOWN_REGION,
                f"DataRegion {pinned.region!r}, which holds this tenant's data, does not exist; create it again so "
                "that the data can be dealt with. If its servers are gone for good, let it name empty ones",
            )
        return await self._regions.get(region)

    async def _runtime(self, tenant: Tenant, uid: str) -> bool:
        """Whether the runtime is still there, Pods included; asks for its end.

        A namespace that is deleted with Pods in it is looked at again only after half of their grace period, however
        soon they end: here that would be more than a minute.
        """
        namespace = names.runtime_namespace(tenant.name)
        found = await self._backend.get(DEPLOYMENT, namespace, names.RUNTIME)
        if found is None or not owned(found, uid):
            return False
        if not found["metadata"].get("deletionTimestamp"):
            await self._backend.delete(DEPLOYMENT, found, foreground=True)
        return True

    async def _namespaces(self, tenant: Tenant, uid: str) -> set[str]:
        """Those of ours that are still there.  Asked of the API server, since what is missed stays for ever."""
        found = await self._backend.list_all(NAMESPACE, f"{names.TENANT_LABEL}={tenant.name}")
        listed = {n["metadata"]["name"] for n in found}
        for name in tenant.status.namespaces if tenant.status else ():
            # One that somebody took the label from is not listed.
            if name not in listed and (more := await self._backend.get(NAMESPACE, "", name)):
                found.append(more)
        ours = [n for n in found if owned(n, uid)]
        for namespace in ours:
            if not namespace["metadata"].get("deletionTimestamp"):
                await self._backend.delete(NAMESPACE, namespace)
        return {n["metadata"]["name"] for n in ours}

    async def _release(self, tenant: Tenant) -> None:
        rest = [f for f in tenant.metadata.finalizers if f != names.FINALIZER]
        patch = {"metadata": {"finalizers": rest or None, "resourceVersion": tenant.metadata.resource_version}}
        try:
            await self._backend.merge(TENANT, tenant.reference, patch)
        except ApiError as error:
            if error.status == 404:
                return
            raise
        logger.info("The tenant is gone; its data by policy %s", tenant.spec.deletion.policy)


def audit_ends(tenant: Tenant) -> Ending | None:
    """What becomes of the audit; None for a Tenant that goes on, of which only what was made is taken back."""
    begun = tenant.metadata.deletion_timestamp
    if begun is None:
        return None
    compliance = tenant.spec.compliance
    return Ending(begun, compliance.retention_days if compliance.archives_audit else None)
