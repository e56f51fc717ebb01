"""The tenant's namespaces, with their quotas, policies and rights."""

from tenantry import names
from tenantry.api.conditions import Type
from tenantry.backends import kinds
from tenantry.backends.errors import foreign
from tenantry.backends.kubernetes import owned, said
from tenantry.desired import kubernetes
from tenantry.outcomes import good
from tenantry.status import Outcome
from tenantry.subsystems.tools import Json, Tools
from tenantry.work import Work


class Namespaces:
    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    async def ensure(self, work: Work) -> Outcome:
        """All of it but `work.later`, which `finish` makes."""
        tools, resolved = self._tools, work.resolved
        # Read before anything is looked at: what a watch says meanwhile is looked at again.
        work.changes = tools.kubernetes.observed.changes[resolved.name]
        mark = work.digest(work.changes)
        if not tools.verified.holds(resolved.uid, "namespaces", mark):
            work.later = [o for o in self.objects(work) if self._can_wait(work, o)]
            now = [o for o in self.objects(work) if o not in work.later]
            applied = await tools.kubernetes.ensure(now, resolved.uid)
            tools.drift("namespaces", len(applied.corrected))
            if applied.sure and not work.later:
                tools.verified.note(resolved.uid, "namespaces", mark)
        return self._good(work)

    async def finish(self, work: Work) -> Outcome:
        """What a new tenant gets after its Secrets, whatever became of its stores."""
        later, work.later = work.later, []
        applied = await self._tools.kubernetes.ensure(later, work.resolved.uid)
        self._tools.drift("namespaces", len(applied.corrected))
        return self._good(work)

    def _can_wait(self, work: Work, desired: Json) -> bool:
        """A new quota, since the API server writes its status for each Secret that comes after it; and the owners'
        rights, which nobody has without a quota.
        """
        later = desired["kind"] == "ResourceQuota" or (
            desired["kind"] == "RoleBinding" and desired["roleRef"]["name"] == names.OWNER_ROLE
        )
        return later and work.first and self._tools.kubernetes.absent(desired)

    @staticmethod
    def _good(work: Work) -> Outcome:
        count = len(work.resolved.workloads) + 1
        return good(Type.NAMESPACES, f"{count} namespaces with their quotas, policies and rights")

    def objects(self, work: Work) -> list[Json]:
        """Built when first asked for."""
        if work.spaces is None:
            work.spaces = kubernetes.namespace_objects(work.resolved, self._tools.options)
        return work.spaces

    async def look(self, work: Work) -> Outcome:
        for obj in kubernetes.namespace_objects(work.resolved, self._tools.options):
            if obj["kind"] == kinds.NAMESPACE.kind:
                seen = await self._tools.kubernetes.get(kinds.NAMESPACE, "", obj["metadata"]["name"])
                if seen and not owned(seen, work.resolved.uid):
                    raise foreign(f"Namespace {obj['metadata']['name']}", said(seen))
        return good(Type.NAMESPACES, "Nothing is in the way")
