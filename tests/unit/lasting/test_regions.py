"""A DataRegion that is gone takes along what was opened for it."""

import base64
from types import SimpleNamespace
from typing import Any

from tenantry import retention
from tenantry.api import Reason
from tenantry.backends.errors import BackendError
from tenantry.metrics import Metrics
from tenantry.regions import Regions
from tests import samples


async def found(*_: Any) -> dict[str, Any]:
    keys = ("username", "password", "api-key")
    return {"data": {key: base64.b64encode(b"x").decode() for key in keys}}


async def away() -> int:
    raise BackendError(Reason.DATABASE_UNAVAILABLE, "PostgreSQL does not answer")


async def test_what_served_a_region_that_is_gone_is_let_go() -> None:
    kubernetes: Any = SimpleNamespace(get=found)
    regions = Regions(kubernetes, "tenantry-system", 10, 60)
    view: Any = SimpleNamespace(regions={name: samples.region(name) for name in ("stays", "goes")})
    served = {name: await regions.get(region) for name, region in view.regions.items()}
    for backends in served.values():
        backends.postgres.purge_archive = away  # type: ignore[method-assign]
    del view.regions["goes"]
    await retention.purge(view, regions, Metrics())
    assert set(regions._entries) == set(regions._locks) == {"stays"}
    assert await regions.get(view.regions["stays"]) is served["stays"]
    assert await regions.get(samples.region("goes")) is not served["goes"], "made again, it is opened again"
    await regions.close()
