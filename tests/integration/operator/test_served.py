"""What is said of a Tenant and its keys, as its service's clients feel it: an operator and two replicas run."""

import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml

from tests.integration.operator.world import GROUP, World, until
from tests.integration.runtime.stack import ROOT, Replica, process
from tests.integration.runtime.upstream import Upstream

KEYS = f"{GROUP}/namespaces/tenant-acme/accesskeys"
GUIDE = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs" / "tenant-guide.md").read_text(), re.MULTILINE | re.DOTALL)
"""The manifests of docs/tenant-guide.md: a Pod's environment and a key."""


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as made:
        yield made


@pytest.fixture
def replicas(operator: World, upstream: Upstream, tmp_path: Path) -> Iterator[tuple[Replica, Replica]]:
    """Of tenant acme: with what the operator hands its Pods, but another provider."""
    operator.tenant("acme", "enterprise", ai={"cache": {"mode": "Off"}})
    operator.ready("acme")
    secret = operator.secret("runtime-acme", "runtime")
    assert secret is not None
    told = json.loads(secret["credentials.json"])
    told["provider"]["base_url"] = upstream.url
    file = tmp_path / "credentials.json"
    file.write_text(json.dumps(told))
    settings = {
        "TENANTRY_CREDENTIALS": str(file),
        "TENANTRY_HOST": "127.0.0.1",
        "TENANTRY_PORT": "0",
        "TENANTRY_METRICS_PORT": "0",
        "TENANTRY_DRAIN_SECONDS": "0",
    }
    with ExitStack() as running:
        made = []
        for number in (1, 2):
            log = tmp_path / f"runtime-{number}.log"
            child = running.enter_context(process(["-m", "tenantry_runtime"], log, settings))
            made.append(Replica(child, log))
            until(made[-1].ready, "the replica is ready")
        yield made[0], made[1]


def ask(client: openai.OpenAI) -> Any:
    return client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "Hello?"}])


def key_of(world: World, name: str) -> str:
    found = until(lambda: world.secret("tenant-acme", f"accesskey-{name}"), f"the Secret of {name} is there")
    return str(found["api-key"])


def works(client: openai.OpenAI) -> bool:
    try:
        client.models.list()
    except openai.AuthenticationError:
        return False
    return True


def test_a_change_of_the_tenant_is_in_the_next_answers_and_fails_none(
    operator: World, replicas: tuple[Replica, Replica], upstream: Upstream
) -> None:
    clients = [replica.client(key_of(operator, "default")) for replica in replicas]
    pids = [replica.child.pid for replica in replicas]
    took = []
    for words in ("Speak Latin.", "Speak Greek.", "Speak Dutch."):
        operator.change("acme", ai={"customInstructions": words})
        began = time.monotonic()
        for client in clients:

            def told(client: openai.OpenAI = client, words: str = words) -> bool:
                ask(client)  # raises where one fails
                return words in upstream.asked[-1]["messages"][0]["content"]

            until(told, "the change shows", 10)  # at ten calls a second: the tier's 100 a minute are enough
        took.append(time.monotonic() - began)
    print(f"in the answers of both replicas after {', '.join(f'{seconds:.2f}' for seconds in took)} s")
    assert min(took) < 1  # what is aimed for, where nothing else keeps the machine busy
    assert [replica.child.pid for replica in replicas if replica.child.poll() is None] == pids


def test_a_key_that_is_deleted_is_refused_by_both_replicas_within_a_second(
    operator: World, replicas: tuple[Replica, Replica]
) -> None:
    took = []
    for number in range(3):
        operator.create(KEYS, {**yaml.safe_load(GUIDE[1]), "metadata": {"name": f"doomed-{number}"}})
        clients = [replica.client(key_of(operator, f"doomed-{number}")) for replica in replicas]
        until(lambda clients=clients: all(map(works, clients)), "the key works")  # type: ignore[misc]
        operator.remove(f"{KEYS}/doomed-{number}")
        began = time.monotonic()
        until(lambda clients=clients: not any(map(works, clients)), "it is refused", 10)  # type: ignore[misc]
        took.append(time.monotonic() - began)
    print(f"refused by both replicas after {', '.join(f'{seconds:.2f}' for seconds in took)} s")
    assert min(took) < 1


def test_the_guides_manifests_are_those_of_a_tenant(operator: World, replicas: tuple[Replica, Replica]) -> None:
    environment, key = (yaml.safe_load(text) for text in GUIDE)
    operator.create(KEYS, key)
    assert key["metadata"]["namespace"] == "tenant-acme"
    auditor = replicas[0].client(key_of(operator, key["metadata"]["name"]))
    until(lambda: works(auditor), "the guide's key works")
    with pytest.raises(openai.PermissionDeniedError):
        ask(auditor)
    values = {}
    for variable in environment["env"]:
        source = variable["valueFrom"]["secretKeyRef"]
        secret = operator.secret("tenant-acme", source["name"])
        assert secret is not None
        values[variable["name"]] = secret[source["key"]]
    assert works(replicas[1].client(values.pop("TENANTRY_API_KEY")))
    assert values == {"TENANTRY_BASE_URL": "http://runtime.runtime-acme.svc:8000/v1"}
