"""What every object of a tenant carries: labels to find it by, and the Tenant's UID to know it by."""

import hashlib
import json
from typing import Any

from tenantry import names
from tenantry.api.conditions import Reason
from tenantry.resolve import Problem, Resolved

Json = dict[str, Any]

NAME = "tenantry"
"""Of what a namespace has one of: its quota, its limits, its network policy."""
NAME_LABEL = "app.kubernetes.io/name"
DIGEST_ANNOTATION = f"{names.GROUP}/spec-digest"
"""SHA-256 of the spec as it was applied: a field that is no longer wanted shows here, and nowhere else."""
WORKLOAD = "workload"
RUNTIME = "runtime"


class DesiredError(Exception):
    """What can't be built from this tenant's tier and region; `problem` is for the condition."""

    def __init__(self, message: str, reason: Reason = Reason.INVALID_SPEC) -> None:
        super().__init__(message)
        self.problem = Problem(reason, message)


def metadata(
    resolved: Resolved,
    name: str,
    namespace: str | None = None,
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
) -> Json:
    """ObjectMeta with our labels and the UID annotation; no ownerReferences to the Tenant (see names.py)."""
    made: Json = {
        "name": name,
        "labels": {
            names.MANAGED_BY_LABEL: names.MANAGER,
            names.TENANT_LABEL: resolved.name,
            **(labels or {}),
        },
        "annotations": {names.UID_ANNOTATION: resolved.uid, **(annotations or {})},
    }
    if namespace is not None:
        made["namespace"] = namespace
    return made


def digested(obj: Json) -> Json:
    """The object with the digest of its spec, for kinds whose defaults the API server fills in."""
    text = json.dumps(obj["spec"], sort_keys=True)
    meta = obj["metadata"]
    annotations = {**meta["annotations"], DIGEST_ANNOTATION: hashlib.sha256(text.encode()).hexdigest()}
    return {**obj, "metadata": {**meta, "annotations": annotations}}
