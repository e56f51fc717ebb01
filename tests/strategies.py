"""Hypothesis strategies: Tenants that the API server takes, and junk drawn from a CRD's schema.

@given(strategies.tenants())          parsed, with metadata as the API server gives it
@given(strategies.tenant_manifests()) as one would apply it
@given(strategies.junk(schema))       right in most places, wrong in some
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from tenantry.api.tenant import Tenant
from tests import samples

Json = Any

WORD = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=8)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
QUANTITIES = st.sampled_from(["1", "500m", "2", "1.5", "4Gi", "512Mi", "10M", "0"])
DECIMALS = st.sampled_from(["0", "0.15", "1", "12.50", "100", "999999999.999999999"])
ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Pacific/Chatham"])
MODELS = st.sampled_from(["gpt-4o-mini", "gpt-4o"])


def _joined(words: list[str]) -> str:
    return "-".join(words)


def labels(longest: int) -> st.SearchStrategy[str]:
    """DNS labels without two hyphens in a row, of at most `longest` characters."""
    parts = st.lists(WORD, min_size=1, max_size=5)
    return parts.map(_joined).map(lambda name: name[:longest].strip("-"))


def _some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """An object with any of the fields."""
    return st.fixed_dictionaries({}, optional=fields)


OWNERS = st.one_of(
    st.fixed_dictionaries({"kind": st.sampled_from(["User", "Group"]), "name": WORD}),
    st.fixed_dictionaries({"kind": st.just("ServiceAccount"), "name": WORD, "namespace": WORD}),
)
QUOTA = _some(
    cpu=QUANTITIES, memory=QUANTITIES, pods=st.integers(1, 300), storage=QUANTITIES, ephemeralStorage=QUANTITIES
)
LIMITS = _some(
    requestsPerMinute=st.integers(1, 200),
    tokensPerMinute=st.integers(1, 200_000),
    tokensPerDay=st.integers(1, 10_000_000),
    concurrency=st.integers(1, 100),
)


@st.composite
def _models(draw: st.DrawFn) -> dict[str, Any]:
    allowed = draw(st.none() | st.lists(MODELS, min_size=1, unique=True))
    made: dict[str, Any] = {} if allowed is None else {"allowed": allowed}
    if draw(st.booleans()):
        made["default"] = draw(st.sampled_from(allowed) if allowed else MODELS)
    return made


@st.composite
def _ai(draw: st.DrawFn) -> dict[str, Any]:
    made: dict[str, Any] = draw(
        _some(
            models=_models(),
            temperature=st.floats(0, 2),
            maxTokensPerRequest=st.integers(1, 5000),
            systemPrompt=st.fixed_dictionaries({"template": TEXT.filter(bool)}),
            customInstructions=TEXT,
            retrieval=_some(topK=st.integers(1, 50), minScore=st.floats(-1, 1)),
            cache=_some(
                mode=st.sampled_from(["All", "Deterministic", "Off"]),
                scope=st.sampled_from(["Tenant", "User"]),
                ttl=st.sampled_from(["1s", "1h30m", "720h"]),
            ),
            leakGuard=_some(
                foreignTenant=st.sampled_from(["Block", "Redact", "Warn"]),
                secrets=st.sampled_from(["Block", "Redact", "Warn"]),
                identifiers=st.lists(
                    st.from_regex(r"[A-Za-z0-9_-]{3,63}[0-9]", fullmatch=True), max_size=3, unique=True
                ),
            ),
            limits=LIMITS,
            budget=st.fixed_dictionaries(
                {"monthly": DECIMALS},
                optional={
                    "timeZone": ZONES,
                    "onExceeded": st.sampled_from(["Block", "AlertOnly"]),
                    "alertAt": st.lists(st.integers(1, 1000), max_size=10, unique=True),
                },
            ),
        )
    )
    return made


@st.composite
def tenant_manifests(draw: st.DrawFn) -> dict[str, Any]:
    """Tenants that the API server takes; not every one of them resolves."""
    spec: dict[str, Any] = draw(
        _some(
            owners=st.lists(OWNERS, max_size=4),
            suspended=st.booleans(),
            namespaces=st.lists(
                st.fixed_dictionaries({"suffix": labels(14)}, optional={"weight": st.integers(1, 100)}),
                max_size=5,
                unique_by=lambda n: n["suffix"],
            ),
            quota=QUOTA,
            database=_some(isolation=st.sampled_from(["Schema", "Database"])),
            vectors=_some(
                isolation=st.sampled_from(["Partition", "Collection", "Database"]),
                metric=st.sampled_from(["COSINE", "IP", "L2"]),
                dimension=st.integers(2, 32768),
            ),
            ai=_ai(),
            compliance=_some(
                dataResidency=st.sampled_from(["US", "EU", "APAC"]),
                certifications=st.lists(st.sampled_from(["GDPR", "SOC2", "PCI-DSS"]), unique=True),
            ),
            runtime=_some(
                replicas=st.fixed_dictionaries({"min": st.integers(1, 50)}),
                resources=_some(cpuRequest=QUANTITIES, memoryLimit=QUANTITIES),
            ),
            deletion=_some(policy=st.sampled_from(["Retain", "Delete"])),
            deletionProtection=st.booleans(),
        )
    )
    spec["displayName"] = draw(TEXT.filter(bool))
    tier = draw(st.sampled_from(["free", "pro", "enterprise"]))
    return samples.manifest(draw(labels(40)), **{"tier": tier, **spec})


def tenants() -> st.SearchStrategy[Tenant]:
    """Tenants as the operator reads them."""

    def parsed(manifest: dict[str, Any]) -> Tenant:
        name = manifest["metadata"]["name"]
        meta = {"uid": samples.uid(f"tenant/{name}"), "generation": 1, "creationTimestamp": "2026-11-01T08:00:00Z"}
        return Tenant.model_validate({**manifest, "metadata": {**manifest["metadata"], **meta}})

    return tenant_manifests().map(parsed)


ANYTHING: st.SearchStrategy[Json] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORD, inner, max_size=3),
    max_leaves=4,
)
"""Any JSON."""
INSTANTS = st.datetimes(datetime(1900, 1, 1), datetime(9998, 1, 1))


@st.composite
def junk(draw: st.DrawFn, schema: dict[str, Any], wrong: int = 40) -> Json:
    """A value for a structural schema: one place in `wrong` holds anything, numbers are often at an edge."""
    if draw(st.integers(1, wrong)) == 1:
        return draw(ANYTHING)
    if "enum" in schema:
        return draw(st.sampled_from(schema["enum"]))
    kind = schema["type"]
    if kind == "object":
        return _object(draw, schema, wrong)
    if kind == "array":
        most = schema["maxItems"]
        size = draw(st.sampled_from([0, 1, 2, min(3, most), most + 1 if most < 20 else 1]))
        return [draw(junk(schema["items"], wrong)) for _ in range(max(size, schema.get("minItems", 0)))]
    if kind == "boolean":
        return draw(st.booleans())
    if kind in ("integer", "number"):
        least, most = int(schema.get("minimum", 0)), int(schema.get("maximum", 2**31))
        near = st.sampled_from([least, least, least + 1, most, most, most + 1, least - 1])
        return draw(st.integers(least, most) | near)
    return _string(draw, schema)


@st.composite
def spoiled(draw: st.DrawFn, good: dict[str, Any], schema: dict[str, Any]) -> Json:
    """The good object with junk in one or two of its fields."""
    spoil = draw(st.lists(st.sampled_from(sorted(schema["properties"])), min_size=1, max_size=2, unique=True))
    return {**good, **{name: draw(junk(schema["properties"][name])) for name in spoil}}


def _object(draw: st.DrawFn, schema: dict[str, Any], wrong: int) -> Json:
    if "additionalProperties" in schema:
        return draw(st.dictionaries(WORD, junk(schema["additionalProperties"], wrong), max_size=3))
    made = {}
    for name, value in schema.get("properties", {}).items():
        needed = name in schema.get("required", ())
        if draw(st.integers(1, 60)) > 1 if needed else draw(st.integers(1, 4)) == 1:
            made[name] = draw(junk(value, wrong))
    if draw(st.integers(1, 40)) == 1:
        made[draw(WORD)] = draw(ANYTHING)
    return made


def _string(draw: st.DrawFn, schema: dict[str, Any]) -> str:
    if "format" in schema:
        moment = draw(INSTANTS).replace(tzinfo=UTC)
        return moment.date().isoformat() if schema["format"] == "date" else moment.isoformat()
    said = str(schema.get("x-kubernetes-validations", ""))
    if "quantity" in said:
        return draw(QUANTITIES)
    if "decimal" in said:
        return draw(DECIMALS)
    longest: int = schema["maxLength"]
    edge = st.sampled_from(["x" * min(longest, 300), "y" * (longest + 1 if longest < 300 else 1)])
    return draw(st.one_of(WORD, WORD, TEXT, edge))
