"""Everything in one PostgreSQL whose comment says that it was made for a Tenant."""

from psycopg import sql

from tenantry import names
from tenantry.backends.inventory import Stored
from tenantry.backends.postgres import archive
from tenantry.backends.postgres.connections import Connections
from tenantry.desired.postgres.things import MARK

QUERY = sql.SQL("""
SELECT kind, name, split_part(substr(comment, length(%(mark)s) + 1), ' ', 1) FROM (
  SELECT 'role' AS kind, rolname::text AS name, shobj_description(oid, 'pg_authid') AS comment FROM pg_roles
  UNION ALL
  SELECT 'database', datname::text, shobj_description(oid, 'pg_database') FROM pg_database
  UNION ALL
  SELECT 'schema', nspname::text, obj_description(oid, 'pg_namespace') FROM pg_namespace
) AS things
WHERE comment LIKE %(mark)s || '%%'
ORDER BY 1, 2
""")


async def inventory(connections: Connections) -> list[Stored]:
    """Roles and databases of the server, schemas of the application database, and the archive's tenants."""
    async with connections.use() as session:
        rows = await session.run(QUERY, {"mark": MARK}, what="a list of what tenants have")
    found = [
        Stored("PostgreSQL", str(kind), str(name), names.bare(str(uid)), str(name).startswith("retained_"))
        for kind, name, uid in rows
    ]
    for tenant, uid, count, until in await archive.inventory(connections):
        name = f"{tenant}: {count} rows until {until}"
        found.append(Stored("PostgreSQL", "archived audit", name, names.bare(uid), archived=True))
    return found
