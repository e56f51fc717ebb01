"""Whether a Tenant may take over what another UID left under its name: after a restore, or a Tenant made again.

Asked for by a person, with the annotation ``tenantry.dev/adopt-uid``, and granted only where everything that is
found under the tenant's name carries exactly that UID.  Only looks; docs/restore.md tells the whole.
"""

import uuid

from tenantry import names
from tenantry.api import DataRegion, Reason, Tenant
from tenantry.api.conditions import Type
from tenantry.api.tenant import RolledBack
from tenantry.backends.connection import ApiError
from tenantry.backends.errors import BackendError
from tenantry.backends.kinds import NAMESPACE
from tenantry.backends.kubernetes import KubernetesBackend, said
from tenantry.deletion import Deletion
from tenantry.outcomes import failed
from tenantry.regions import Backends, Regions
from tenantry.resolve import Problem, Resolved
from tenantry.rollback import recall
from tenantry.view import View
from tenantry.work import Work

_OWN = "this Tenant holds data of its own by now; delete it, and make it again with the annotation"


class Adoption:
    def __init__(self, kubernetes: KubernetesBackend, view: View, regions: Regions, deletion: Deletion) -> None:
        self._kubernetes = kubernetes
        self._view = view
        self._regions = regions
        self._deletion = deletion

    async def may_take(self, work: Work) -> bool:
        """Whether it may have them now; if not, `work.report` says why, or what goes first."""
        tenant, report = work.tenant, work.report
        report.resolved = None
        report.rolled_back = before = tenant.rolled_back
        removed = before is not None and before.state == "Removed"
        made = names.FINALIZER in tenant.metadata.finalizers and not removed
        try:
            problem = await self.refused(tenant, work.resolved, work.region)
            if problem is None and made and await self._deletion.used(tenant):
                problem = _problem(tenant.asks_for, _OWN)
        except (BackendError, ApiError) as error:
            report.add(failed(Type.DATABASE, error))
            return False
        if problem:
            report.problems = (problem,)
            return False
        if made:
            # What was made under its own UID goes first.
            report.rolled_back = RolledBack(state="Removing")
            recall(tenant, report, report.rolled_back)
            return False
        return True

    async def refused(self, tenant: Tenant, resolved: Resolved, region: DataRegion) -> Problem | None:
        """Why `tenant` may not have the UID that it asks for; None where it may.

        Raises BackendError or ApiError where it could not be seen.
        """
        asked = tenant.asks_for
        if message := self._at_a_glance(tenant, asked):
            return _problem(asked, message)
        backends = await self._regions.get(region)
        found = await self._namespaces(resolved)
        found |= await backends.database_breaker(lambda: backends.postgres.owners(tenant.name, asked), tenant.name)
        if message := contradiction(found, asked):
            return _problem(asked, message)
        if message := await self._level(tenant, resolved, backends, asked):
            return _problem(asked, message)
        return None

    def _at_a_glance(self, tenant: Tenant, asked: str) -> str:
        """What is seen without asking anybody."""
        try:
            fine = str(uuid.UUID(asked)) == asked
        except ValueError:
            fine = False
        if not fine:
            return "it is no UID such as 6f1c2a90-3b5d-4e7f-8a9b-0c1d2e3f4a5b"
        if any(asked in (t.uid, t.identity) for t in self._view.tenants.values() if t.name != tenant.name):
            return "another Tenant that is there has it"
        if tenant.was_ready:
            return _OWN
        return ""

    async def _namespaces(self, resolved: Resolved) -> dict[str, str]:
        found: dict[str, str] = {}
        for name in (*(w.name for w in resolved.workloads), resolved.runtime_namespace):
            if namespace := await self._kubernetes.get(NAMESPACE, "", name):
                found[f"Namespace {name}"] = said(namespace)
        return found

    async def _level(self, tenant: Tenant, resolved: Resolved, backends: Backends, asked: str) -> str:
        """Vectors at another level than the one that would be used would be lost from sight."""
        hint = tenant.pinned.collection if tenant.pinned else ""
        lies = await backends.vectors_breaker(lambda: backends.milvus.level(asked, hint), tenant.name)
        wanted = resolved.vectors.isolation
        if lies and lies != wanted:
            return (
                f"its vectors lie at level {lies}, and this Tenant would have them at level {wanted}; make it with "
                f"spec.vectors.isolation: {lies}"
            )
        return ""


def contradiction(found: dict[str, str], asked: str) -> str:
    """What stands against it among what is there, thing -> the UID that it carries."""
    if kept := next((what for what in found if what.split()[1].startswith("retained_")), ""):
        return (
            f"a deletion retained its data ({kept}), which can't be put back yet; without the annotation the tenant "
            "starts empty"
        )
    for what, uid in sorted(found.items()):
        if uid != asked:
            return f"{what} carries {f'the UID {uid}' if uid else 'no UID'}"
    if not found:
        return "nothing that carries it was found under this tenant's name"
    return ""


def _problem(asked: str, message: str) -> Problem:
    return Problem(
        Reason.ADOPTION_REFUSED,
        f"The annotation {names.ADOPT_ANNOTATION} asks for {asked[:64]!r}, but {message}. Correct or remove it",
    )
