"""What a person reads when Milvus says no, or nothing."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from tenantry.api.conditions import Reason
from tenantry.backends.errors import BackendError
from tenantry.backends.milvus import MilvusBackend, Server
from tenantry.backends.milvus.client import Client, Failure
from tests.unit.milvus.make import tenant

SERVER = Server("http://127.0.0.1:19530", "the-admin", "the-secret")


@pytest.mark.parametrize(
    ("answer", "setting"),
    [
        ("unable to create role because the number of roles has reached the limit", "proxy.maxRoleNum"),
        ("unable to add user because the number of users has reached the limit", "proxy.maxUserNum"),
        ("exceeded the limit number of database[limit=12]", "rootCoord.maxDatabaseNum"),
        ("partition number (24) exceeds max configuration (24), collection: c", "rootCoord.maxPartitionNum"),
        ("exceeded the limit number of collections[limit=9]", "quotaAndLimits.limits.maxCollectionNum"),
    ],
)
def test_a_limit_names_its_setting(answer: str, setting: str) -> None:
    error = Client(SERVER)._explain(Failure("Create", 65535, answer))
    assert error.reason is Reason.CAPACITY_EXHAUSTED
    assert setting in error.message


def test_a_refusal_shows_neither_admin_nor_secret() -> None:
    error = Client(SERVER)._explain(Failure("DropRole", 65535, "the-admin with the-secret may not\nat line 7"))
    assert error.reason is Reason.VECTORS_REFUSED
    assert "may not" in error.message
    assert "the-" not in error.message
    assert "line 7" not in error.message
    assert "the-secret" not in repr(SERVER)


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        backend = MilvusBackend(Server(f"http://127.0.0.1:{taken.getsockname()[1]}", "root", "x"))
        try:
            with pytest.raises(BackendError) as caught:
                await backend.place(tenant("Partition"))
        finally:
            await backend.close()
    assert caught.value.reason is Reason.VECTORS_UNAVAILABLE
    assert not caught.value.final


async def test_a_server_that_hangs_is_unavailable_in_time() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    listening = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    backend = MilvusBackend(Server(f"http://127.0.0.1:{port}", "root", "x"), timeout=1)
    try:
        began = time.monotonic()
        with pytest.raises(BackendError) as caught:
            await backend.place(tenant("Partition"))
        assert time.monotonic() - began < 10
    finally:
        await backend.close()
        listening.close()
    assert caught.value.reason is Reason.VECTORS_UNAVAILABLE
