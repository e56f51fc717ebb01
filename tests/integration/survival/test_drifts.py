"""Every child edited, deleted or without our marks, at each level of isolation: put back, and counted by subsystem."""

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
from pymilvus.exceptions import MilvusException

from dev.cluster import postgres
from tests.integration.operator.world import ADMIN_PASSWORD, GROUP, Replica, World, until
from tests.integration.survival.kills import DATABASES

Json = dict[str, Any]
TENANTS: dict[str, tuple[str, Json]] = {
    "drift-free": ("free", {}),
    "drift-own": ("enterprise", {}),
    "drift-base": ("enterprise", DATABASES),
}
LABELS = ("tenantry.dev/tenant", "app.kubernetes.io/managed-by")
UID = "tenantry.dev/tenant-uid"
DELETED = "deleted"
OPEN = {"spec": {"ingress": [{}], "policyTypes": ["Ingress"]}}
ANYBODY = [{"kind": "User", "name": "mallory", "apiGroup": "rbac.authorization.k8s.io"}]
PATHS = {
    "quota": "/api/v1/namespaces/{ns}/resourcequotas/tenantry",
    "limits": "/api/v1/namespaces/{ns}/limitranges/tenantry",
    "walls": "/apis/networking.k8s.io/v1/namespaces/{ns}/networkpolicies/tenantry",
    "owner": "/apis/rbac.authorization.k8s.io/v1/namespaces/{ns}/rolebindings/tenantry-owner",
    "rights": "/apis/rbac.authorization.k8s.io/v1/namespaces/{ns}/rolebindings/tenantry-secrets",
    "account": "/api/v1/namespaces/{ns}/serviceaccounts/runtime",
    "service": "/api/v1/namespaces/{ns}/services/runtime",
    "deployment": "/apis/apps/v1/namespaces/{ns}/deployments/runtime",
    "namespace": "/api/v1/namespaces/{ns}",
    "secret postgres": "/api/v1/namespaces/{ns}/secrets/postgres",
    "secret milvus": "/api/v1/namespaces/{ns}/secrets/milvus",
    "secret key": "/api/v1/namespaces/{ns}/secrets/accesskey-default",
    "secret runtime": "/api/v1/namespaces/{ns}/secrets/runtime",
}


def unmarked(annotation: bool = False) -> Json:
    return {"metadata": {"annotations": {UID: None}} if annotation else {"labels": dict.fromkeys(LABELS)}}


def replaced(**data: str) -> Json:
    return {"stringData": data}


OBJECTS: list[tuple[str, str, str, Json | str]] = [
    # tenant, namespace, object, what is done to it
    ("drift-free", "tenant", "quota", {"spec": {"hard": {"pods": "9999"}}}),
    ("drift-own", "tenant", "quota", DELETED),
    ("drift-base", "tenant", "quota", unmarked()),
    ("drift-free", "runtime", "quota", unmarked(annotation=True)),
    ("drift-free", "tenant", "limits", DELETED),
    ("drift-own", "tenant", "limits", {"spec": {"limits": [{"type": "Container", "default": {"cpu": "64"}}]}}),
    ("drift-base", "tenant", "limits", unmarked()),
    ("drift-free", "tenant", "walls", OPEN),
    ("drift-own", "tenant", "walls", DELETED),
    ("drift-base", "tenant", "walls", unmarked()),
    ("drift-own", "runtime", "walls", {"spec": {"egress": [{}]}}),
    ("drift-base", "runtime", "walls", DELETED),
    ("drift-free", "runtime", "walls", unmarked(annotation=True)),
    ("drift-free", "tenant", "owner", {"subjects": ANYBODY}),
    ("drift-own", "tenant", "owner", DELETED),
    ("drift-base", "tenant", "owner", unmarked()),
    ("drift-free", "tenant", "rights", DELETED),
    ("drift-own", "runtime", "rights", DELETED),
    ("drift-free", "runtime", "account", {"automountServiceAccountToken": True}),
    ("drift-own", "runtime", "account", DELETED),
    ("drift-base", "runtime", "account", unmarked()),
    ("drift-free", "runtime", "service", {"spec": {"selector": {"app": "mallory"}}}),
    ("drift-own", "runtime", "service", DELETED),
    ("drift-base", "runtime", "service", unmarked()),
    ("drift-free", "runtime", "deployment", {"spec": {"replicas": 3}}),
    ("drift-own", "runtime", "deployment", DELETED),
    ("drift-base", "runtime", "deployment", unmarked()),
    (
        "drift-free",
        "tenant",
        "namespace",
        {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}},
    ),
    ("drift-own", "tenant", "namespace", unmarked()),
    ("drift-base", "tenant", "namespace", unmarked(annotation=True)),
    ("drift-free", "tenant", "secret postgres", replaced(password="somebody else's")),
    ("drift-own", "tenant", "secret postgres", DELETED),
    ("drift-base", "tenant", "secret postgres", unmarked()),
    ("drift-own", "tenant", "secret milvus", replaced(username="root")),
    ("drift-base", "tenant", "secret milvus", DELETED),
    ("drift-free", "tenant", "secret key", DELETED),
    ("drift-own", "tenant", "secret key", replaced(**{"api-key": "tk-somebody-elses"})),
    ("drift-free", "runtime", "secret runtime", replaced(**{"credentials.json": "{}"})),
    ("drift-own", "runtime", "secret runtime", DELETED),
]

SETTINGS = "SELECT rolcanlogin, rolsuper, rolcreatedb, rolcreaterole, rolbypassrls, rolinherit, rolconnlimit, rolconfig"
ROLE = SETTINGS + " FROM pg_roles WHERE rolname = '{schema}'"
MEMBERS = (
    "SELECT r.rolname, m.rolname FROM pg_auth_members a JOIN pg_roles r ON r.oid = a.roleid"
    " JOIN pg_roles m ON m.oid = a.member WHERE m.rolname LIKE '{schema}%' ORDER BY 1, 2"
)
SCHEMAS = (
    "SELECT nspname, nspacl::text, pg_get_userbyid(nspowner) FROM pg_namespace"
    " WHERE nspname LIKE '{schema}%' ORDER BY 1"
)
KEYS = (
    "SELECT uid, name, namespace, key_sha256, user_name, scopes, act_for_users, expires_at"
    " FROM {schema}__runtime.access_keys"
)
DOCUMENT = "SELECT document::text FROM {schema}__runtime.configuration"
TABLES = (
    "SELECT c.relname, c.relacl::text, pg_get_userbyid(c.relowner) FROM pg_class c JOIN pg_namespace n"
    " ON n.oid = c.relnamespace WHERE n.nspname = '{schema}__runtime' AND c.relkind = 'r'"
    " AND NOT c.relispartition ORDER BY 1"  # the audit's months come some time after a tenant is Ready
)
ROWS: list[tuple[str, str, str]] = [
    # tenant, what is done, what must be as before
    ("drift-free", "ALTER ROLE {schema} CONNECTION LIMIT 1000 CREATEDB", ROLE),
    ("drift-own", "ALTER ROLE {schema} CREATEROLE CONNECTION LIMIT -1", ROLE),
    ("drift-base", "ALTER ROLE {schema} SET search_path TO public", ROLE),
    ("drift-free", "GRANT {schema}__runtime TO {schema}", MEMBERS),
    ("drift-own", "REVOKE {schema}__runtime FROM {schema}__runtime_a", MEMBERS),
    ("drift-free", "GRANT USAGE ON SCHEMA {schema}__runtime TO PUBLIC", SCHEMAS),
    ("drift-own", "REVOKE ALL ON SCHEMA {schema} FROM {schema}", SCHEMAS),
    ("drift-base", "GRANT ALL ON SCHEMA {schema}__runtime TO {schema}", SCHEMAS),
    ("drift-free", "DELETE FROM {schema}__runtime.access_keys", KEYS),
    ("drift-own", "UPDATE {schema}__runtime.access_keys SET scopes = '{{admin}}', act_for_users = true", KEYS),
    ("drift-base", "DELETE FROM {schema}__runtime.access_keys", KEYS),
    ("drift-free", "UPDATE {schema}__runtime.configuration SET document = '{{}}'", DOCUMENT),
    ("drift-own", "DELETE FROM {schema}__runtime.configuration", DOCUMENT),
    ("drift-base", "UPDATE {schema}__runtime.configuration SET document = '{{}}'", DOCUMENT),
    ("drift-free", "GRANT SELECT ON {schema}__runtime.ledger TO {schema}", TABLES),
    ("drift-own", "REVOKE ALL ON {schema}__runtime.ledger FROM {schema}__runtime", TABLES),
]


def essence(world: World, path: str) -> Json | None:
    """An object without what the API server and its controllers add."""
    found = world.get(path)
    if found is None or found["metadata"].get("deletionTimestamp"):
        return None
    meta = found["metadata"]
    notes = {k: v for k, v in meta.get("annotations", {}).items() if k.startswith("tenantry.dev/")}
    rest = {k: v for k, v in found.items() if k not in ("metadata", "status")}
    if found["kind"] == "Service":
        rest["spec"] = {k: v for k, v in rest["spec"].items() if not k.startswith(("clusterIP", "ipFamil"))}
    return {"labels": meta.get("labels", {}), "annotations": notes, **rest}


@dataclass
class Check:
    what: str
    look: Callable[[], object]
    before: object

    def back(self) -> bool:
        with contextlib.suppress(MilvusException):  # what it lists may go while it is looked at
            return self.look() == self.before
        return False


class Table:
    """Breaks everything at once; `checks` says what must come back."""

    def __init__(self, world: World, uids: dict[str, str]) -> None:
        self.world = world
        self.uids = uids
        self.checks: list[Check] = []

    def note(self, what: str, look: Callable[[], object]) -> None:
        before = look()
        assert before, f"{what}: there is nothing to begin with"
        self.checks.append(Check(what, look, before))

    def objects(self) -> None:
        broken: list[tuple[str, Json | str]] = []
        for tenant, where, what, how in OBJECTS:
            path = PATHS[what].format(ns=f"{where}-{tenant}")
            self.note(f"{what} of {where}-{tenant}: {how}", lambda p=path: essence(self.world, p))
            broken.append((path, how))
        for path, how in broken:
            self.world.remove(path) if isinstance(how, str) else self.world.patch(path, how)

    def database(self, tenant: str) -> str:
        return self.schema(tenant) if tenant == "drift-base" else "tenantry"

    def schema(self, tenant: str) -> str:
        return f"tenant_{tenant.replace('-', '_')}"

    def rows(self) -> None:
        for tenant, _, query in ROWS:
            text, database = query.format(schema=self.schema(tenant)), self.database(tenant)
            self.note(f"{tenant}: {text}", lambda t=text, d=database: self.world.rows(t, database=d))
        for tenant in TENANTS:
            password = (self.world.secret(f"tenant-{tenant}", "postgres") or {})["password"]
            self.note(f"{tenant}: its password", lambda t=tenant, p=password: self.logs_in(t, p))
            self.world.rows(f"ALTER ROLE {self.schema(tenant)} PASSWORD 'somebody elses'")
        for tenant, statement, _ in ROWS:
            text = statement.format(schema=self.schema(tenant))
            if statement.startswith(("ALTER ROLE", "GRANT {schema}", "REVOKE {schema}")):
                self.as_admin(text)
            else:
                self.world.rows(text, database=self.database(tenant))

    def as_admin(self, statement: str) -> None:
        """What a superuser gives, the operator's admin could not take away: its condition would say so."""
        server = self.world.postgres
        with server.connect(postgres.ADMIN, ADMIN_PASSWORD, postgres.DATABASE) as connection:
            connection.execute(statement)  # type: ignore[call-overload]

    def logs_in(self, tenant: str, password: str) -> bool:
        try:
            with psycopg.connect(
                host="127.0.0.1", port=self.world.postgres.port, user=self.schema(tenant), password=password,
                dbname=self.database(tenant),
            ):  # fmt: skip
                return True
        except psycopg.OperationalError:
            return False

    def vectors(self) -> None:
        """A partition, a collection, a role's right and a user's role are taken away."""
        own, base = self.uids["drift-own"], self.uids["drift-base"]
        for tenant, uid in self.uids.items():
            self.note(f"Milvus of {tenant}", lambda u=uid: self.world.vector_things(u))
        with self.world.vectors() as client:
            partition = next(p for p in self.world.places(self.uids["drift-free"]) if p.startswith("t_"))
            shared = next(c for c in client.list_collections() if partition in client.list_partitions(c))
            client.release_partitions(shared, [partition])
            client.drop_partition(shared, partition)
            mine = [t.split(" ", 1) for t in self.world.vector_things(own)]
            role = next(name for kind, name in mine if kind == "role")
            self.note(f"rights of role {role}", lambda: self.rights(role))
            collection = next(name for kind, name in mine if kind == "collection")
            client.revoke_privilege(role, "Collection", "Search", collection)
            client.drop_collection(collection)
            theirs = [t.split(" ", 1) for t in self.world.vector_things(base)]
            user = next(name for kind, name in theirs if kind == "user")
            self.note(f"roles of user {user}", lambda: self.roles(user))
            client.revoke_role(user, next(name for kind, name in theirs if kind == "role"))

    def rights(self, role: str) -> list[tuple[str, str]]:
        with self.world.vectors() as client:
            return sorted((p["privilege"], p["object_name"]) for p in client.describe_role(role)["privileges"])

    def roles(self, user: str) -> list[str]:
        with self.world.vectors() as client:
            return sorted(client.describe_user(user).get("roles", ()))


def counted(replica: Replica, subsystem: str) -> float:
    return replica.value("tenantry_drift_corrections_total", subsystem=subsystem)


def test_every_child_is_put_back_and_counted(operator):
    world = operator
    uids = {name: world.tenant(name, tier, **spec) for name, (tier, spec) in TENANTS.items()}
    for name in TENANTS:
        world.ready(name)
    table = Table(world, uids)
    table.rows()
    table.vectors()
    table.objects()  # last, since it also changes the Secrets that the others read
    old = {name: world.get(f"{GROUP}/namespaces/tenant-{name}/accesskeys/default") for name in TENANTS}
    left = list(table.checks)

    def look() -> bool:
        left[:] = [c for c in left if not c.back()]
        return not left

    try:
        until(look, "everything is put back", 150)
    except AssertionError:
        differ = {c.what: {"before": c.before, "now": c.look()} for c in left}
        raise AssertionError(f"not put back: {json.dumps(differ, indent=1, default=str)}") from None
    for name in TENANTS:
        world.ready(name)
        assert world.get(f"{GROUP}/namespaces/tenant-{name}/accesskeys/default") is not None
        assert old[name], "the key was not touched"
    replica = world.replicas[-1]
    runtimes = {("runtime", what) for what in ("service", "deployment", "quota")}
    objects = sum((space, what) not in runtimes and "secret" not in what for _, space, what, _ in OBJECTS)
    least = {"namespaces": objects, "runtime": 6, "database": 6, "vectors": 3, "keys": 3}
    for subsystem, number in least.items():  # counted after it was put back
        until(lambda s=subsystem, n=number: counted(replica, s) >= n, f"{number} drifts of {subsystem} are counted")
