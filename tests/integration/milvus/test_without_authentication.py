"""A Milvus that asks nobody for a login: refused with what that means, unless the region accepts it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.cluster import milvus
from tenantry.api.conditions import Reason
from tenantry.backends.errors import BackendError
from tenantry.backends.milvus import MilvusBackend, Server
from tests.integration.milvus.tools import planned, settle
from tests.unit.milvus.make import region, tenant


@pytest.fixture
def uri() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="tenantry-milvus-") as folder:
        server = milvus.Server(Path(folder) / "data", authorization=False)
        try:
            server.start()
            yield server.uri
        finally:
            server.stop()


async def test_it_must_be_accepted(uri: str) -> None:
    resolved = tenant("Collection", spec=region(uri, secret=False, unauthenticated=True))
    refusing = MilvusBackend(Server(uri), timeout=30)
    accepting = MilvusBackend(Server(uri, allow_unauthenticated=True), timeout=30)
    both = MilvusBackend(Server(uri, "root", "Milvus", allow_unauthenticated=True), timeout=30)
    try:
        plan = planned(resolved, await refusing.place(resolved))
        with pytest.raises(BackendError) as caught:
            await refusing.ensure(plan)
        assert caught.value.reason is Reason.UNAUTHENTICATED_MILVUS
        assert "every tenant" in caught.value.message

        assert plan.login == ("", "")
        assert await settle(accepting, plan)
        assert (await accepting.ensure(plan)).corrected == ()
        named = planned(tenant("Collection", uid=resolved.uid), plan.place)  # a region with a login all the same
        assert (await both.ensure(named)).corrected == ()
        await both.remove(resolved.uid, "", "Collection", "Delete")
        assert (await accepting.ensure(plan)).created
        await accepting.remove(resolved.uid, "", "Collection", "Delete")
    finally:
        for backend in (refusing, accepting, both):
            await backend.close()
