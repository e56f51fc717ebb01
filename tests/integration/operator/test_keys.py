"""AccessKeys that a tenant's developer makes, changes and deletes."""

from datetime import UTC, datetime, timedelta

from tenantry.accesskeys import DEFAULT_SCOPES
from tenantry_runtime.config import key_sha256
from tests.integration.operator.world import GROUP, World, until

KEYS = f"{GROUP}/namespaces/tenant-keys/accesskeys"


def hashes(world: World) -> set[str]:
    return {r[0] for r in world.rows("SELECT key_sha256 FROM tenant_keys__runtime.access_keys")}


def make(world: World, name: str, **spec) -> None:
    manifest = {"apiVersion": "tenantry.dev/v1alpha1", "kind": "AccessKey", "metadata": {"name": name}, "spec": spec}
    world.create(KEYS, manifest)


def ask(world: World, name: str, value: str) -> None:
    world.patch(f"{KEYS}/{name}", {"metadata": {"annotations": {"tenantry.dev/rotate": value}}})


def changed(world: World, name: str, before: str, seconds: float = 60) -> str:
    """The new key, once its Secret and the runtime have it."""

    def look() -> str:
        found = (world.secret("tenant-keys", f"accesskey-{name}") or {}).get("api-key", before)
        return found if found != before and key_sha256(found) in hashes(world) else ""

    return str(until(look, "there is a new key", seconds))


def ends(world: World, name: str) -> dict[int, str | None]:
    """By generation: when the runtime refuses it."""
    query = "SELECT generation, expires_at FROM tenant_keys__runtime.access_keys WHERE name = %s"
    return {
        generation: datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if at else None
        for generation, at in world.rows(query, name)
    }


def status(world: World, name: str) -> dict:
    return (world.get(f"{KEYS}/{name}") or {}).get("status", {})


def works(world: World, name: str, seconds: int) -> bool:
    """Whether a new key that ends so soon was there before its time; a slow machine needs more of it."""
    soon = datetime.now(UTC) + timedelta(seconds=seconds)
    make(world, name, expiresAt=soon.strftime("%Y-%m-%dT%H:%M:%SZ"))
    until(lambda: name in world.keys("keys") or datetime.now(UTC) > soon, f"{name} is there, or its time is over", 60)
    return name in world.keys("keys")


def test_a_keys_whole_life(operator):
    world = operator
    world.tenant("keys")
    world.ready("keys")
    first = world.rows("SELECT user_name, scopes FROM tenant_keys__runtime.access_keys WHERE name = 'default'")
    assert first == [("default", sorted(DEFAULT_SCOPES))]
    make(world, "ci", user="ci-bot", scopes=["chat"])
    secret = until(lambda: world.secret("tenant-keys", "accesskey-ci"), "the Secret is there", 60)
    key = secret["api-key"]
    until(lambda: status(world, "ci").get("secretName") == "accesskey-ci", "the status names it", 60)
    until(lambda: key_sha256(key) in hashes(world), "the runtime knows it", 60)
    assert world.rows("SELECT user_name, scopes FROM tenant_keys__runtime.access_keys WHERE name = 'ci'") == [
        ("ci-bot", ["chat"])
    ]
    assert key not in str(world.rows("SELECT * FROM tenant_keys__runtime.access_keys"))

    ask(world, "ci", "2026-11-22")
    second = changed(world, "ci", key)
    until(lambda: status(world, "ci").get("previousUntil"), "the overlap has begun", 60)
    shown = status(world, "ci")
    assert (shown["generation"], shown["rotation"]) == (1, "2026-11-22")
    assert ends(world, "ci") == {0: shown["previousUntil"], 1: None}, "the runtime ends the old key by itself"
    assert {key_sha256(key), key_sha256(second)} <= hashes(world), "both work in the overlap"
    left = datetime.fromisoformat(shown["previousUntil"]) - datetime.now(UTC)
    assert timedelta(hours=23) < left <= timedelta(hours=24)

    ask(world, "ci", "again")  # in the overlap: the oldest ends at once
    third = changed(world, "ci", second)
    until(lambda: key_sha256(key) not in hashes(world), "the oldest is refused", 60)
    assert {key_sha256(second), key_sha256(third)} <= hashes(world)
    ending = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    world.patch(f"{KEYS}/ci", {"spec": {"expiresAt": ending}})
    until(lambda: ends(world, "ci") == {1: ending, 2: ending}, "an earlier end of the AccessKey is the end of both", 60)

    world.patch(f"{KEYS}/ci", {"spec": {"expiresAt": None, "overlap": "0s"}})
    ask(world, "ci", "at once")
    rotated = changed(world, "ci", third)
    until(lambda: ends(world, "ci") == {3: None}, "without an overlap there is one key only", 60)

    # Forgotten by the status, the process and a backup: no key whose time is over comes back.
    world.stop()
    world.patch(f"{KEYS}/ci/status", {"status": None})
    world.start(resync_seconds=600)  # from here on a resync brings nothing about
    until(lambda: status(world, "ci").get("generation") == 3, "it is found again", 60)
    assert ends(world, "ci") == {3: None}
    assert world.secret("tenant-keys", "accesskey-ci")["api-key"] == rotated

    world.remove(f"{KEYS}/ci")
    until(lambda: key_sha256(rotated) not in hashes(world), "the deleted key is refused, by its event alone", 60)
    until(lambda: world.secret("tenant-keys", "accesskey-ci") is None, "its Secret went with it", 60)

    short = next(name for seconds in (4, 15, 45) if works(world, name := f"short-{seconds}", seconds))
    until(lambda: short not in world.keys("keys"), "it ends at its time", 60)
    until(lambda: status(world, short).get("conditions", [{}])[0].get("reason") == "Expired", "the status says so", 60)


def test_a_key_is_rotated_by_its_age(operator):
    """The runtime refuses the old key at the end of its overlap and not before, also while no operator runs."""
    world = operator
    world.tenant("keys")
    world.ready("keys")
    make(world, "old", rotateAfter="5m", overlap="5m")
    first = until(lambda: world.secret("tenant-keys", "accesskey-old"), "the Secret is there")["api-key"]
    until(lambda: key_sha256(first) in hashes(world), "the runtime knows it")
    until(lambda: status(world, "old").get("secretName"), "its status is written")
    assert status(world, "old").get("generation", 0) == 0, "it is young"

    grown(world, "old")
    second = changed(world, "old", first, 60)
    until(lambda: status(world, "old").get("previousUntil"), "the overlap has begun")
    shown = status(world, "old")
    assert (shown["generation"], shown.get("rotation", "")) == (1, ""), "nobody asked for it"
    end = datetime.fromisoformat(shown["previousUntil"])
    assert end - datetime.fromisoformat(shown["rotatedAt"]) == timedelta(minutes=5)
    until(lambda: ends(world, "old") == {0: shown["previousUntil"], 1: None}, "the runtime ends the old key by itself")
    world.stop()
    accepted = "SELECT key_sha256 FROM tenant_keys__runtime.access_keys WHERE name = 'old' AND expires_at > %s"
    for seconds, keys in ((-1, {key_sha256(first)}), (1, set())):
        at = (end + timedelta(seconds=seconds)).timestamp()
        assert {r[0] for r in world.rows(accepted, at)} == keys
    assert {key_sha256(first), key_sha256(second)} <= hashes(world)
    world.start()

    def over() -> bool:
        """As if its end had come; a reconcile under way may put the time back once."""
        if status(world, "old").get("previousUntil"):
            world.patch(f"{KEYS}/old/status", {"status": {"previousUntil": "2026-01-01T00:00:00Z"}})
        return ends(world, "old") == {1: None}

    until(over, "the old key is gone", 90)
    until(lambda: not status(world, "old").get("previousUntil"), "the status says so")
    assert status(world, "old")["generation"] == 1, "the new one is young"

    grown(world, "old")
    third = changed(world, "old", second, 60)
    until(lambda: status(world, "old").get("generation") == 2, "it goes on")
    assert len({first, second, third}) == 3


def grown(world: World, name: str) -> None:
    """As if the key were older than the least `rotateAfter`."""
    then = (datetime.now(UTC) - timedelta(minutes=6)).strftime("%Y-%m-%dT%H:%M:%SZ")
    world.patch(f"{KEYS}/{name}/status", {"status": {"rotatedAt": then}})


def test_a_key_deleted_while_no_operator_ran_is_refused_when_one_does(operator):
    world = operator
    world.tenant("keys")
    world.ready("keys")
    make(world, "gone")
    until(lambda: "gone" in world.keys("keys"), "it is known", 60)
    world.stop()
    world.remove(f"{KEYS}/gone")
    world.start()
    until(lambda: "gone" not in world.keys("keys"), "it is refused", 60)


def test_the_default_key_comes_back_as_another_one(operator):
    world = operator
    world.tenant("keys")
    world.ready("keys")
    old = world.secret("tenant-keys", "accesskey-default")
    assert old
    world.remove(f"{KEYS}/default")
    until(
        lambda: (new := world.secret("tenant-keys", "accesskey-default")) and new["api-key"] != old["api-key"],
        "there is another default key",
        60,
    )
    until(lambda: key_sha256(old["api-key"]) not in hashes(world), "the old one is refused", 60)
