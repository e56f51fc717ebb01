"""The writes of the operator against a real API server: made once, put back, never over what is not ours."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator

import pytest

from tenantry import names
from tenantry.backends import kinds
from tenantry.backends.connection import ApiError, Connection, from_kubeconfig
from tenantry.backends.errors import BackendError
from tenantry.backends.kubernetes import FOLLOWING, KubernetesBackend, selector
from tenantry.backends.observed import Observed
from tenantry.backends.watch import Watch
from tenantry.desired import kubernetes
from tenantry.desired.options import Options
from tenantry.leader import Leader, LostLeadership
from tests import samples
from tests.controlplane import ControlPlane

OPTIONS = Options(runtime_image="runtime:test", prometheus_cidrs=("10.0.0.9/32",))


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    with ControlPlane(tmp_path_factory.mktemp("plane")) as made:
        made.install_crds()
        yield made


@pytest.fixture
async def backend(plane) -> AsyncIterator[KubernetesBackend]:
    connection = Connection(from_kubeconfig(plane.kubeconfig))
    yield KubernetesBackend(connection, Observed())
    await connection.close()


def objects(resolved):
    """All that needs no controller."""
    return [
        *kubernetes.namespace_objects(resolved, OPTIONS),
        *kubernetes.runtime_objects(resolved, OPTIONS, "digest"),
    ]


def writes(backend: KubernetesBackend) -> int:
    return sum(n for (verb, _), n in backend.connection.requests.items() if verb not in ("get", "list"))


async def versions(backend: KubernetesBackend, wanted: list) -> list[tuple[int, str, str]]:
    """Of the objects that were just made, in the order in which the API server stored them."""
    stored = [await backend.get(kinds.of(o), o["metadata"].get("namespace", ""), o["metadata"]["name"]) for o in wanted]
    return sorted((int(o["metadata"]["resourceVersion"]), o["kind"], o["metadata"]["name"]) for o in stored)


async def told(backend: KubernetesBackend, kind: kinds.Kind) -> None:
    """What a list says of a kind, as at the operator's start."""

    def put(kind: kinds.Kind, event: dict) -> None:
        backend.observed.put(event["object"])

    await Watch(backend, kind, selector(), put, backend.observed.missing).list()


async def admin(plane, *args: str) -> str:
    return (await asyncio.to_thread(lambda: plane.kubectl(*args))).stdout


async def test_nobody_has_rights_before_the_walls_and_the_quotas_are_there(backend):
    resolved = samples.resolved("walls", owners=[{"kind": "User", "name": "alice@walls.example"}])
    wanted = objects(resolved)
    await backend.ensure(wanted, resolved.uid)
    made = [(kind, name) for _, kind, name in await versions(backend, wanted)]
    assert [kind for kind, _ in made[:2]] == ["Namespace", "Namespace"]
    assert made[-1] == ("RoleBinding", names.OWNER_ROLE)
    # What others write again for each object that it counts or selects comes last, if it is new, but for the rights.
    following = sorted(kind for kind, _ in made if kind in FOLLOWING)
    assert following.count("ResourceQuota") == 2
    assert sorted(kind for kind, _ in made[:-1][-len(following) :]) == following


@pytest.mark.parametrize("tier", ["free", "enterprise"])
async def test_what_is_read_back_is_what_was_wanted_so_a_second_time_writes_nothing(backend, tier):
    resolved = samples.resolved(f"steady-{tier}", tier=tier, namespaces=[{"suffix": "dev", "weight": 2}])
    wanted = objects(resolved)
    applied = await backend.ensure(wanted, resolved.uid)
    assert len(applied.made) == len(wanted)
    assert writes(backend) == len(wanted)
    assert await backend.ensure(wanted, resolved.uid) == type(applied)()
    assert writes(backend) == len(wanted)
    # A new process, which knows only what lists say, writes nothing either.
    fresh = KubernetesBackend(backend.connection, Observed())
    for kind in kinds.CHILDREN:
        await told(fresh, kind)
    before = writes(fresh)
    assert await fresh.ensure(wanted, resolved.uid) == type(applied)()
    assert writes(fresh) == before


async def test_what_drifts_is_put_back(backend, plane):
    resolved = samples.resolved("drift", owners=[{"kind": "User", "name": "eve"}])
    wanted = objects(resolved)
    await backend.ensure(wanted, resolved.uid)
    spoil = [
        ("resourcequota", {"spec": {"hard": {"pods": "999", "services": None, "count/cronjobs.batch": "7"}}}),
        ("networkpolicy", {"spec": {"egress": [{}], "policyTypes": ["Egress"]}}),
        ("rolebinding", {"subjects": [{"kind": "User", "name": "mallory", "apiGroup": "rbac.authorization.k8s.io"}]}),
        ("limitrange", {"spec": {"limits": []}}),
    ]
    for kind, patch in spoil:
        names = (await admin(plane, "-n", "tenant-drift", "get", kind, "-o", "name")).split()
        ours = [n for n in names if not n.startswith("rolebinding") or "owner" in n]
        assert ours
        await admin(plane, "-n", "tenant-drift", "patch", ours[0], "--type=merge", "-p", json.dumps(patch))
    label = json.dumps({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}})
    await admin(plane, "patch", "namespace", "tenant-drift", "--type=merge", "-p", label)
    for kind in kinds.CHILDREN:
        await told(backend, kind)
    applied = await backend.ensure(wanted, resolved.uid)
    assert {k[0] for k in applied.corrected} == {
        "Namespace",
        "ResourceQuota",
        "NetworkPolicy",
        "RoleBinding",
        "LimitRange",
    }
    again = KubernetesBackend(backend.connection, Observed())
    for kind in kinds.CHILDREN:
        await told(again, kind)
    assert not (await again.ensure(wanted, resolved.uid)).changed


async def test_what_was_deleted_is_made_again(backend, plane):
    resolved = samples.resolved("missing")
    wanted = objects(resolved)
    await backend.ensure(wanted, resolved.uid)
    quota = next(o for o in wanted if o["kind"] == "ResourceQuota")["metadata"]
    await admin(plane, "-n", quota["namespace"], "delete", "resourcequota", quota["name"])
    for kind in kinds.CHILDREN:
        await told(backend, kind)
    applied = await backend.ensure(wanted, resolved.uid)
    assert [k[0] for k in applied.corrected] == ["ResourceQuota"]


async def test_somebody_elses_namespace_is_left_alone_and_named(backend, plane):
    await admin(plane, "create", "namespace", "tenant-taken")
    resolved = samples.resolved("taken")
    with pytest.raises(BackendError, match="Namespace tenant-taken exists and was not made for this Tenant") as error:
        await backend.ensure(objects(resolved), resolved.uid)
    assert error.value.final
    seen = await backend.get(kinds.NAMESPACE, "", "tenant-taken")
    assert seen is not None
    assert "tenantry.dev/tenant" not in seen["metadata"]["labels"]


async def test_another_tenants_object_of_the_same_name_is_left_alone(backend):
    first = samples.resolved("again")
    await backend.ensure(objects(first), first.uid)
    other = "00000000-0000-0000-0000-000000000001"
    made_again = [
        {**o, "metadata": {**o["metadata"], "annotations": {"tenantry.dev/tenant-uid": other}}} for o in objects(first)
    ]
    for cache in (backend.observed, Observed()):
        with pytest.raises(BackendError, match="was made for a Tenant of UID"):
            await KubernetesBackend(backend.connection, cache).ensure(made_again, other)


async def test_two_that_race_make_each_object_once(backend):
    resolved = samples.resolved("race")
    wanted = objects(resolved)
    both = [KubernetesBackend(backend.connection, Observed()) for _ in range(2)]
    results = await asyncio.gather(*(b.ensure(wanted, resolved.uid) for b in both), return_exceptions=True)
    for _ in range(3):
        if not any(isinstance(r, BaseException) for r in results):
            break
        results = await asyncio.gather(*(b.ensure(wanted, resolved.uid) for b in both), return_exceptions=True)
    assert not any(isinstance(r, BaseException) for r in results), results
    found = [o for kind in kinds.CHILDREN for o in await backend.list_all(kind, "tenantry.dev/tenant=race")]
    assert len(found) == len(wanted)


async def test_a_secret_is_written_once_and_put_back(backend, plane):
    from tenantry.desired import secrets

    resolved = samples.resolved("sealed")
    await backend.ensure(objects(resolved), resolved.uid)
    desired = secrets.postgres(resolved, samples.credentials())
    assert await backend.ensure_secret(desired, resolved.uid) == "made"
    assert await backend.ensure_secret(desired, resolved.uid) == ""
    await admin(plane, "-n", "tenant-sealed", "patch", "secret", "postgres", "-p", '{"stringData":{"password":"x"}}')
    assert await backend.ensure_secret(desired, resolved.uid) == "corrected"
    seen = await backend.get(kinds.SECRET, "tenant-sealed", "postgres")
    assert seen is not None
    assert seen["data"] == desired["data"]


async def test_a_refusal_that_a_person_can_mend_says_how(backend):
    resolved = samples.resolved("refused")
    await backend.ensure(objects(resolved), resolved.uid)
    broken = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "broken",
            "namespace": "runtime-refused",
            "labels": {"app.kubernetes.io/managed-by": "tenantry"},
            "annotations": {"tenantry.dev/tenant-uid": resolved.uid},
        },
        "spec": {"ports": [{"port": 99999}]},
    }
    with pytest.raises(BackendError, match=r"spec\.ports\[0\]\.port"):
        await backend.ensure([broken], resolved.uid)


async def test_an_absent_server_is_an_error_that_is_retried(plane):
    made = from_kubeconfig(plane.kubeconfig)
    connection = Connection(dataclasses.replace(made, server="https://127.0.0.1:1"))
    try:
        with pytest.raises(ApiError) as error:
            await connection.request("get", kinds.NAMESPACE.path("", "default"), resource="namespaces")
        assert error.value.unavailable
    finally:
        await connection.close()


async def test_one_leads_and_the_next_takes_over_when_it_ends(plane, backend):
    connection = backend.connection
    first = Leader(connection, "default", "first", 3)
    second = Leader(connection, "default", "second", 3)
    await first.acquire()
    keeping = asyncio.create_task(first.keep())
    waiting = asyncio.create_task(second.acquire())
    await asyncio.sleep(4)
    assert not waiting.done()
    keeping.cancel()  # as a killed process, it gives nothing back
    async with asyncio.timeout(15):
        await waiting
    with pytest.raises(LostLeadership):
        async with asyncio.timeout(15):
            await first.keep()
    await second.release()
    third = Leader(connection, "default", "third", 30)
    async with asyncio.timeout(10):
        await third.acquire()
