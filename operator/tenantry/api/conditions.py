"""The one list of condition types and reasons.  `docs/reasons.md` says what to do about each."""

from enum import StrEnum


class Type(StrEnum):
    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    NAMESPACES = "NamespacesReady"
    DATABASE = "DatabaseReady"
    VECTORS = "VectorsReady"
    RUNTIME = "RuntimeReady"
    COMPLIANT = "Compliant"
    WITHIN_BUDGET = "WithinBudget"


class Reason(StrEnum):
    """CamelCase, as Kubernetes has it."""

    # All is well.
    READY = "Ready"
    IN_FORCE = "InForce"
    SUSPENDED = "Suspended"
    ROTATION_WAITS = "RotationWaits"
    # Money: the tenant is Ready all the same.
    BUDGET_ALERT = "BudgetAlert"
    BUDGET_EXCEEDED = "BudgetExceeded"
    # On the way.
    PROVISIONING = "Provisioning"
    WAITING = "Waiting"
    ROLLING_OUT = "RollingOut"
    DELETING = "Deleting"
    # What a retry mends.
    API_SERVER_UNAVAILABLE = "ApiServerUnavailable"
    DATABASE_UNAVAILABLE = "DatabaseUnavailable"
    DATABASE_REFUSED = "DatabaseRefused"
    VECTORS_UNAVAILABLE = "VectorsUnavailable"
    VECTORS_REFUSED = "VectorsRefused"
    CREDENTIALS_MISSING = "CredentialsMissing"
    RUNTIME_UNAVAILABLE = "RuntimeUnavailable"
    QUOTA_EXCEEDED = "QuotaExceeded"
    RETRYING = "Retrying"
    CONTESTED = "Contested"
    # What a person must mend; the operator looks again when something changes.
    UNKNOWN_TIER = "UnknownTier"
    UNKNOWN_REGION = "UnknownRegion"
    INVALID_SPEC = "InvalidSpec"
    QUOTA_ABOVE_CEILING = "QuotaAboveCeiling"
    MODEL_NOT_ALLOWED = "ModelNotAllowed"
    MODEL_WITHOUT_PRICE = "ModelWithoutPrice"
    FEATURE_NOT_IN_TIER = "FeatureNotInTier"
    INVALID_TEMPLATE = "InvalidTemplate"
    RESIDENCY_VIOLATED = "ResidencyViolated"
    FOREIGN_OBJECT = "ForeignObject"
    UNAUTHENTICATED_MILVUS = "UnauthenticatedMilvus"
    CAPACITY_EXHAUSTED = "CapacityExhausted"
    DELETION_PROTECTED = "DeletionProtected"
    ADOPTION_REFUSED = "AdoptionRefused"
    EXPIRED = "Expired"
    TOO_MANY_KEYS = "TooManyKeys"


ROLLED_BACK: frozenset[Reason] = frozenset(
    {
        Reason.UNKNOWN_TIER,
        Reason.UNKNOWN_REGION,
        Reason.INVALID_SPEC,
        Reason.QUOTA_ABOVE_CEILING,
        Reason.MODEL_NOT_ALLOWED,
        Reason.MODEL_WITHOUT_PRICE,
        Reason.FEATURE_NOT_IN_TIER,
        Reason.INVALID_TEMPLATE,
        Reason.RESIDENCY_VIOLATED,
        Reason.FOREIGN_OBJECT,
        Reason.UNAUTHENTICATED_MILVUS,
        Reason.CAPACITY_EXHAUSTED,
    }
)
"""Reasons for which a first provisioning takes back what it made: a tenant that was ever Ready keeps all."""

STALLING: frozenset[Reason] = ROLLED_BACK | {Reason.DELETION_PROTECTED, Reason.ADOPTION_REFUSED}
"""Reasons that set `Stalled`: no retry mends them."""
