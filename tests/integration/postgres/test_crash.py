"""The operator ends before each of its statements in turn; the next one finishes the work."""

from __future__ import annotations

from typing import Literal

import pytest

from dev.cluster import postgres
from tests.integration.postgres import support
from tests.integration.postgres.support import Crash, Tenant

MOST = 60


def steps(server: postgres.Server) -> range:
    """Every point on the newest version, every third on the other, to save time."""
    return range(1, MOST, 1 if support.newest(server) else 3)


@pytest.mark.parametrize("level", support.LEVELS)
async def test_while_making(server: postgres.Server, level: str) -> None:
    healthy = support.backend(server)
    for at in steps(server):
        tenant = Tenant(server, level)
        kind, count = support.crashing(at, server, level)
        dying = support.backend(server, kind)
        try:
            await dying.ensure(tenant.plan())
        except Crash:
            assert count[0] == at
        else:
            assert at > 5
            break
        finally:
            await dying.close()
        await healthy.ensure(tenant.plan())
        seen = await healthy.ensure(tenant.plan())
        assert (seen.created, seen.corrected) == (False, ()), f"after a crash before statement {at}"
        await healthy.remove(tenant.name, tenant.uid, level, "Delete")
        assert tenant.leftovers() == []
    else:
        pytest.fail(f"ensure takes more than {MOST} statements")
    await healthy.close()


@pytest.mark.parametrize("policy", ["Retain", "Delete"])
@pytest.mark.parametrize("level", support.LEVELS)
async def test_while_removing(server: postgres.Server, level: str, policy: Literal["Retain", "Delete"]) -> None:
    healthy = support.backend(server)
    for at in steps(server):
        tenant = Tenant(server, level)
        await healthy.ensure(tenant.plan())
        tenant.superuser("SET ROLE {login}; CREATE TABLE {schema}.notes AS SELECT 'kept' AS text")
        kind, count = support.crashing(at, server, level)
        dying = support.backend(server, kind)
        try:
            await dying.remove(tenant.name, tenant.uid, level, policy)
        except Crash:
            assert count[0] == at
        else:
            assert at > 5
            break
        finally:
            await dying.close()
        await healthy.remove(tenant.name, tenant.uid, level, policy)
        assert tenant.leftovers() == [], f"after a crash before statement {at}"
        if policy == "Retain":
            table = f"SELECT text FROM {tenant.things.retained[0]}.notes"
            assert server.sql(table, (), tenant.retained_database()) == [("kept",)]
    else:
        pytest.fail(f"remove takes more than {MOST} statements")
    await healthy.close()


@pytest.mark.parametrize("level", support.LEVELS)
async def test_a_tenant_that_was_never_finished_is_removed(server: postgres.Server, level: str) -> None:
    healthy = support.backend(server)
    for at in steps(server):
        tenant = Tenant(server, level)
        kind, _ = support.crashing(at, server, level)
        dying = support.backend(server, kind)
        try:
            await dying.ensure(tenant.plan())
        except Crash:
            pass
        else:
            break
        finally:
            await dying.close()
        for policy in ("Retain", "Delete"):
            await healthy.remove(tenant.name, tenant.uid, level, policy)
            assert tenant.leftovers() == [], f"after a crash before statement {at}"
    else:
        pytest.fail(f"ensure takes more than {MOST} statements")
    await healthy.close()
