"""From what a step of a reconcile saw to what its condition says.  Pure."""

from tenantry.api import DataRegion, Reason, Tenant
from tenantry.api.conditions import Type
from tenantry.backends.connection import ApiError
from tenantry.backends.errors import BackendError
from tenantry.backends.observed import Rollout
from tenantry.resolve import Resolved
from tenantry.status import Outcome


def usable(outcome: Outcome) -> bool:
    """What others change back is there all the same: a deleted key is refused also during such a fight."""
    return outcome.good or outcome.reason is Reason.CONTESTED


def good(kind: Type, message: str) -> Outcome:
    return Outcome(kind, "True", Reason.IN_FORCE, message)


def failed(kind: Type, error: BackendError | ApiError) -> Outcome:
    if isinstance(error, BackendError):
        return Outcome(kind, "False", error.reason, error.message)
    if error.unavailable:
        return Outcome(kind, "False", Reason.API_SERVER_UNAVAILABLE, f"{error.message}; it is tried again")
    return Outcome(kind, "False", Reason.RETRYING, f"The API server refused: {error.message}")


def compliance(tenant: Tenant, region: DataRegion) -> Outcome:
    """What was checked, and no more."""
    spec = tenant.spec.compliance
    where = f"served from {region.spec.jurisdiction}"
    if not spec.certifications and not spec.data_residency:
        return good(Type.COMPLIANT, f"Nothing is asked for; {where}")
    asked = ", ".join(filter(None, [spec.data_residency, *spec.certifications]))
    return good(Type.COMPLIANT, f"Checked for {asked}: the residency of the data ({where})")


def dollars(nano: int) -> str:
    """Nano-dollars as a decimal with at least two places."""
    whole, rest = divmod(nano, 1_000_000_000)
    digits = f"{rest:09d}".rstrip("0").ljust(2, "0")
    return f"{whole}.{digits}"


def rollout(seen: Rollout | None, resolved: Resolved) -> Outcome:
    """Of the runtime's Deployment: good once every replica is new and available."""
    wanted = resolved.replicas
    if seen is None or not seen.current:
        return Outcome(Type.RUNTIME, "False", Reason.ROLLING_OUT, "The Deployment is not yet acted upon")
    if seen.available >= wanted and seen.updated >= wanted and seen.replicas == seen.updated:
        return good(Type.RUNTIME, f"{seen.available} of {wanted} replicas are available")
    if seen.failing:
        return Outcome(
            Type.RUNTIME,
            "False",
            Reason.RUNTIME_UNAVAILABLE,
            f"{seen.available} of {wanted} replicas are available: {seen.failing}. Look at the Pods in "
            f"{resolved.runtime_namespace}",
        )
    text = f"{seen.updated} of {wanted} replicas are new, {seen.available} available"
    return Outcome(Type.RUNTIME, "False", Reason.ROLLING_OUT, text)


def waits(seen: Rollout | None, for_what: list[Type]) -> Outcome:
    """Not touched now: a runtime that is there goes on serving."""
    text = f"Waits for {', '.join(for_what)}"
    if seen and seen.available:
        text += "; the replicas that are there go on"
    return Outcome(Type.RUNTIME, "False", Reason.WAITING, text)
