"""A share, chosen by the seed, of the kills around each effect, on two tenants that share nothing: their levels and
policies differ.  `make kills` does all of them, on five.
"""

from tests.integration.survival.command import SEED
from tests.integration.survival.kills import both_passes

SHARE = 12


def test_killed_around_its_effects(world, tmp_path):
    found = both_passes(world, tmp_path, SEED, SHARE, 240, ("pro", "base"))
    print(f"{found.line()}, share 1/{SHARE}, seed {SEED}")
    assert not found.ends, "the operator ended by itself"
    assert len(found.killed) >= 10, "the moments have other names now: choose another seed or share"
    # Each edge was watched: had one of them another library now, nothing of it would be seen.
    effects = {m[2].split(":")[0] for m in found.met}
    assert {"PostgreSQL", "Milvus", "apply networkpolicies tenant/tenantry"} <= effects
