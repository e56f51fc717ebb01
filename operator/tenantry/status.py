"""From what was seen to what `kubectl get tenant` shows.  Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from tenantry import names
from tenantry.api.base import Condition
from tenantry.api.conditions import STALLING, Reason, Type
from tenantry.api.tenant import Pinned, RolledBack, RotatedCredentials, Spend, Tenant
from tenantry.resolve import Problem, Resolved

Json = dict[str, Any]
SUBSYSTEMS = (Type.COMPLIANT, Type.NAMESPACES, Type.DATABASE, Type.VECTORS, Type.RUNTIME)
"""In the order in which the first that fails gives `Ready` its reason."""

SAID = (*SUBSYSTEMS, Type.WITHIN_BUDGET)
"""What has a condition of its own; a spent budget leaves the tenant Ready, for all but model calls go on."""

SPEND_SECONDS = 300
"""The spend is written at most once in this time."""


_REMARKS = {
    "Removing": "What had been made is being removed",
    "Removed": "What had been made was removed",
}


@dataclass(frozen=True)
class Outcome:
    """What was seen of one subsystem."""

    type: Type
    status: Literal["True", "False", "Unknown"]
    reason: Reason
    message: str

    @property
    def good(self) -> bool:
        return self.status == "True"

    @property
    def stalls(self) -> bool:
        return not self.good and self.reason in STALLING


@dataclass
class Report:
    """Everything that one reconcile has to say."""

    outcomes: dict[Type, Outcome] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    resolved: Resolved | None = None
    pinned: Pinned | None = None
    database: str = ""
    vectors: str = ""
    secrets: tuple[str, ...] = ()
    spend: Spend | None = None
    rolled_back: RolledBack | None = None
    credentials: RotatedCredentials | None = None
    remark: str = ""
    """What became of what had been made, where a first provisioning failed for good."""

    def add(self, outcome: Outcome) -> None:
        self.outcomes[outcome.type] = outcome

    @property
    def ready(self) -> bool:
        return not self.problems and all(t in self.outcomes and self.outcomes[t].good for t in SUBSYSTEMS)

    @property
    def stalled(self) -> Outcome | None:
        """The first thing that only a person can mend."""
        for problem in self.problems:
            return Outcome(Type.STALLED, "False", problem.reason, problem.message)
        return next((o for t in SUBSYSTEMS if (o := self.outcomes.get(t)) and o.stalls), None)


def conditions(report: Report, before: Iterable[Condition], generation: int, now: datetime) -> list[Json]:
    """The whole list; a condition whose status stays keeps its transition time."""
    stalled = report.stalled
    waiting = next((o for t in SUBSYSTEMS if (o := report.outcomes.get(t)) and not o.good), None)
    worst = stalled or waiting
    tail = report.remark or (_REMARKS.get(report.rolled_back.state, "") if report.rolled_back else "")
    tail = f". {tail}" if tail else ""
    said = [o.message for t in SUBSYSTEMS if (o := report.outcomes.get(t)) and o.reason is Reason.ROTATION_WAITS]
    notes = " ".join([*(report.resolved.notes if report.resolved else ()), *said])
    made: list[Outcome] = []
    if report.ready:
        suspended = report.resolved is not None and report.resolved.suspended
        reason = Reason.SUSPENDED if suspended else Reason.READY
        text = "Suspended: the runtime refuses every call" if suspended else "Everything was seen to hold"
        made.append(Outcome(Type.READY, "True", reason, f"{text}. {notes}".strip() if notes else text))
    elif worst:
        others = "".join(f" Also: {p.message}." for p in report.problems[1:])
        made.append(Outcome(Type.READY, "False", worst.reason, worst.message + others + tail))
    else:
        made.append(Outcome(Type.READY, "False", Reason.PROVISIONING, "Under way"))
    head = made[0]
    made.append(
        Outcome(Type.RECONCILING, "False", head.reason, head.message)
        if report.ready or stalled
        else Outcome(Type.RECONCILING, "True", head.reason, head.message)
    )
    made.append(
        Outcome(Type.STALLED, "True", stalled.reason, stalled.message + tail)
        if stalled
        else Outcome(Type.STALLED, "False", Reason.IN_FORCE, "Nothing asks for a person")
    )
    made += [report.outcomes[t] for t in SAID if t in report.outcomes]
    old = {c.type: c for c in before}
    if report.problems and not report.rolled_back:
        # What was provisioned goes on as it was; its conditions still say so.
        done = {o.type for o in made}
        for t in SAID:
            if t not in done and t in old and old[t].last_transition_time:
                c = old[t]
                made.append(Outcome(t, c.status, known(c.reason), c.message))
    return [_condition(o, old.get(o.type), generation, now) for o in made]


def known(text: str) -> Reason:
    """A stored reason; one that this version does not know counts as passing."""
    try:
        return Reason(text)
    except ValueError:
        return Reason.RETRYING


def _condition(outcome: Outcome, old: Condition | None, generation: int, now: datetime) -> Json:
    same = old is not None and old.status == outcome.status and old.last_transition_time
    when = old.last_transition_time if old is not None and same else now
    assert when is not None
    return {
        "type": str(outcome.type),
        "status": outcome.status,
        "reason": str(outcome.reason),
        "message": outcome.message[:2048],
        "lastTransitionTime": stamp(when),
        "observedGeneration": generation,
    }


def build(tenant: Tenant, report: Report, now: datetime) -> Json:
    """The status subresource, whole."""
    old = tenant.status
    status: Json = {
        "observedGeneration": tenant.metadata.generation,
        "conditions": conditions(report, tenant.conditions, tenant.metadata.generation, now),
    }
    gone = report.rolled_back is not None and report.rolled_back.state == "Removed"
    pinned = report.pinned or tenant.pinned
    if pinned and not gone:
        status["pinned"] = pinned.model_dump(by_alias=True)
    resolved = report.resolved
    if resolved and not gone:
        status |= {
            "tier": resolved.tier,
            "region": resolved.region,
            "endpoint": names.endpoint(resolved.name),
            "namespaces": [w.name for w in resolved.workloads] + [resolved.runtime_namespace],
        }
    elif old and not gone:
        status |= {"tier": old.tier, "region": old.region, "endpoint": old.endpoint, "namespaces": list(old.namespaces)}
    status["database"] = report.database or (old.database if old and not gone else "")
    status["vectors"] = report.vectors or (old.vectors if old and not gone else "")
    status["secrets"] = list(report.secrets or (old.secrets if old and not gone else ()))
    spend = report.spend or (old.spend if old else None)
    if spend:
        status["spend"] = spend.model_dump(mode="json", by_alias=True)
    first = tenant.first_ready or (now if report.ready else None)
    if first:
        status["firstReadyAt"] = stamp(first)
    status["adoptedUid"] = old.adopted_uid if old else ""
    if report.rolled_back:
        status["rolledBack"] = report.rolled_back.model_dump(mode="json", by_alias=True)
    credentials = report.credentials or (old.credentials if old else None)
    if credentials and (credentials.generation or credentials.shared_user):
        status["credentials"] = credentials.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {k: v for k, v in status.items() if v not in ("", [])}


def stamp(when: datetime) -> str:
    """As the API server has times: UTC, whole seconds."""
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def current(tenant: Tenant) -> Json:
    """The status as it is stored, in the same form as `build` gives it."""
    old = tenant.status
    if old is None:
        return {}
    dumped = old.model_dump(mode="json", by_alias=True, exclude_none=True)
    dumped["conditions"] = [
        {
            "type": c.type,
            "status": c.status,
            "reason": c.reason,
            "message": c.message,
            "lastTransitionTime": stamp(c.last_transition_time),
            "observedGeneration": c.observed_generation,
        }
        for c in old.conditions
        if c.last_transition_time
    ]
    if old.first_ready_at:
        dumped["firstReadyAt"] = stamp(old.first_ready_at)
    return {k: v for k, v in dumped.items() if v not in ("", [])}


def patch(before: Json, after: Json) -> Json | None:
    """The merge patch that makes `after` of `before`; None if they are equal."""
    if before == after:
        return None
    gone: Json = {k: None for k in before if k not in after}
    for k, v in after.items():
        if before.get(k) != v:
            # Fields that are left out of an object would stay as they are.
            old = before.get(k)
            gone[k] = patch(old, v) if isinstance(v, dict) and isinstance(old, dict) else v
    return gone


def transitions(before: Sequence[Condition], after: Sequence[Json]) -> list[Json]:
    """The conditions whose status or reason is another than before."""
    old = {c.type: (c.status, c.reason) for c in before}
    return [c for c in after if old.get(c["type"]) != (c["status"], c["reason"])]
