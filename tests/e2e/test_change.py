"""What changes under constant traffic, and that not one request fails of it."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from typing import Any

import httpx
import psycopg
import pytest

from dev.cluster import control, info, node, process, record
from dev.demo import ask, install
from dev.demo.helm import NAMESPACE
from dev.demo.kube import POD, Refused, running, wait
from dev.demo.story import ACTORS
from tenantry import names
from tenantry.backends import kinds
from tests.e2e.traffic import Traffic
from tests.e2e.world import READY_SECONDS, World

pytestmark = pytest.mark.timeout(900)
"""Seconds; the first test of a session also makes every tenant, and on a new checkout the images."""

STORY = ACTORS[0]
SELECTOR = "app.kubernetes.io/name=tenantry"
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
    world.ready(world.name("busy"))
    return filled(world, world.name("busy"))


def filled(world: World, name: str) -> str:
    """A vector store of a tenant's, with one document."""
    if not world.target.ours:
        pytest.skip("Other clusters' Services are reached by a forward to one Pod, which ends with it")
    ai = ask.client(world.runtime(name), world.key(name))
    ask.upload(ai, STORY)
    return next(found.id for found in ai.vector_stores.list() if found.name == ask.STORE)


def traffic(world: World, name: str, store: str, key: Callable[[], str] | None = None) -> Traffic:
    default = world.key(name)
    return Traffic(world.runtime(name), key or (lambda: default), store, STORY.question)


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
    with traffic(world, name, store) as busy:
        for step in order:
            with busy.during(step):
                world.kube.merge(kinds.TENANT, name, {"spec": patches[step]})
                world.ready(name)
        with busy.during("old Pods end"):
            space = names.runtime_namespace(name)
            wait(lambda: len(world.kube.list(POD, space)) == 1, "one runtime Pod is left", 120)


def test_neither_an_absent_operator_nor_its_upgrade_restarts_a_runtime(
    world: World, store: str, one: str, two: str, three: str, four: str
) -> None:
    name = world.name("busy")
    world.kube.merge(kinds.TENANT, name, {"spec": {"deletionProtection": True}})
    world.ready(name)
    tenants = (name, one, two, three, four)
    before = world.runtimes(*tenants)
    image = info.load().images.operator
    other = f"{image.rpartition(':')[0]}:{world.prefix}"
    node.ctr("images", "tag", image, other)
    try:
        with traffic(world, name, store) as busy:
            with busy.during("no operator runs"):
                world.target.kubectl("-n", NAMESPACE, "scale", "deployment/tenantry", "--replicas=0")
                wait(lambda: not world.kube.list(POD, NAMESPACE, SELECTOR), "the operator's Pod is gone", 90)
                with pytest.raises(Refused) as refused:
                    world.kube.delete(kinds.TENANT, name)
                assert "spec.deletionProtection" in str(refused.value)
                with pytest.raises(Refused):
                    world.kube.delete(kinds.NAMESPACE, names.runtime_namespace(name))
            with busy.during("upgrade of the operator"):
                tag = other.rpartition(":")[2]
                settings = f"images.operator.tag={tag},operator.logLevel=DEBUG,operator.workers=8"
                helm(world, "upgrade", "tenantry", install.CHART, "--reuse-values", "--set", settings)
                looked_at(world, other)
            with busy.during("its rollback"):
                helm(world, "rollback", "tenantry")
                looked_at(world, image)
    except BaseException:
        install.operator(world.target)
        raise
    finally:
        node.ctr("images", "rm", other)
    world.kube.merge(kinds.TENANT, name, {"spec": {"deletionProtection": False}})
    world.ready(*tenants)
    assert world.runtimes(*tenants) == before


def test_a_restart_of_the_api_server_fails_no_request(world: World, store: str) -> None:
    name = world.name("busy")
    with traffic(world, name, store) as busy:
        with busy.during("the API server is away"):
            cluster = record.load()
            assert cluster is not None
            process.end(cluster.processes["kube-apiserver"], 1, signals=())
        with busy.during("the API server is back"):
            control.api_server().start(cluster)
            world.kube.merge(kinds.TENANT, name, {"spec": {"ai": {"temperature": 0.4}}})
            world.ready(name)


def test_rotation_of_logins_and_keys_fails_no_request(world: World, three: str) -> None:
    """Two replicas, a database and a Milvus user of the tenant's own: all of it is replaced while they serve.

    So is the key of those who ask, who read the new one some time later than it is there.
    """
    space, store = names.runtime_namespace(three), filled(world, three)

    def held() -> dict[str, Any]:
        secret = world.kube.secret(space, "runtime")
        assert secret is not None
        found: dict[str, Any] = json.loads(secret["credentials.json"])
        return found

    def accepted(login: dict[str, Any]) -> bool:
        try:
            psycopg.connect(
                host=login["host"], port=login["port"], dbname=login["database"], user=login["user"],
                password=login["password"], connect_timeout=10,
            ).close()  # fmt: skip
        except psycopg.OperationalError:
            return False
        return True

    before, old = held(), set(world.pods(three))
    assert accepted(before["postgres"])
    asked = {"metadata": {"annotations": {names.ROTATE_ANNOTATION: "e2e"}}}
    first = key = world.add_key(three, "turning", overlap="15s")
    wait(lambda: world.works(three, first), "the key works")
    with traffic(world, three, store, lambda: key) as busy:
        with busy.during("rotation of the key"):
            world.kube.merge(kinds.ACCESS_KEY, "turning", asked, names.workload_namespace(three))
            second = world.wait_key(three, "turning", other_than=first)
        with busy.during("use of the new key"):
            key = second
        with busy.during("rotation"):
            world.kube.merge(kinds.TENANT, three, asked)
            after = wait(lambda: found if (found := held()) != before else None, "the Secret has new logins", 60)
            assert accepted(before["postgres"]), "the replicas that are there go on with what they hold"
            wait(lambda: (new := set(world.pods(three))) - old == new and len(new) == 2, "two new Pods", READY_SECONDS)
        with busy.during("the end of the login before"):
            wait(lambda: not accepted(before["postgres"]), "the login before is refused", 120)
        with busy.during("the end of the key before"):
            wait(lambda: world.refused(three, first), "the key before is refused", 60)
    assert accepted(after["postgres"])
    assert before["milvus"]["user"] != after["milvus"]["user"]
    world.ready(three)


def helm(world: World, *arguments: str) -> None:
    world.target.run("helm", arguments[0], *arguments[1:], "-n", NAMESPACE, "--wait", "--timeout=3m", timeout=240)


def looked_at(world: World, image: str) -> None:
    """Wait until the operator of this image has reconciled every tenant of the run."""

    def look() -> bool:
        for pod in world.kube.list(POD, NAMESPACE, SELECTOR):
            if running(pod) and pod["spec"]["containers"][0]["image"] == image:
                url = world.target.pod(NAMESPACE, pod["metadata"]["name"], 9090)
                lines = httpx.get(f"{url}/metrics", timeout=20, trust_env=False).text.splitlines()
                counts = [float(line.split()[-1]) for line in lines if line.startswith("tenantry_reconcile_total{")]
                return sum(counts) >= len(world.tenants)
        return False

    wait(look, f"every tenant was looked at by {image}", 120)
