"""The query that sees everything of one tenant, in one round trip."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, LiteralString

from psycopg import sql

from tenantry.desired.postgres.things import CONNECT_ROLE, Things

_ACL: LiteralString = """(SELECT coalesce(jsonb_agg(jsonb_build_array(
    CASE WHEN x.grantee = 0 THEN '' ELSE pg_get_userbyid(x.grantee) END, x.privilege_type, x.is_grantable
)), '[]') FROM aclexplode({acl}) x WHERE x.grantee <> {owner})"""


def acl_of(acl: LiteralString, owner: LiteralString) -> LiteralString:
    """Triples (role or '' for PUBLIC, privilege, whether it may be passed on), without the owner's own rights."""
    return _ACL.replace("{acl}", acl).replace("{owner}", owner)


_SHARED_COMMENT: LiteralString = """(SELECT description FROM pg_shdescription
        WHERE objoid = {oid} AND classoid = '{catalog}'::regclass)"""


def _shared_comment(oid: LiteralString, catalog: LiteralString) -> LiteralString:
    """As `shobj_description` has it, which is a function in SQL: a query of its own for each call."""
    return _SHARED_COMMENT.replace("{oid}", oid).replace("{catalog}", catalog)


_IN_SCHEMA: LiteralString = """FROM pg_namespace n
    JOIN pg_depend e ON e.refclassid = 'pg_namespace'::regclass AND e.refobjid = n.oid
      AND e.classid = '{catalog}'::regclass
    JOIN {catalog} {as} ON {as}.oid = e.objid
    WHERE n.nspname = %(runtime_schema)s"""


def _in_schema(catalog: LiteralString, name: LiteralString) -> LiteralString:
    """Through pg_depend: the catalogs have no index by schema, and hold what all tenants have."""
    return _IN_SCHEMA.replace("{catalog}", catalog).replace("{as}", name)


_OIDS: LiteralString = "ARRAY(SELECT oid FROM pg_roles WHERE rolname = ANY(%(roles)s))"

_ME: LiteralString = "to_regrole(quote_ident(current_user))::oid"

# Not pg_has_role, which reads all roles that the admin has the rights of: two of every tenant.  OFFSET 0 has members
# found by the index, whatever the planner thinks of the table's size.
_USABLE: LiteralString = f"""(WITH RECURSIVE up(role) AS (
      SELECT r.oid UNION
      SELECT m.member FROM up, LATERAL (SELECT a.member, (to_jsonb(a) ->> 'inherit_option')::boolean AS inherits
        FROM pg_auth_members a WHERE a.roleid = up.role OFFSET 0) m
      WHERE coalesce(m.inherits, (SELECT rolinherit FROM pg_roles WHERE oid = m.member)))
    SELECT bool_or(up.role = {_ME}) FROM up)"""  # noqa: S608 - only constants of this file


_SHARED: LiteralString = f"""jsonb_build_object(
  'admin', current_user,
  'roles', (SELECT coalesce(jsonb_object_agg(r.rolname, jsonb_build_object(
      'flags', jsonb_build_object('superuser', r.rolsuper, 'inherit', r.rolinherit, 'createrole', r.rolcreaterole,
        'createdb', r.rolcreatedb, 'login', r.rolcanlogin, 'replication', r.rolreplication,
        'bypassrls', r.rolbypassrls),
      'limit', r.rolconnlimit,
      'until', nullif(r.rolvaliduntil, 'infinity'),
      'comment', {_shared_comment("r.oid", "pg_authid")},
      'usable', CASE WHEN r.rolname = ANY(%(used)s) THEN (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
        OR {_USABLE} END
    )), '{{}}') FROM pg_roles r WHERE r.rolname = ANY(%(known)s)),
  'options', current_setting('server_version_num')::integer >= 160000,
  'grants', EXISTS (SELECT FROM pg_auth_members WHERE admin_option
    AND roleid = to_regrole(%(connect)s)::oid AND member = to_regrole(%(maker)s)::oid),
  'made', (SELECT coalesce(jsonb_agg(jsonb_build_array(pg_get_userbyid(a.roleid),
      coalesce((to_jsonb(a) ->> 'set_option')::boolean, true))), '[]') FROM pg_auth_members a
    WHERE a.roleid = ANY({_OIDS}) AND a.member = to_regrole(%(maker)s)::oid),
  'settings', (SELECT coalesce(jsonb_agg(jsonb_build_array(pg_get_userbyid(s.setrole), coalesce(d.datname, ''),
      to_jsonb(s.setconfig))), '[]')
    FROM pg_db_role_setting s LEFT JOIN pg_database d ON d.oid = s.setdatabase WHERE s.setrole = ANY({_OIDS})),
  'members', (SELECT coalesce(jsonb_agg(jsonb_build_array(pg_get_userbyid(a.roleid), pg_get_userbyid(a.member),
      a.admin_option, coalesce((to_jsonb(a) ->> 'inherit_option')::boolean, true),
      (SELECT g.rolname FROM pg_roles g WHERE g.oid = a.grantor))), '[]')
    FROM (SELECT * FROM pg_auth_members WHERE roleid = ANY({_OIDS})
      UNION SELECT * FROM pg_auth_members WHERE member = ANY({_OIDS})) a
    WHERE NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = a.member AND (r.rolname IN (current_user, %(maker)s)
      OR r.rolcreaterole AND pg_has_role(r.oid, 'MEMBER')))),
  'databases', (SELECT coalesce(jsonb_object_agg(d.datname, jsonb_build_object(
      'owner', pg_get_userbyid(d.datdba),
      'comment', {_shared_comment("d.oid", "pg_database")},
      'open', d.datallowconn,
      'acl', {acl_of("coalesce(d.datacl, acldefault('d', d.datdba))", "d.datdba")}
    )), '{{}}') FROM pg_database d WHERE d.datname = ANY(%(databases)s))
)"""  # noqa: S608 - only constants of this file

# Unlike those of schemas, a table's default privileges are the owner's alone.
_INSIDE: LiteralString = f"""jsonb_build_object(
  'today', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD'),
  'schemas', (SELECT coalesce(jsonb_object_agg(n.nspname, jsonb_build_object(
      'owner', pg_get_userbyid(n.nspowner),
      'comment', (SELECT description FROM pg_description
        WHERE objoid = n.oid AND classoid = 'pg_namespace'::regclass AND objsubid = 0),
      'acl', {acl_of("coalesce(n.nspacl, acldefault('n', n.nspowner))", "n.nspowner")}
    )), '{{}}') FROM pg_namespace n WHERE n.nspname = ANY(%(schemas)s)),
  'relations', (SELECT coalesce(jsonb_object_agg(c.relname, jsonb_build_object(
      'kind', c.relkind,
      'partition', c.relispartition,
      'owner', pg_get_userbyid(c.relowner),
      'acl', {acl_of("c.relacl", "c.relowner")}
    )), '{{}}') {_in_schema("pg_class", "c")} AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')),
  'functions', (SELECT coalesce(jsonb_object_agg((pg_identify_object('pg_proc'::regclass, p.oid, 0)).identity,
    jsonb_build_object(
      'name', p.proname,
      'owner', pg_get_userbyid(p.proowner),
      'acl', {acl_of("coalesce(p.proacl, acldefault('f', p.proowner))", "p.proowner")}
    )), '{{}}') {_in_schema("pg_proc", "p")}),
  'defaults', (SELECT coalesce(jsonb_agg(jsonb_build_array(pg_get_userbyid(d.defaclrole),
      coalesce(n.nspname, ''), d.defaclobjtype, {acl_of("d.defaclacl", "d.defaclrole")})), '[]')
    FROM pg_default_acl d LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace WHERE d.defaclrole = ANY({_OIDS}))
)"""  # noqa: S608 - only constants of this file

_ROWS: Mapping[str, tuple[LiteralString, LiteralString]] = {
    "schema_migrations": ("migrations", "SELECT coalesce(jsonb_agg(number), '[]') FROM {table}"),
    "configuration": (
        "configuration",
        "SELECT jsonb_build_object('digest', digest, 'true_digest', "
        "encode(sha256(convert_to(document, 'UTF8')), 'hex')) FROM {table}",
    ),
    # A month that is over has cost nothing since: the meter moves on with the next call.
    "meter": (
        "month",
        "SELECT CASE WHEN month_ends_at > now()"
        " THEN jsonb_build_array(to_char(month, 'YYYY-MM'), month_nano)"
        " ELSE jsonb_build_array(to_char(now() AT TIME ZONE month_zone, 'YYYY-MM'), 0) END"
        " FROM {table} WHERE subject = 'tenant'",
    ),
    # Read as JSON, for the column may not be there yet: it comes with a migration, after this look.
    "documents_state": (
        "removal",
        "SELECT jsonb_build_array(d.at, extract(epoch FROM clock_timestamp() - d.at::timestamptz))"
        " FROM (SELECT to_jsonb(s) ->> 'removed_at' AS at FROM {table} s) d WHERE d.at IS NOT NULL",
    ),
    "audit_default": ("strays", "SELECT to_jsonb(to_char(min(at) AT TIME ZONE 'UTC', 'YYYY-MM-DD')) FROM {table}"),
}
TABLES = frozenset(_ROWS)
"""Tables of the runtime's schema whose rows are looked at."""

_MISSING: LiteralString = "'{}'::jsonb"


def rows(things: Things, tables: Collection[str]) -> sql.Composed:
    """An expression: the object of what is in these tables."""
    parts = sql.SQL(", ").join(
        part
        for table, (key, query) in _ROWS.items()
        if table in tables
        for part in (
            sql.Literal(key),
            sql.SQL("({})").format(sql.SQL(query).format(table=sql.Identifier(things.runtime_schema, table))),
        )
    )
    return sql.SQL("jsonb_build_object({})").format(parts)


def observe(
    things: Things,
    databases: Sequence[str],
    tables: Collection[str] = TABLES,
    *,
    shared: bool = True,
    inside: bool = True,
    schemas: Sequence[str] | None = None,
    used: Collection[str] | None = None,
) -> tuple[sql.Composed, dict[str, Any]]:
    """One row of three objects: what all databases share, what is in this one, and rows of `tables`.

    A table that does not exist is an error (UndefinedTable): then ask without it.  Parts not asked for are {}.
    `used`: of which roles it is asked whether the admin has their rights; the owners and the maker unless told.
    """
    statement = sql.SQL("SELECT {}, {}, {}").format(
        sql.SQL(_SHARED if shared else _MISSING),
        sql.SQL(_INSIDE if inside else _MISSING),
        rows(things, tables if inside else ()),
    )
    return statement, {
        "roles": list(things.roles),
        "known": [*things.roles, CONNECT_ROLE, *things.makers],
        "used": list(used or (*things.owners, things.maker)),
        "connect": CONNECT_ROLE,
        "maker": things.maker,
        "databases": list(databases),
        "schemas": list(schemas or ("public", *things.schemas)),
        "runtime_schema": things.runtime_schema,
    }
