"""Junk manifests while the operator runs: each is refused or ends as a condition, and nobody else notices."""

from __future__ import annotations

import random
import time
from collections import Counter
from datetime import datetime
from statistics import median
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tenantry.api import AccessKey, DataRegion, Resource, Tenant, TenantTier, crd
from tenantry.api.conditions import Reason
from tests import samples, strategies
from tests.integration.operator.world import GROUP, Replica, World, region, until
from tests.integration.survival.faults import unforeseen

SEED = 500
GOOD = ("good-0", "good-1", "good-2")
TIMES, SECONDS = 3, 5
"""Good tenants come three at once before the junk, and three at once in its midst: what these wait at most, by those.

More, a user would take for a fault.  It is wide since the same processors are at the junk too, half of which becomes
tenants that are worked on like any others, and since times are in whole seconds; both sides grow with a slow machine.
"""
PATHS = {Tenant: "tenants", TenantTier: "tenanttiers", DataRegion: "dataregions"}
PLACES = st.sampled_from(["", "main", "nowhere", "junk-0", "junk-1", "junk-2"])


def specs(kind: type[Resource]) -> st.SearchStrategy[Any]:
    """Of one kind: anything by its schema, or a good one with junk in it, or (Tenants) good and odd."""
    schema = crd.schema_of(kind)["properties"]["spec"]
    if kind is AccessKey:
        return strategies.junk(schema)
    if kind is TenantTier:
        return strategies.spoiled(samples.tier_manifest("pro")["spec"], schema)
    if kind is DataRegion:
        return strategies.spoiled({**samples.REGION, "default": False}, schema)
    good = samples.manifest("x", "pro", deletion={"policy": "Delete"})["spec"]
    odd = st.tuples(strategies.tenant_manifests(), PLACES).map(
        lambda m: {**m[0]["spec"], **({"region": m[1]} if m[1] else {})}
    )
    return st.one_of(strategies.junk(schema), strategies.spoiled(good, schema), odd)


def drawn(kind: type[Resource], number: int) -> list[Any]:
    """The same in every run."""
    found: list[Any] = []

    @settings(
        max_examples=number,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(specs(kind))
    def each(spec: Any) -> None:
        found.append(spec)

    each()
    return found[:number]


def manifests(count: int) -> list[tuple[str, dict[str, Any]]]:
    """Path and body, kinds mixed."""
    made: list[tuple[str, dict[str, Any]]] = []
    shares = {Tenant: 0.55, DataRegion: 0.15, TenantTier: 0.15, AccessKey: 0.15}
    for kind, share in shares.items():
        where = PATHS.get(kind, "namespaces/tenant-beside/accesskeys")
        for number, spec in enumerate(drawn(kind, round(count * share))):
            meta: dict[str, Any] = {"name": f"junk-{number}"}
            if number % 9 == 4:
                meta |= {"annotations": {"tenantry.dev/pinned": "{}", "tenantry.dev/tenant-uid": "not-a-uid"}}
            if number % 11 == 6:
                meta |= {"labels": {"tenantry.dev/tenant": "beside"}}
            body = {"apiVersion": "tenantry.dev/v1alpha1", "kind": kind.kind_name, "metadata": meta, "spec": spec}
            made.append((f"{GROUP}/{where}", body))
    random.Random(SEED).shuffle(made)
    return made


def settled(world: World, name: str) -> bool:
    """The operator has said something about what stands there now."""
    ready = world.condition(name)
    return ready.get("reason") not in ("Pending", "Provisioning", None) and ready["status"] in ("True", "False")


def told(world: World, path: str) -> str:
    """The reason of an AccessKey's condition."""
    conditions = (world.get(path) or {}).get("status", {}).get("conditions", ())
    return next((str(c["reason"]) for c in conditions if c["type"] == "Ready"), "")


def came(world: World, *names: str) -> tuple[str, ...]:
    for name in names:
        world.tenant(name)
    return names


def waited(world: World, names: tuple[str, ...]) -> list[float]:
    """Seconds from apply to Ready of each, in whole seconds, as Kubernetes tells times."""
    took = []
    for name in names:
        seen = world.ready(name)
        made, ready = (
            datetime.fromisoformat(text)
            for text in (seen["metadata"]["creationTimestamp"], seen["status"]["firstReadyAt"])
        )
        took.append((ready - made).total_seconds())
    return took


def endure(world: World, replica: Replica, count: int) -> None:
    """Send so many to a world in which `replica` leads.  AssertionError where one is neither refused nor a condition,
    the operator ends or logs what nobody foresaw, or a good tenant among them waits; all is removed again.
    """
    alone = came(world, "beside", "alone-1", "alone-2")
    before = waited(world, alone)
    seen: Counter[str] = Counter()
    taken: list[str] = []
    regions: list[str] = []
    keys: list[str] = []
    everything = manifests(count)
    began = time.monotonic()
    try:
        for number, (where, body) in enumerate(everything):
            answer = world.api.post(where, json=body, params={"fieldValidation": "Ignore"})
            assert answer.status_code in (201, 400, 409, 422), answer.text
            seen[f"{body['kind']} {'taken' if answer.status_code == 201 else 'refused'}"] += 1
            if answer.status_code == 201 and body["kind"] == "Tenant":
                taken.append(body["metadata"]["name"])
            if answer.status_code == 201 and body["kind"] == "DataRegion":
                regions.append(body["metadata"]["name"])
            if answer.status_code == 201 and body["kind"] == "AccessKey":
                keys.append(f"{where}/{body['metadata']['name']}")
            if number == len(everything) // 2:
                came(world, *GOOD)
        during = waited(world, GOOD)
        print(f"{count} junk manifests, seed {SEED}, in {time.monotonic() - began:.0f} s: {dict(seen)}", flush=True)
        print(f"from apply to Ready: {before} s before the junk, {during} s beside it", flush=True)
        assert median(during) <= TIMES * median(before) + SECONDS, f"{during} s beside the junk, {before} s before it"
        for name in taken:
            until(lambda n=name: settled(world, n), f"{name} has a condition", 60)  # type: ignore[misc]
            assert world.condition(name)["reason"] in set(Reason), world.condition(name)
        for path in keys:
            until(lambda p=path: told(world, p) in set(Reason), f"{path} has a condition", 60)  # type: ignore[misc]
        assert seen["Tenant taken"] >= 5
        assert seen["Tenant refused"] >= 5
        assert replica.process.poll() is None
        assert not unforeseen(replica), unforeseen(replica)
        world.change("beside", ai={"customInstructions": "after the junk"})
        world.ready("beside")
    finally:
        # A region that was never there gets real servers, so that it can be seen that nothing is in them.
        for name in regions:
            whole = region(world, name, default=False)
            version = (world.get(f"{GROUP}/dataregions/{name}") or {"metadata": {}})["metadata"].get("resourceVersion")
            whole["metadata"]["resourceVersion"] = version
            assert world.api.put(f"{GROUP}/dataregions/{name}", json=whole).status_code == 200
        for name in taken:
            world.change(name, deletionProtection=False, deletion={"policy": "Delete"})
        world.deleted(*GOOD, *alone, *taken, seconds=240)
        for where, body in everything:
            if body["kind"] in ("DataRegion", "TenantTier"):
                world.remove(f"{where}/{body['metadata']['name']}")
    assert not unforeseen(replica), unforeseen(replica)
