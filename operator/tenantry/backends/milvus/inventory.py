"""Everything in one Milvus whose name carries a Tenant's UID."""

import re

from tenantry.backends.inventory import Stored
from tenantry.backends.milvus.client import Client
from tenantry.backends.milvus.protocol import milvus
from tenantry.backends.milvus.storage import Storage
from tenantry.desired.vectors import DEFAULT_DATABASE

OWN = re.compile(r"t_([0-9a-f]{32})")
LOGIN = re.compile(r"(t_([a-z2-7]{26}))(_[ab])?")


async def inventory(client: Client, storage: Storage, secured: bool) -> list[Stored]:
    """Databases, collections, partitions of shared collections, and, where Milvus asks for logins, users and roles."""
    found: list[Stored] = []

    def add(kind: str, name: str) -> None:
        if match := OWN.fullmatch(name):
            found.append(Stored("Milvus", kind, name, match[1]))

    answer = await client.call("ListDatabases", milvus.ListDatabasesRequest())
    for database in answer.db_names:
        add("database", database)
        for collection in await storage.collections(database):
            if database == DEFAULT_DATABASE:
                add("collection", collection)
            if collection.startswith("shared_"):
                request = milvus.ShowPartitionsRequest(collection_name=collection)
                partitions = await client.call("ShowPartitions", request, database)
                for partition in partitions.partition_names:
                    add("partition", partition)
    if secured:
        users = await client.call("ListCredUsers", milvus.ListCredUsersRequest())
        roles = await client.call("SelectRole", milvus.SelectRoleRequest())
        named = [("user", name) for name in users.usernames] + [("role", r.role.name) for r in roles.results]
        for kind, name in named:
            if match := LOGIN.fullmatch(name):
                found.append(Stored("Milvus", kind, name, match[2]))
    return sorted(found)
