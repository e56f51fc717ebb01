"""What a tenant has instead of its tier's, and whether that keeps within the tier's ceilings.

Each function gives what is in force and what is wrong with it.
"""

from collections.abc import Mapping
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Any

from pydantic.alias_generators import to_camel

from tenantry.api import quantity
from tenantry.api.base import ApiModel
from tenantry.api.conditions import Reason
from tenantry.api.tenant import Tenant
from tenantry.api.tier import Budget, Limits, Quota, ResourceAmounts, SubjectLimits, TenantTier
from tenantry.resolve.resolved import Problem


def quota(tenant: Tenant, tier: TenantTier) -> tuple[Quota, list[Problem]]:
    ceiling = tier.spec.quota_ceiling or tier.spec.quota
    own = _set(tenant.spec.quota)
    problems = [
        _above(tier, f"spec.quota.{to_camel(key)}", value, getattr(ceiling, key))
        for key, value in own.items()
        if quantity.parse(value) > quantity.parse(getattr(ceiling, key))
    ]
    return tier.spec.quota.model_copy(update=own), problems


def limits(tenant: Tenant, tier: TenantTier) -> tuple[Limits, list[Problem]]:
    """A limit of one user or key is measured by the tier's for one, and where that has none by the one for all."""
    own, usual = tenant.spec.ai.limits, tier.spec.limits
    problems = _above_all(tier, "spec.ai.limits", _amounts(own), usual)
    found: dict[str, Any] = _amounts(own)
    for part in _SUBJECTS:
        mine, theirs = getattr(own, part) or SubjectLimits(), getattr(usual, part) or SubjectLimits()
        ceiling = SubjectLimits(**{**_amounts(usual), **_amounts(theirs)})
        problems += _above_all(tier, f"spec.ai.limits.{to_camel(part)}", _amounts(mine), ceiling)
        if amounts := {**_amounts(theirs), **_amounts(mine)}:
            found[part] = SubjectLimits(**amounts)
    return usual.model_copy(update=found), problems


_SUBJECTS = ("per_user", "per_key")


def _amounts(limits: SubjectLimits) -> dict[str, int]:
    """The four that are set."""
    return {key: value for key, value in _set(limits).items() if key not in _SUBJECTS}


def _above_all(tier: TenantTier, where: str, own: Mapping[str, int], most: SubjectLimits) -> list[Problem]:
    return [
        _above(tier, f"{where}.{to_camel(key)}", value, ceiling)
        for key, value in own.items()
        if (ceiling := getattr(most, key)) is not None and value > ceiling
    ]


def budget(tenant: Tenant, tier: TenantTier) -> tuple[Budget | None, list[Problem]]:
    problems: list[Problem] = []
    own, usual = tenant.spec.ai.budget, tier.spec.budget
    if own is None:
        if usual and not _is_zone(usual.time_zone):
            problems.append(
                Problem(
                    Reason.INVALID_SPEC,
                    f"spec.budget.timeZone {usual.time_zone!r} of tier {tier.name!r} is no IANA time zone such as "
                    "Europe/Berlin; correct the TenantTier",
                )
            )
        return usual, problems
    if usual and Decimal(own.monthly) > Decimal(usual.monthly):
        problems.append(_above(tier, "spec.ai.budget.monthly", own.monthly, usual.monthly))
    if usual and usual.on_exceeded != "AlertOnly" and own.on_exceeded == "AlertOnly":
        problems.append(
            Problem(
                Reason.FEATURE_NOT_IN_TIER,
                f"spec.ai.budget.onExceeded: tier {tier.name!r} blocks calls over budget; remove AlertOnly",
            )
        )
    if not _is_zone(own.time_zone):
        problems.append(
            Problem(
                Reason.INVALID_SPEC,
                f"spec.ai.budget.timeZone {own.time_zone!r} is no IANA time zone such as Europe/Berlin",
            )
        )
    return Budget(**{**(usual.model_dump() if usual else {}), **_set(own)}), problems


def resources(tenant: Tenant, tier: TenantTier) -> tuple[ResourceAmounts, list[Problem]]:
    """Of the runtime's Pods."""
    amounts = tier.spec.runtime.resources.model_copy(update=_set(tenant.spec.runtime.resources))
    problems = [
        Problem(
            Reason.INVALID_SPEC,
            f"spec.runtime.resources: {what}Request is {request}, above {what}Limit, which is {limit}",
        )
        for what, request, limit in (
            ("cpu", amounts.cpu_request, amounts.cpu_limit),
            ("memory", amounts.memory_request, amounts.memory_limit),
        )
        if quantity.parse(request) > quantity.parse(limit)
    ]
    return amounts, problems


def template(tenant: Tenant, tier: TenantTier) -> tuple[str, list[Problem]]:
    """Of the system prompt."""
    own = tenant.spec.ai.system_prompt
    if own is None:
        return tier.spec.system_prompt_template, []
    if tier.spec.features.own_prompt_template:
        return own.template, []
    problem = Problem(
        Reason.FEATURE_NOT_IN_TIER,
        f"spec.ai.systemPrompt: tier {tier.name!r} has no prompt template of the tenant's own; "
        "remove it or move to a tier with that feature (spec.ai.customInstructions is always possible)",
    )
    return own.template, [problem]


def max_tokens(tenant: Tenant, tier: TenantTier) -> tuple[int, list[Problem]]:
    """Of one request."""
    most = tier.spec.max_tokens_per_request
    tokens = tenant.spec.ai.max_tokens_per_request or most
    if tokens <= most:
        return tokens, []
    text = f"spec.ai.maxTokensPerRequest is {tokens}, tier {tier.name!r} allows {most}"
    return tokens, [Problem(Reason.QUOTA_ABOVE_CEILING, text)]


def _set(own: ApiModel) -> dict[str, Any]:
    """The fields that the tenant has set."""
    return {k: v for k, v in own.model_dump().items() if v is not None}


def _above(tier: TenantTier, field: str, value: object, most: object) -> Problem:
    text = f"{field} is {value}, tier {tier.name!r} allows at most {most}"
    return Problem(Reason.QUOTA_ABOVE_CEILING, text)


def _is_zone(name: str | None) -> bool:
    """Also where none is said."""
    return not name or name in _time_zones()


@cache
def _time_zones() -> frozenset[str]:
    """IANA's own list: the machine's folder has more, such as `localtime`, which no database knows."""
    return frozenset((files("tzdata") / "zones").read_text(encoding="ascii").split())
