"""What a Tenant asks for, by the tiers, the regions and the templates as they are now."""

from tenantry.api import Reason, Tenant
from tenantry.backends.kinds import REGION, TIER
from tenantry.prompts import Prompts
from tenantry.resolve import Problem, Resolved, resolve
from tenantry.saying import REAPPLY
from tenantry.view import View


class Asked:
    def __init__(self, view: View) -> None:
        self._view = view
        self._prompts = Prompts()

    def resolve(self, tenant: Tenant) -> Resolved | tuple[Problem, ...]:
        found = resolve(tenant, self._view.tiers, self._view.regions)
        if isinstance(found, Resolved):
            return self._prompts.problem(found) or found
        return tuple(self._explained(problem, tenant) for problem in found)

    def _explained(self, problem: Problem, tenant: Tenant) -> Problem:
        """A tier or a region that is there, and can't be read, is not one that does not exist."""
        pinned = tenant.pinned
        kind, name = {
            Reason.UNKNOWN_TIER: (TIER.kind, tenant.spec.tier),
            Reason.UNKNOWN_REGION: (REGION.kind, (pinned.region if pinned else tenant.spec.region) or ""),
        }.get(problem.reason, ("", ""))
        stored = self._view.unreadable.get((kind, "", name))
        if stored is None:
            return problem
        return Problem(problem.reason, f"{kind} {name!r} can't be read ({stored.message}); {REAPPLY}")
