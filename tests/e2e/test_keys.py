"""AccessKeys: made, rotated, expired, deleted; every replica of the runtime must agree."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dev.demo.kube import Refused, condition, wait
from tenantry import names
from tenantry.backends import kinds
from tests.e2e.world import World

SOON = 10.0
"""Seconds within which a key's end must be felt.  It takes well under one on a machine with nothing else to do."""


@pytest.fixture(scope="module")
def pods(world: World, three: str) -> list[str]:
    """The base URLs of both replicas."""
    return list(wait(lambda: found if len(found := world.pods(three)) == 2 else None, "two runtime Pods").values())


def test_a_key_works_at_every_replica_until_it_is_deleted(world: World, three: str, pods: list[str]) -> None:
    key = world.add_key(three, "deleted", scopes=["chat"], user="ada")
    secret = world.kube.secret(names.workload_namespace(three), "accesskey-deleted")
    assert secret is not None
    assert secret["base-url"] == names.endpoint(three)
    wait(lambda: world.works(three, key, pods), "the new key works at every replica")
    seen = wait(
        lambda: found if condition(found := access_key(world, three, "deleted"))["status"] == "True" else None,
        "its status says so",
    )
    assert seen["status"]["secretName"] == "accesskey-deleted"

    world.kube.delete(kinds.ACCESS_KEY, "deleted", names.workload_namespace(three))
    began = time.monotonic()
    wait(lambda: world.refused(three, key, pods), "the deleted key is refused at every replica", 60, 0.05)
    assert time.monotonic() - began < SOON
    wait(
        lambda: world.kube.secret(names.workload_namespace(three), "accesskey-deleted") is None,
        "its Secret is gone",
    )
    assert world.works(three, world.key(three), pods), "the default key is untouched"


def test_a_rotated_key_works_until_its_overlap_ends(world: World, three: str, pods: list[str]) -> None:
    old = world.add_key(three, "rotated", overlap="20s")
    wait(lambda: world.works(three, old, pods), "the key works")
    rotate(world, three, "rotated", "1")
    new = world.wait_key(three, "rotated", other_than=old)
    wait(lambda: world.works(three, new, pods), "the new key works")
    shown = wait(
        lambda: (
            found["status"].get("previousUntil") and found["status"]
            if (found := access_key(world, three, "rotated"))
            else None
        ),
        "the status says until when the old one works",
    )
    until = datetime.fromisoformat(shown["previousUntil"])
    worked = world.works(three, old, pods)
    assert worked or datetime.now(UTC) > until - timedelta(seconds=2), "the old key works in the overlap"
    wait(lambda: world.refused(three, old, pods), "the old one is refused at every replica", 60)
    assert datetime.now(UTC) > until - timedelta(seconds=1), "not before its time"
    assert world.works(three, new, pods)


def test_a_rotation_without_overlap_ends_the_old_key_at_once(world: World, three: str, pods: list[str]) -> None:
    old = world.add_key(three, "leaked", overlap="0s")
    wait(lambda: world.works(three, old, pods), "the key works")
    rotate(world, three, "leaked", "1")
    new = world.wait_key(three, "leaked", other_than=old)
    wait(lambda: world.works(three, new, pods), "the new key works")
    wait(lambda: world.refused(three, old, pods), "the old one is refused")


def rotate(world: World, tenant: str, name: str, value: str) -> None:
    annotation = {"metadata": {"annotations": {names.ROTATE_ANNOTATION: value}}}
    world.kube.merge(kinds.ACCESS_KEY, name, annotation, names.workload_namespace(tenant))


def test_an_expired_key_is_refused_and_says_so(world: World, three: str, pods: list[str]) -> None:
    expires = datetime.now(UTC) + timedelta(seconds=15)
    key = world.add_key(three, "expiring", expiresAt=expires.strftime("%Y-%m-%dT%H:%M:%SZ"))
    worked = False
    while datetime.now(UTC) < expires - timedelta(seconds=1) and not worked:
        worked = world.works(three, key, pods)
    assert worked or datetime.now(UTC) > expires - timedelta(seconds=2), "the key works before its time"
    wait(lambda: world.refused(three, key, pods), "the expired key is refused", 60)
    assert datetime.now(UTC) > expires - timedelta(seconds=1), "not before its time"
    wait(lambda: condition(access_key(world, three, "expiring"))["reason"] == "Expired", "its status says so")


def test_a_key_that_nobody_made_is_refused(world: World, three: str, pods: list[str]) -> None:
    assert world.refused(three, "tk-" + "x" * 43, pods)


def test_owners_make_keys_only_at_home(world: World, one: str, three: str) -> None:
    owner = world.kube.as_user(world.owner(one))
    manifest = {
        "apiVersion": names.API_VERSION,
        "kind": "AccessKey",
        "metadata": {"name": "stranger", "namespace": names.workload_namespace(three)},
        "spec": {},
    }
    with pytest.raises(Refused) as refused:
        owner.create(manifest)
    assert refused.value.status == 403
    manifest["metadata"]["namespace"] = names.workload_namespace(one)  # type: ignore[index]
    assert owner.create(manifest, dry_run=True)["metadata"]["name"] == "stranger"
    owner.close()


def access_key(world: World, tenant: str, name: str) -> dict[str, Any]:
    found = world.kube.get(kinds.ACCESS_KEY, name, names.workload_namespace(tenant))
    assert found is not None
    return found
