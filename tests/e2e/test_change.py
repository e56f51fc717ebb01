"""What changes under constant traffic, and that not one request fails of it."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest

from dev.demo import ask
from dev.demo.kube import POD, wait
from dev.demo.story import ACTORS
from tenantry import names
from tenantry.backends import kinds
from tests.e2e.traffic import Traffic
from tests.e2e.world import World

STORY = ACTORS[0]
SEED = int(os.environ.get("TENANTRY_TEST_SEED") or random.SystemRandom().randrange(10**6))
"""Of the order of changes; set TENANTRY_TEST_SEED to have one again."""

CHANGES: dict[str, dict[str, Any]] = {
    "quota": {"quota": {"cpu": "4", "pods": 9}},
    "models": {"ai": {"models": {"allowed": ["gpt-4o-mini"], "default": "gpt-4o-mini"}}},
    "limits": {"ai": {"limits": {"requestsPerMinute": 50_000, "tokensPerDay": 90_000_000, "concurrency": 40}}},
    "budget": {"ai": {"budget": {"monthly": "90", "timeZone": "Europe/Berlin"}}},
    "prompt": {"ai": {"systemPrompt": {"template": "You help {{ tenantName }}. {{ customInstructions }}"}}},
    "custom instructions": {"ai": {"customInstructions": "Be brief."}},
    "retrieval": {"ai": {"retrieval": {"topK": 3}}},
    "a namespace more": {"namespaces": [{"suffix": "dev"}]},
    "more and larger Pods": {"runtime": {"replicas": {"min": 2}, "resources": {"cpuLimit": "8", "memoryLimit": "4Gi"}}},
    "fewer and smaller Pods": {
        "runtime": {"replicas": {"min": 1}, "resources": {"cpuLimit": "700m", "memoryLimit": "400Mi"}}
    },
    "tier up": {},
    "tier down": {},
}
ORDERED = (("more and larger Pods", "fewer and smaller Pods"), ("tier up", "tier down"))


@pytest.fixture(scope="module")
def store(world: World) -> str:
    """The vector store of the tenant that is changed, with one document."""
    if not world.target.ours:
        pytest.skip("Other clusters' Services are reached by a forward to one Pod, which ends with it")
    name = world.name("busy")
    world.ready(name)
    ai = ask.client(world.runtime(name), world.key(name))
    ask.upload(ai, STORY)
    return next(found.id for found in ai.vector_stores.list() if found.name == ask.STORE)


def traffic(world: World, store: str) -> Traffic:
    name = world.name("busy")
    key = world.key(name)
    return Traffic(world.runtime(name), lambda: key, store, STORY.question)


def test_changes_of_a_tenant_fail_no_request(world: World, store: str) -> None:
    name, order = world.name("busy"), list(CHANGES)
    dice = random.Random(SEED)
    dice.shuffle(order)
    for first, second in ORDERED:
        a, b = sorted((order.index(first), order.index(second)))
        order[a], order[b] = first, second
    print(f"seed {SEED}: {', '.join(order)}")
    patches = {
        **CHANGES,
        "tier up": {"tier": world.name("wider")},
        "tier down": {"tier": world.name("wide")},
    }
    with traffic(world, store) as busy:
        for step in order:
            with busy.during(step):
                world.kube.merge(kinds.TENANT, name, {"spec": patches[step]})
                world.ready(name)
        with busy.during("old Pods end"):
            space = names.runtime_namespace(name)
            wait(lambda: len(world.kube.list(POD, space)) == 1, "one runtime Pod is left", 120)
