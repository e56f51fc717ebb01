"""One tenant's credentials at another's door: each refusal beside the same call succeeding at home."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from dev.demo import ask
from dev.demo.kube import Json, Kube, Refused
from dev.demo.story import Actor
from tenantry import names
from tenantry.backends import kinds

NOTE = "demo_note"
"""A table that each tenant makes in its own schema."""
SECRET = kinds.SECRET


@dataclass(frozen=True)
class Attempt:
    """One call.  `answer` is the server's own text; `refused` is whether it was a refusal of the expected kind."""

    call: str
    answer: str
    refused: bool


@dataclass(frozen=True)
class Wall:
    """What was tried with one credential, at home and at the neighbour's."""

    what: str
    home: Attempt
    away: Attempt

    @property
    def holds(self) -> bool:
        return self.away.refused and not self.home.refused


class RefusedError(Exception):
    """A server's refusal; the text is its own."""


def attempt(call: str, run: Callable[[], str]) -> Attempt:
    """Run one call; what is no refusal of the kind that the wall gives is an error, and is raised."""
    try:
        return Attempt(call, run(), refused=False)
    except RefusedError as error:
        return Attempt(call, str(error), refused=True)


def keys(mine: Actor, theirs: Actor, key: str, urls: dict[str, str]) -> Wall:
    """An API key at the neighbour's runtime."""
    from openai import AuthenticationError

    def models(tenant: str) -> str:
        try:
            found = [model.id for model in ask.client(urls[tenant], key).models.list()]
        except AuthenticationError as error:
            raise RefusedError(str(error)) from None
        return f"200, models {', '.join(found)}"

    def tried(tenant: str) -> Attempt:
        return attempt(f"GET {names.endpoint(tenant)}/models", lambda: models(tenant))

    return Wall(f"{mine.name}'s API key", tried(mine.name), tried(theirs.name))


def owners(mine: Actor, theirs: Actor, kube: Kube) -> Wall:
    """An owner at the neighbour's Secrets."""
    as_owner = kube.as_user(mine.owner)

    def read(tenant: str) -> str:
        try:
            found = as_owner.secret(names.workload_namespace(tenant), "accesskey-default")
        except Refused as error:
            if error.status != 403:
                raise
            raise RefusedError(str(error)) from None
        return f"the Secret, with {' and '.join(sorted(found or {}))}"

    def tried(tenant: str) -> Attempt:
        call = f"kubectl --as {mine.owner} -n {names.workload_namespace(tenant)} get secret accesskey-default"
        return attempt(call, lambda: read(tenant))

    try:
        return Wall(f"{mine.name}'s owner", tried(mine.name), tried(theirs.name))
    finally:
        as_owner.close()


def login(secret: dict[str, str]) -> psycopg.Connection[Any]:
    """With the tenant's own role, as its applications do."""
    return psycopg.connect(secret["uri"], connect_timeout=10, autocommit=True)


def note(secret: dict[str, str], text: str) -> None:
    """Leave one row in the tenant's own schema: something to find."""
    with login(secret) as connection:
        connection.execute(sql.SQL("CREATE TABLE IF NOT EXISTS {} (body text)").format(sql.Identifier(NOTE)))
        connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(NOTE)))
        connection.execute(sql.SQL("INSERT INTO {} VALUES (%s)").format(sql.Identifier(NOTE)), [text])


def roles(mine: Actor, theirs: Actor, secret: dict[str, str]) -> Iterator[Wall]:
    """A database role at the neighbour's schema, and at its own ledger, which is the operator's to keep."""
    own_role = secret["username"]
    with login(secret) as connection:

        def tried(schema: str, table: str) -> Attempt:
            def select() -> str:
                query = sql.SQL("SELECT count(*) FROM {}.{}").format(sql.Identifier(schema), sql.Identifier(table))
                try:
                    row = connection.execute(query).fetchone()
                except psycopg.errors.InsufficientPrivilege as error:
                    raise RefusedError(error.diag.message_primary or str(error)) from None
                return f"{row and row[0]} row"

            return attempt(f"SELECT count(*) FROM {schema}.{table}", select)

        home = tried(names.schema(mine.name), NOTE)
        yield Wall(f"{mine.name}'s database role {own_role}", home, tried(names.schema(theirs.name), NOTE))
        yield Wall(
            f"{mine.name}'s database role {own_role}, at its own bill",
            home,
            tried(names.runtime_schema(mine.name), "ledger"),
        )


def vectors(mine: str, secret: dict[str, str], foreign: list[str]) -> Iterator[Wall]:
    """The own Milvus user of tenant `mine` at collections that are not its own."""
    import grpc
    from pymilvus import MilvusClient

    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs a traceback for each refusal
    client = MilvusClient(
        uri=secret["uri"],
        user=secret["username"],
        password=secret["password"],
        db_name=secret["database"],
        timeout=20,
    )

    def tried(collection: str) -> Attempt:
        def query() -> str:
            try:
                found = client.query(
                    collection, filter="chunk >= 0", output_fields=["text"], limit=1, consistency_level="Strong"
                )
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.PERMISSION_DENIED:
                    raise
                raise RefusedError(error.details()) from None
            return f"{len(found)} chunk of a document"

        return attempt(f"query {collection}", query)

    try:
        home = tried(secret["collection"])
        for collection in foreign:
            yield Wall(f"{mine}'s Milvus user {secret['username']}", home, tried(collection))
    finally:
        client.close()


def collections(tenants: list[Json]) -> list[str]:
    """The collections of these tenants, as the operator pinned them."""
    return sorted({found["status"]["pinned"]["collection"] for found in tenants})
