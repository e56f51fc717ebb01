"""The tenant's namespaces, with their quotas, policies and rights."""

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
            at_once, work.later = tools.split(work, self.objects(work))
            applied = await tools.kubernetes.ensure(at_once, resolved.uid)
            tools.drift("namespaces", len(applied.corrected))
            if applied.sure and not work.later:
                tools.verified.note(resolved.uid, "namespaces", mark)
        return self._good(work)

    async def finish(self, work: Work) -> Outcome:
        """What a new tenant gets after its Secrets, which its quotas count, whatever became of its stores."""
        later, work.later = work.later, []
        applied = await self._tools.kubernetes.ensure(later, work.resolved.uid)
        self._tools.drift("namespaces", len(applied.corrected))
        return self._good(work)

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
