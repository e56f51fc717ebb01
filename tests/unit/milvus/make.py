"""Resolved tenants for tests of vectors: only what matters there varies."""

from __future__ import annotations

import uuid
from typing import Any

from tenantry.api.region import DataRegionSpec
from tenantry.api.tenant import Cache, Compliance, Conversations, LeakGuard, Retrieval
from tenantry.api.tier import Documents, Features, Limits, Quota, ResourceAmounts, VectorIsolation
from tenantry.credentials import Credentials
from tenantry.resolve import Resolved, VectorChoice, Workload

MASTER = Credentials(b"m" * 32)
REGION_UID = "0d6e5f0a-5a4e-4a35-9a1c-1f2f3f4f5f6f"
DIMENSION = 4


def region(uri: str = "http://127.0.0.1:19530", secret: bool = True, unauthenticated: bool = False) -> DataRegionSpec:
    milvus: dict[str, Any] = {"uri": uri, "allowUnauthenticated": unauthenticated}
    if secret:
        milvus["credentialsSecret"] = {"name": "milvus"}
    return DataRegionSpec.model_validate(
        {
            "jurisdiction": "US",
            "postgres": {"host": "postgres", "credentialsSecret": {"name": "postgres"}},
            "milvus": milvus,
            "provider": {
                "baseUrl": "http://provider/v1",
                "credentialsSecret": {"name": "provider"},
                "models": [{"name": "embed", "inputPerMillion": "0.02"}],
                "pricesFrom": "2026-01-01",
            },
            "embedding": {"model": "embed", "dimension": DIMENSION},
        }
    )


def tenant(
    isolation: VectorIsolation,
    *,
    uid: str = "",
    collection: str = "",
    model: str = "embed",
    dimension: int = DIMENSION,
    spec: DataRegionSpec | None = None,
) -> Resolved:
    uid = uid or str(uuid.uuid4())
    return Resolved(
        name="acme",
        uid=uid,
        display_name="Acme",
        tier="pro",
        region="us",
        region_spec=spec or region(),
        owners=(),
        suspended=False,
        workloads=(Workload("tenant-acme", 1),),
        quota=Quota(cpu="1", memory="2Gi", pods=10, storage="5Gi"),
        features=Features(),
        database_isolation="Schema",
        vectors=VectorChoice(isolation, model, dimension, "COSINE"),
        collection=collection,
        allowed_models=("gpt",),
        default_model="gpt",
        temperature=0.7,
        max_tokens_per_request=500,
        template="x",
        custom_instructions="",
        retrieval=Retrieval(),
        cache=Cache(),
        conversations=Conversations(),
        leak_guard=LeakGuard(),
        limits=Limits(),
        budget=None,
        documents=Documents(files=1, max_size="1M"),
        compliance=Compliance(),
        replicas=1,
        resources=ResourceAmounts(),
    )
