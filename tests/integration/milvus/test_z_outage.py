"""The last of these tests, for it stops the server that all of them share, and starts it again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from tenantry.api.conditions import Reason
from tenantry.backends.errors import BackendError
from tenantry.backends.milvus import MilvusBackend
from tenantry.backends.milvus.protocol import milvus
from tests.integration.milvus.conftest import Running
from tests.integration.milvus.tools import User, eventually, planned, some_model
from tests.unit.milvus.make import tenant


async def test_a_stopped_server_is_said_in_time_and_what_it_held_is_there_again(
    make_backend: Callable[..., MilvusBackend], running: Running, root: User
) -> None:
    backend = make_backend(remember=600, timeout=10)
    resolved = tenant("Partition", model=some_model())
    plan = planned(resolved, await backend.place(resolved))

    async def held() -> str:
        """`ensure` takes a moment to prove new rights; what counts is where it ends."""
        await backend.ensure(plan)
        return "held"

    await eventually(held, "held", "before")
    try:
        await asyncio.to_thread(running.server.stop)
        began = time.monotonic()
        with pytest.raises(BackendError) as caught:
            await backend.ensure(plan)
        assert time.monotonic() - began < 15
        assert caught.value.reason is Reason.VECTORS_UNAVAILABLE
    finally:
        await asyncio.to_thread(running.server.start)

    fresh = make_backend()  # looks at everything; Milvus has given role public its rights again

    async def closed() -> bool:
        await fresh.ensure(plan)
        entity = milvus.GrantEntity(role=milvus.RoleEntity(name="public"), db_name="*")
        return not (await root.ask("SelectGrant", milvus.SelectGrantRequest(entity=entity))).entities

    deadline = time.monotonic() + 60
    while True:
        try:
            await eventually(closed, True, "role public")
            await eventually(held, "held", "after")
            break
        except AssertionError:  # a server that starts over old data may take its time to load
            if time.monotonic() > deadline:
                raise
    await backend.remove(resolved.uid, plan.place.collection, "Partition", "Delete")
