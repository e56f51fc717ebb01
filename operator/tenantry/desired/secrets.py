"""The Secrets of a tenant.  Values are base64 in `data`, as the API server returns them, so that they compare."""

import base64
import hashlib
from urllib.parse import quote

from tenantry import names
from tenantry.api.accesskey import AccessKey
from tenantry.credentials import Credentials
from tenantry.desired.meta import Json, metadata
from tenantry.desired.vectors import Place
from tenantry.desired.workload import CREDENTIALS_FILE, SECRET
from tenantry.resolve import Resolved
from tenantry_runtime import config

POSTGRES = "postgres"
MILVUS = "milvus"


def runtime(resolved: Resolved, credentials: config.Credentials) -> Json:
    """What the runtime mounts; in the runtime's namespace, out of the tenant's reach."""
    return _secret(resolved, SECRET, resolved.runtime_namespace, {CREDENTIALS_FILE: credentials.to_json()})


def digest(secret: Json) -> str:
    """SHA-256 (hex) of a Secret's data: says that it changed, not what it holds."""
    text = "\0".join(f"{key}={value}" for key, value in sorted(secret["data"].items()))
    return hashlib.sha256(text.encode()).hexdigest()


def postgres_database(resolved: Resolved) -> str:
    """The tenant's own database, or the region's."""
    if resolved.database_isolation == "Database":
        return names.database(resolved.name)
    return resolved.region_spec.postgres.database


def postgres(resolved: Resolved, credentials: Credentials) -> Json:
    """The tenant's own login, for its applications: each part, and all of them as one URI."""
    server = resolved.region_spec.postgres
    user, password = names.schema(resolved.name), credentials.tenant_postgres(resolved.uid)
    database = postgres_database(resolved)
    host = f"[{server.host}]" if ":" in server.host else server.host
    values = {
        "host": server.host,
        "port": str(server.port),
        "database": database,
        "schema": names.schema(resolved.name),
        "username": user,
        "password": password,
        "sslmode": server.sslmode,
        "uri": f"postgresql://{user}:{quote(password, safe='')}@{host}:{server.port}/{quote(database, safe='')}"
        f"?sslmode={server.sslmode}",
    }
    return _secret(resolved, POSTGRES, resolved.home, values)


def milvus(resolved: Resolved, place: Place, login: tuple[str, str]) -> Json | None:
    """The tenant's own Milvus user (`login`: name, password); None at level Partition, which has no such user."""
    if resolved.vectors.isolation == "Partition" or not login[0]:
        return None
    values = {
        "uri": resolved.region_spec.milvus.uri,
        "username": login[0],
        "password": login[1],
        "database": place.database,
        "collection": place.collection,
    }
    return _secret(resolved, MILVUS, resolved.home, values)


def access_key_secret(key: AccessKey) -> str:
    """The name of an AccessKey's Secret."""
    return f"accesskey-{key.name}"


def access_key(resolved: Resolved, key: AccessKey, api_key: str, base_url: str) -> Json:
    """Beside the AccessKey, and removed with it by the garbage collector: it is of no use without it."""
    made = _secret(
        resolved,
        access_key_secret(key),
        key.metadata.namespace,
        {"api-key": api_key, "base-url": base_url},
    )
    made["metadata"]["ownerReferences"] = [
        {"apiVersion": names.API_VERSION, "kind": AccessKey.kind_name, "name": key.name, "uid": key.uid}
    ]
    return made


def _secret(resolved: Resolved, name: str, namespace: str, values: dict[str, str]) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(resolved, name, namespace),
        "type": "Opaque",
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in values.items()},
    }
