"""Every name that a tenant's things carry, in one place, so that what is made is also found and removed."""

import base64
import hashlib
import re
import uuid

GROUP = "tenantry.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

MANAGER = "tenantry"
"""The field manager of every write, and the value of the managed-by label."""

TENANT_LABEL = f"{GROUP}/tenant"
ROLE_LABEL = f"{GROUP}/role"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
UID_ANNOTATION = f"{GROUP}/tenant-uid"
FINALIZER = f"{GROUP}/cleanup"
PINNED_ANNOTATION = f"{GROUP}/pinned"
"""On a Tenant, by the operator: what first provisioning fixed, in JSON.  A backup that drops status keeps it."""
ROTATE_ANNOTATION = f"{GROUP}/rotate"
"""On an AccessKey: any new value makes a new key.  On a Tenant: new logins for its runtime."""

ADOPT_ANNOTATION = f"{GROUP}/adopt-uid"
"""On a Tenant: the UID that what is found under its name carries, such as after a restore from a backup."""

OWNER_ROLE = "tenantry-owner"
"""The chart's ClusterRole of what a tenant's owners may do."""

RUNTIME = "runtime"
"""The Deployment and the Service of a tenant's runtime."""

LONGEST_TENANT = 40
LONGEST_SUFFIX = 14


def workload_namespace(tenant: str, suffix: str = "") -> str:
    """``tenant-acme``, or ``tenant-acme--dev`` for the extra namespace ``dev``."""
    return f"tenant-{tenant}--{suffix}" if suffix else f"tenant-{tenant}"


def runtime_namespace(tenant: str) -> str:
    return f"runtime-{tenant}"


def endpoint(tenant: str) -> str:
    """The base URL that the official SDK takes."""
    return f"http://{RUNTIME}.{runtime_namespace(tenant)}.svc:8000/v1"


def schema(tenant: str) -> str:
    """The tenant's own schema, and its login role.  Names hold no underscore, so no two tenants meet."""
    return "tenant_" + tenant.replace("-", "_")


def runtime_schema(tenant: str) -> str:
    return schema(tenant) + "__runtime"


def database(tenant: str) -> str:
    """The tenant's own database, where its isolation is ``Database``."""
    return schema(tenant)


def bare(uid: str) -> str:
    """A UID without dashes: 32 characters."""
    return uid.replace("-", "")


def short(uid: str) -> str:
    """A UID in base32: 26 characters, for names that have few (a Milvus user has under 32)."""
    try:
        raw = uuid.UUID(uid).bytes
    except ValueError:
        raw = hashlib.sha256(uid.encode()).digest()[:16]
    return base64.b32encode(raw).decode().rstrip("=").lower()


def slug(text: str) -> str:
    """Lower-case letters, digits and single underscores."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
