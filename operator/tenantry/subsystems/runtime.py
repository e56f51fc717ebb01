"""The tenant's runtime: its Deployment, and the credentials that it holds."""

import logging

from tenantry import names, outcomes
from tenantry.backends import kinds
from tenantry.backends.observed import Rollout, key
from tenantry.desired import configuration, kubernetes, secrets
from tenantry.regions import Backends
from tenantry.status import Outcome
from tenantry.subsystems.namespaces import Namespaces
from tenantry.subsystems.tools import Json, Tools
from tenantry.work import Work

logger = logging.getLogger(__name__)


class Runtime:
    def __init__(self, tools: Tools, namespaces: Namespaces) -> None:
        self._tools = tools
        self._namespaces = namespaces

    async def ensure(self, work: Work, backends: Backends) -> Outcome:
        tools, resolved = self._tools, work.resolved
        assert work.vectors is not None, "the runtime is made after its stores"
        place, login = work.vectors.place, work.vectors.login
        held = configuration.credentials(
            resolved, tools.derived, place, login, backends.provider_api_key, work.turn.generation
        )
        secret = secrets.runtime(resolved, held)
        await tools.secret(work, secret)
        mark = work.digest(work.changes, secret)
        if not tools.verified.holds(resolved.uid, "runtime", mark):
            objects = kubernetes.runtime_objects(resolved, tools.options, secrets.digest(secret))
            # A new quota, and what follows the Pods, come once the first Pods are there: nobody but the operator makes
            # anything in this namespace, and no tenant is Ready without them.
            at_once, later = (objects, []) if self._rolled_out(work).good else tools.split(work, objects)
            applied = await tools.kubernetes.ensure(at_once, resolved.uid)
            tools.drift("runtime", len(applied.corrected))
            await self._sweep(work, objects)
            if later and self._rolled_out(work).good:
                applied = await tools.kubernetes.ensure(later, resolved.uid)
                tools.drift("runtime", len(applied.corrected))
            elif applied.sure and not later:
                tools.verified.note(resolved.uid, "runtime", mark)
        work.report.secrets = tuple(
            f"{resolved.home}/{name}"
            for name in (
                "accesskey-default",
                "postgres",
                *(["milvus"] if secrets.milvus(resolved, place, login) else []),
            )
        )
        return self._rolled_out(work)

    def _rolled_out(self, work: Work) -> Outcome:
        return outcomes.rollout(self.deployment(work), work.resolved)

    def deployment(self, work: Work) -> Rollout | None:
        """What is known of its rollout."""
        where = (kinds.DEPLOYMENT.kind, work.resolved.runtime_namespace, names.RUNTIME)
        return self._tools.kubernetes.observed.rollout(where)

    async def _sweep(self, work: Work, runtime: list[Json]) -> None:
        """Remove what this tenant no longer asks for, such as a namespace taken from the list."""
        backend = self._tools.kubernetes
        wanted = {*map(key, self._namespaces.objects(work)), *map(key, runtime)}
        for k, seen in backend.observed.of_tenant(work.resolved.name):
            if k in wanted or seen.deleting or not seen.owned(work.resolved.uid):
                continue
            logger.info("%s %s is no longer wanted and is removed", k[0], k[2])
            await backend.delete(kinds.of_key(k), {"metadata": {"namespace": k[1], "name": k[2], "uid": seen.uid}})
            backend.unwanted(k)
