"""What the kinds share: camelCase on the wire, metadata, conditions, and rules in CEL."""

import re
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

DURATION = r"^([0-9]{1,5}[hms]){1,3}$"
DECIMAL = r"^[0-9]{1,9}(\.[0-9]{1,9})?$"
DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DNS_SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"

ModelName = Annotated[str, Field(min_length=1, max_length=128)]
Jurisdiction = Literal["US", "EU", "APAC"]
Amount = Annotated[
    str,
    Field(
        max_length=20,
        description='A decimal number in US dollars, as a string: "100" or "0.15".',
        json_schema_extra={
            "x-kubernetes-validations": [
                {"rule": f"self.matches(r'{DECIMAL}')", "message": 'must be a decimal number such as "12.50"'}
            ]
        },
    ),
]


_UNITS = {"h": 3600, "m": 60, "s": 1}


def seconds(duration: str) -> int:
    """``1h30m`` -> 5400.  Raises ValueError for what is no such duration."""
    if not re.fullmatch(DURATION, duration):
        raise ValueError(f"{duration!r} is no duration such as 24h or 1h30m")
    return sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"([0-9]+)([hms])", duration))


def duration_rules(least: str, most: str) -> dict[str, Any]:
    """For `json_schema_extra` of a duration with bounds."""
    inside = f"duration(self) >= duration('{least}') && duration(self) <= duration('{most}')"
    return rules(
        rule(
            f"self.matches('{DURATION}') && {inside}",
            f"must be a duration of hours, minutes and seconds from {least} to {most}, such as 24h or 1h30m",
        )
    )


def rule(expression: str, message: str, **more: str) -> dict[str, str]:
    """One CEL rule.  `message` is the sentence that `kubectl apply` prints: it names the field."""
    return {"rule": expression, "message": message, **more}


def rules(*items: dict[str, str]) -> dict[str, Any]:
    """For `json_schema_extra`."""
    return {"x-kubernetes-validations": list(items)}


class ApiModel(BaseModel):
    """Frozen, camelCase on the wire.  Unknown fields are ignored: the API server has pruned or refused them."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")


class Condition(ApiModel):
    """As in metav1.Condition."""

    type: str = Field(max_length=64, description="What it is about, such as Ready.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: str = Field(
        default="", max_length=128, description="One word for programs; docs/reasons.md says what to do about each."
    )
    message: str = Field(default="", max_length=2048, description="A sentence that says what to do.")
    last_transition_time: datetime | None = Field(default=None, description="When the status last changed.")
    observed_generation: int | None = Field(default=None, description="The metadata.generation that this was seen for.")


def condition_list(most: int) -> Any:
    """The field of a status."""
    return Field(
        default=(),
        max_length=most,
        description="What holds, as kstatus reads it; docs/reasons.md explains each reason.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )


UNSEEN: dict[str, Any] = {
    "conditions": [
        {
            "type": "Ready", "status": "Unknown", "reason": "Pending",
            "message": "Waiting for the operator", "lastTransitionTime": "1970-01-01T00:00:00Z",
        }
    ]
}  # fmt: skip
"""The status of what the operator has not looked at yet: tools that wait for Ready go on waiting."""


class Meta(ApiModel):
    """The part of ObjectMeta that the operator reads."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    finalizers: tuple[str, ...] = ()
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    changed_by: str = Field(
        default="", description="The field manager that wrote to the spec last; the view fills it in for Tenants."
    )


class SecretReference(ApiModel):
    """A Secret in the operator's own namespace."""

    name: str = Field(min_length=1, max_length=253, description="The Secret's name.")


class Resource(ApiModel):
    """One kind.  Class variables say what the CRD needs beside the schema."""

    kind_name: ClassVar[str]
    plural: ClassVar[str]
    short_names: ClassVar[tuple[str, ...]] = ()
    namespaced: ClassVar[bool] = False
    columns: ClassVar[tuple[tuple[str, str, str], ...]] = ()
    """Printer columns: name, type, JSONPath."""
    root_rules: ClassVar[tuple[dict[str, str], ...]] = ()
    default_status: ClassVar[dict[str, Any] | None] = None

    metadata: Meta = Meta()

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def uid(self) -> str:
        return self.metadata.uid

    @property
    def reference(self) -> dict[str, Any]:
        """Which object a write is for: another one of its name is left alone."""
        return {"metadata": {"name": self.name, "namespace": self.metadata.namespace, "uid": self.uid}}
