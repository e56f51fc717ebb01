"""Hundreds of junk manifests while the operator runs.

TENANTRY_JUNK says how many; 150 unless told otherwise, for the time that their tenants take to be made and deleted.
`make soak` sends 500.
"""

from __future__ import annotations

import os

from tests.integration.operator.world import World
from tests.integration.survival import junk

COUNT = int(os.environ.get("TENANTRY_JUNK", "150"))


def test_junk_is_refused_or_a_condition_and_a_good_tenant_is_not_slowed(operator: World) -> None:
    world = operator
    world.stop()
    replica = world.start(lease_seconds=20)  # what is looked for is not how it does without a processor
    junk.endure(world, replica, COUNT)
    status, said = world.scan()
    assert status == 0, said
