"""AccessKey: an API key for the tenant's runtime, made by the tenant's developer in the tenant's own namespace."""

from datetime import datetime
from typing import Any, ClassVar, Literal

from pydantic import Field

from tenantry.api.base import UNSEEN, ApiModel, Condition, Resource, condition_list, duration_rules, rule, rules

Scope = Literal["chat", "embeddings", "documents", "conversations", "usage", "audit", "admin"]
DEFAULT_SCOPES: tuple[Scope, ...] = ("chat", "embeddings", "documents")


class AccessKeySpec(ApiModel):
    """Who uses the key, for what, and until when."""

    user: str = Field(
        default="",
        max_length=128,
        pattern=r"^[^\x00-\x1f\x7f]*$",
        description="Whose the calls are, in ledger, audit, limits and conversations; the AccessKey's name if unset.  "
        "No control characters.",
    )
    scopes: tuple[Scope, ...] = Field(
        default=DEFAULT_SCOPES,
        min_length=1,
        max_length=7,
        json_schema_extra={"x-kubernetes-list-type": "set"},
        description="What the key may do; admin: see the resolved system prompt.",
    )
    act_for_users: bool = Field(
        default=False,
        description="The key may say in the header X-Tenantry-User for which end user it calls; without, the header is "
        "ignored.",
    )
    expires_at: datetime | None = Field(
        default=None,
        description="The key stops working at this time, on every replica; never if unset.",
        # The API server knows a year 0, Python's calendar and PostgreSQL's do not.
        json_schema_extra=rules(
            rule(
                "self > timestamp('2000-01-01T00:00:00Z') && self < timestamp('9999-01-01T00:00:00Z')",
                "must lie between the years 2000 and 9998",
            )
        ),
    )
    rotate_after: str = Field(
        default="",
        max_length=18,
        description="The age, such as 720h, at which the key is replaced by a new one; never by age if unset.",
        json_schema_extra=duration_rules("5m", "87600h"),
    )
    overlap: str = Field(
        default="24h",
        max_length=18,
        description="How long the key before works on after a rotation, such as 24h; 0s: it ends at once.",
        json_schema_extra=duration_rules("0s", "8760h"),
    )


class AccessKeyStatus(ApiModel):
    """What the operator made of it; never the key itself."""

    observed_generation: int | None = Field(
        default=None, description="The metadata.generation that the operator last acted on."
    )
    secret_name: str = Field(default="", max_length=253, description="The Secret that holds api-key and base-url.")
    rotation: str = Field(
        default="",
        max_length=256,
        description="The annotation tenantry.dev/rotate that was last heard.",
    )
    generation: int = Field(default=0, ge=0, le=999_999_999, description="How often the key was replaced so far.")
    rotated_at: datetime | None = Field(
        default=None, description="When the Secret was seen to hold this generation of the key."
    )
    previous_until: datetime | None = Field(
        default=None, description="Until when the key before still works; it does not if unset."
    )
    conditions: tuple[Condition, ...] = condition_list(16)


class AccessKey(Resource):
    """A key for the tenant's runtime; the operator writes the Secret accesskey-NAME beside it."""

    kind_name: ClassVar[str] = "AccessKey"
    plural: ClassVar[str] = "accesskeys"
    short_names: ClassVar[tuple[str, ...]] = ("ak",)
    namespaced: ClassVar[bool] = True
    columns: ClassVar[tuple[tuple[str, str, str], ...]] = (
        ("Ready", "string", ".status.conditions[?(@.type=='Ready')].status"),
        ("Reason", "string", ".status.conditions[?(@.type=='Ready')].reason"),
        ("User", "string", ".spec.user"),
        ("Secret", "string", ".status.secretName"),
        ("Expires", "string", ".spec.expiresAt"),
        ("Age", "date", ".metadata.creationTimestamp"),
    )
    root_rules: ClassVar[tuple[dict[str, str], ...]] = (
        rule("self.metadata.name.size() <= 53", "metadata.name must have at most 53 characters"),
    )
    default_status: ClassVar[dict[str, Any] | None] = UNSEEN

    spec: AccessKeySpec = Field(
        default=AccessKeySpec(),
        json_schema_extra=rules(
            rule(
                "!has(self.rotateAfter) || !has(self.overlap) || duration(self.overlap) <= duration(self.rotateAfter)",
                "spec.overlap must not be longer than spec.rotateAfter",
            )
        ),
    )
    status: AccessKeyStatus | None = None
