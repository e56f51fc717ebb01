"""Names: each fits where it is used, and no two tenants' names meet."""

import re
import uuid

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tenantry import names
from tenantry.desired import vectors
from tenantry.desired.postgres.things import Things
from tests import samples, strategies

TENANTS = strategies.labels(names.LONGEST_TENANT)
SUFFIXES = strategies.labels(names.LONGEST_SUFFIX)
UIDS = st.uuids().map(str)
DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


def made(tenant: str) -> set[str]:
    """Every namespace, schema and role that carries the tenant's name."""
    things = Things(tenant, samples.uid(tenant))
    return {
        names.workload_namespace(tenant),
        names.runtime_namespace(tenant),
        *things.schemas,
        *things.roles,
    }


@given(TENANTS, SUFFIXES)
def test_namespaces_are_dns_labels(tenant: str, suffix: str) -> None:
    for name in (
        names.workload_namespace(tenant),
        names.workload_namespace(tenant, suffix),
        names.runtime_namespace(tenant),
    ):
        assert DNS_LABEL.fullmatch(name)
        assert len(name) <= 63


def test_the_longest_just_fit() -> None:
    tenant, suffix = "a" * names.LONGEST_TENANT, "b" * names.LONGEST_SUFFIX
    assert len(names.workload_namespace(tenant, suffix)) == 63
    assert max(map(len, made(tenant))) <= 63, "PostgreSQL cuts longer ones"


@given(TENANTS, TENANTS, SUFFIXES)
def test_no_two_tenants_meet(one: str, other: str, suffix: str) -> None:
    assume(one != other)
    assert not made(one) & made(other)
    assert names.workload_namespace(one, suffix) not in made(other)


def everything(tenant: str, uid: str, suffixes: set[str]) -> dict[str, set[str]]:
    """Every name that a tenant's things carry, by what they must be unique among."""
    things = Things(tenant, uid)
    return {
        "namespaces": {
            names.runtime_namespace(tenant),
            *(names.workload_namespace(tenant, suffix) for suffix in {"", *suffixes}),
        },
        "schemas": {*things.schemas, *things.retained},
        "databases": {things.database, things.retained_database},
        "roles": set(things.roles),
        "channels": {things.channel},
        "milvus": {vectors.own_name(uid), vectors.own_role(uid), *vectors.own_users(uid)},
    }


RELATED = st.tuples(TENANTS, st.sampled_from(["", "-a", "-b", "-owner", "-runtime", "-runtime-a", "-dev", "-0"])).map(
    lambda t: t[0][: names.LONGEST_TENANT - len(t[1])].strip("-") + t[1]
)
"""Names that look like another's things."""


@given(st.lists(RELATED | TENANTS, min_size=2, max_size=6, unique=True), st.sets(SUFFIXES, max_size=3), st.uuids())
@settings(max_examples=100)
def test_no_two_tenants_share_any_name(tenants: list[str], suffixes: set[str], first: uuid.UUID) -> None:
    seen: dict[tuple[str, str], str] = {}
    for tenant in tenants:
        uid = str(uuid.uuid5(first, tenant))
        for kind, made in everything(tenant, uid, suffixes).items():
            for name in made:
                assert seen.setdefault((kind, name), tenant) == tenant, f"{kind}: {name}"


def test_a_name_given_again_shares_only_what_its_predecessor_no_longer_has() -> None:
    """Deleted and made again at once: by name in Kubernetes and PostgreSQL, where the UID in each thing decides."""
    old, new = (everything("acme", samples.uid(n), {"dev"}) for n in ("first", "second"))
    assert not old["milvus"] & new["milvus"]
    assert not old["channels"] & new["channels"]
    assert old["schemas"] & new["schemas"] == {"tenant_acme", "tenant_acme__runtime"}
    assert old["databases"] & new["databases"] == {"tenant_acme"}


def test_near_names_do_not_meet() -> None:
    """Where a suffix or a hyphen could make one tenant's name look like another's thing."""
    near = ["a", "a-b", "a-runtime", "a-owner", "a-runtime-owner", "a-runtime-a", "a-a", "tenant-a", "runtime-a"]
    seen: dict[str, str] = {}
    for tenant in near:
        for name in made(tenant):
            assert seen.setdefault(name, tenant) == tenant


@given(UIDS, UIDS)
def test_uids_in_names(one: str, other: str) -> None:
    assert re.fullmatch("[0-9a-f]{32}", names.bare(one))
    assert re.fullmatch("[a-z2-7]{26}", names.short(one))
    assert len(f"t_{names.short(one)}_a") < 32, "Milvus' users"
    if one != other:
        assert names.bare(one) != names.bare(other)
        assert names.short(one) != names.short(other)


def test_a_uid_that_is_none_still_has_a_short_form() -> None:
    assert re.fullmatch("[a-z2-7]{26}", names.short("not a uuid"))
    assert names.short("not a uuid") != names.short(str(uuid.UUID(int=0)))


@given(st.text(max_size=30))
def test_slug(text: str) -> None:
    slug = names.slug(text)
    assert re.fullmatch("([a-z0-9]+(_[a-z0-9]+)*)?", slug)


def test_endpoint() -> None:
    assert names.endpoint("acme") == "http://runtime.runtime-acme.svc:8000/v1"
