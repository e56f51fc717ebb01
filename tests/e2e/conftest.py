"""One cluster with the chart on it, and every tenant of the run begun at once.

The cluster is the development cluster (started where it does not run) or the one that KUBECONFIG names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.cluster import paths
from dev.demo import install
from dev.demo.target import Target, run_module
from tests.e2e.world import MANY, World


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(item.fspath).is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.pods)


@pytest.fixture(scope="session")
def target() -> Iterator[Target]:
    """The cluster with the operator installed as the demo does it."""
    given = os.environ.get("KUBECONFIG", "")
    if given and Path(given).resolve() != paths.KUBECONFIG.resolve():
        if not os.environ.get("TENANTRY_VALUES"):
            pytest.skip("KUBECONFIG without TENANTRY_VALUES: see CONTRIBUTING.md")
        found = Target(Path(given), ours=False, prometheus=os.environ.get("TENANTRY_PROMETHEUS_URL", ""))
    else:
        if os.geteuid() != 0 or os.uname().sysname != "Linux":
            pytest.skip("The development cluster runs Pods only on Linux as root")
        assert run_module(["dev.cluster", "up"]) == 0, "the development cluster did not start: see above"
        found = install.ours()
    install.operator(found)
    yield found
    found.close()


@pytest.fixture(scope="session")
def world(target: Target) -> Iterator[World]:
    """Every tenant is applied here, so that they become Ready beside each other; tests wait for their own."""
    made = World(target)
    try:
        wide = made.tier("wide", limits=MANY)
        # Shared by tests that only look: two in one collection, one with two replicas, each level once.
        made.apply(made.name("one"), wide)
        made.apply(made.name("two"), wide)
        made.apply(
            made.name("three"),
            wide,
            vectors={"isolation": "Collection"},
            database={"isolation": "Database"},
            runtime={"replicas": {"min": 2}},
        )
        made.apply(made.name("four"), wide, vectors={"isolation": "Database"})
        # Each belongs to the one test that changes it.
        made.apply(made.name("grow"), "free")
        made.apply(made.name("stall"), made.name("later"))
        made.apply(made.name("keep"), wide, deletion={"policy": "Retain"})
        made.apply(made.name("drop"), wide)
        made.apply(made.name("busy"), wide)
        made.tier("wider", "enterprise", limits=MANY)
        yield made
    finally:
        made.clean()


@pytest.fixture(scope="session")
def one(world: World) -> str:
    return _ready(world, "one")


@pytest.fixture(scope="session")
def two(world: World) -> str:
    return _ready(world, "two")


@pytest.fixture(scope="session")
def three(world: World) -> str:
    """Two replicas, a Milvus collection and a database of its own."""
    return _ready(world, "three")


@pytest.fixture(scope="session")
def four(world: World) -> str:
    """A Milvus database of its own."""
    return _ready(world, "four")


def _ready(world: World, short: str) -> str:
    name = world.name(short)
    world.ready(name)
    return name
