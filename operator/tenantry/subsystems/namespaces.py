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
        tools, resolved = self._tools, work.resolved
        # Read before anything is looked at: what a watch says meanwhile is looked at again.
        work.changes = tools.kubernetes.observed.changes[resolved.name]
        mark = work.digest(work.changes)
        if not tools.verified.holds(resolved.uid, "namespaces", mark):
            applied = await tools.kubernetes.ensure(self.objects(work), resolved.uid)
            tools.drift("namespaces", len(applied.corrected))
            if applied.sure:
                tools.verified.note(resolved.uid, "namespaces", mark)
        count = len(resolved.workloads) + 1
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
