"""The operator is killed with SIGKILL in the midst of rotations, around effects that the seed chooses (mortal.py)."""

import time

from tenantry.desired.vectors import shared_user_number
from tenantry_runtime.config import key_sha256
from tests.integration.operator.logins import accepted, ask, end_overlap, held, state, users, vectors_accepted
from tests.integration.operator.world import GROUP, World, until
from tests.integration.survival.kills import MODULE, lines, moments

SEED = 20261453
SHARE = 4
"""Of all moments around an effect, every how many-th is one of a kill."""
TENANTS = {"wheel-one": "free", "wheel-two": "free", "wheel-own": "enterprise"}
"""Two that share a collection, and one with a Milvus user of its own."""
ENOUGH = 5


def key(world: World, tenant: str) -> str:
    found = world.secret(f"tenant-{tenant}", "accesskey-default")
    assert found is not None
    return found["api-key"]


def rows(world: World, tenant: str) -> dict[int, str]:
    """The key's hashes that the runtime knows, by generation."""
    schema = f"tenant_{tenant.replace('-', '_')}__runtime"
    found = world.rows(f"SELECT generation, key_sha256 FROM {schema}.access_keys")
    assert len(found) == len({generation for generation, _ in found}), f"{tenant} has a key twice"
    return dict(found)


def rotated(world: World, tenant: str) -> bool:
    """Both are over but for overlaps."""
    seen = world.get(f"{GROUP}/namespaces/tenant-{tenant}/accesskeys/default") or {}
    turned = state(world, tenant)
    return (
        turned.get("requested") == "1"
        and bool(turned.get("rolledOutAt"))
        and bool(seen.get("status", {}).get("rotatedAt"))
        and world.condition(tenant).get("status") == "True"
    )


def test_killed_in_the_midst_of_rotations(operator, tmp_path):
    world = operator
    began = time.monotonic()
    uids = {name: world.tenant(name, tier) for name, tier in TENANTS.items()}
    for name in TENANTS:
        world.ready(name, 90)
    first = {name: (held(world, name), key(world, name)) for name in TENANTS}
    roles = {name: world.roles(name) for name in TENANTS}
    shared = first["wheel-one"][0]["milvus"]["user"]
    collection = first["wheel-one"][0]["milvus"]["collection"]
    places = {name: len(world.places(uid)) for name, uid in uids.items()}
    world.stop()

    (tmp_path / "phase").write_text("rotate")
    replica = world.start(
        "wheel", module=MODULE, lease_seconds=15, TENANTRY_POD="wheel",
        MORTAL_FOLDER=str(tmp_path), MORTAL_SEED=str(SEED), MORTAL_SHARE=str(SHARE),
    )  # fmt: skip
    for name in TENANTS:
        ask(world, name, "1")
        body = {"metadata": {"annotations": {"tenantry.dev/rotate": "1"}}}
        world.patch(f"{GROUP}/namespaces/tenant-{name}/accesskeys/default", body)
    try:
        for name in TENANTS:
            until(lambda n=name: rotated(world, n), f"{name} is rotated", 120)
        for name in TENANTS:
            end_overlap(world, name)
        old = [login for name, (login, _) in first.items() if name != "wheel-two"]
        until(lambda: not any(map(vectors_accepted, old)), "no Milvus user from before is accepted", 120)
    except AssertionError as error:
        last = (lines(tmp_path / "killed") or ["nothing"])[-1]
        raise AssertionError(f"{error}; seed {SEED}, the last kill: {last}; log {replica.log}") from error
    killed = moments(tmp_path / "killed")
    print(f"seed {SEED}: {len(killed)} kills in {time.monotonic() - began:.0f} s:", *sorted(killed), sep="\n  ")
    around = {kind for kind in ("PostgreSQL", "Milvus", "accesskeys") for m in killed if kind in m[2]}
    assert len(killed) >= ENOUGH, "the moments have other names now: choose another seed or share"
    assert len(around) == 3, f"no kill but around effects on {around}: choose another seed"
    assert not lines(tmp_path / "ended"), "the operator ended by itself"

    for name in TENANTS:
        login, api_key = held(world, name), key(world, name)
        assert accepted(login)
        until(lambda held=login: vectors_accepted(held), f"the Milvus user of {name} works")
        assert not accepted(first[name][0]), f"{name}: the login before is still accepted"
        assert state(world, name)["generation"] == 1, f"{name} was rotated twice"
        assert world.roles(name) == roles[name]
        assert rows(world, name) == {0: key_sha256(first[name][1]), 1: key_sha256(api_key)}
    own = world.secret("tenant-wheel-own", "milvus")
    assert own is not None
    assert own["password"] == held(world, "wheel-own")["milvus"]["password"]
    assert {name: len(world.places(uid)) for name, uid in uids.items()} == places
    assert users(world, shared) == {held(world, "wheel-one")["milvus"]["user"]}
    assert held(world, "wheel-one")["milvus"]["user"] == held(world, "wheel-two")["milvus"]["user"]
    before, *after = (shared_user_number(collection, user) or 0 for user in (shared, *users(world, shared)))
    assert after == [before + 1], "both asked, and it was replaced once"
    replica.stop()
    status, said = world.scan()
    assert status == 0, said
