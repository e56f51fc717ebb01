"""Documents in and questions out, through the official openai client."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from dev.demo.kube import Json, Kube, wait
from dev.demo.story import Actor
from tenantry import names
from tenantry.backends import kinds

if TYPE_CHECKING:
    from openai import OpenAI

STORE = "demo"
MILLION = 1_000_000


@dataclass(frozen=True)
class Answered:
    """One question's answer, and what it took.  `cost` in dollars, at the region's prices."""

    text: str
    model: str
    provider: str
    input_tokens: int
    output_tokens: int
    cost: Decimal


def client(base_url: str, api_key: str) -> OpenAI:
    """The official client, unchanged.  It waits and tries again where a limit says so, as it does everywhere."""
    from openai import OpenAI

    return OpenAI(base_url=base_url, api_key=api_key, max_retries=8, timeout=60)


def upload(ai: OpenAI, actor: Actor) -> bool:
    """Put the actor's document where retrieval finds it; False where an earlier run has done that."""
    for store in ai.vector_stores.list():
        if store.name == STORE:
            for there in ai.vector_stores.files.list(store.id):
                if there.status == "completed" and ai.files.retrieve(there.id).filename == actor.filename:
                    return False
    made = ai.vector_stores.create(name=STORE)
    file = ai.files.create(file=(actor.filename, actor.document.encode()), purpose="assistants")
    ai.vector_stores.files.create(made.id, file_id=file.id)

    def done() -> bool:
        seen = ai.vector_stores.files.retrieve(file.id, vector_store_id=made.id)
        if seen.status == "failed":
            raise RuntimeError(f"{actor.filename} was not taken in: {seen.last_error and seen.last_error.message}")
        return seen.status == "completed"

    wait(done, f"{actor.filename} of {actor.name} is searchable", 90)
    return True


def ask(ai: OpenAI, question: str, model: str, prices: dict[str, tuple[Decimal, Decimal]]) -> Answered:
    """One chat completion, with retrieval from the tenant's documents."""
    answer = ai.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        max_tokens=200,
        extra_body={"tenantry": {"retrieval": {"topK": 3}, "cache": False}},  # what is shown is what a call costs
    )
    assert answer.usage is not None
    into, out = prices.get(answer.model, (Decimal(0), Decimal(0)))
    used = answer.usage
    return Answered(
        text=(answer.choices[0].message.content or "").strip(),
        model=answer.model,
        provider=answer.system_fingerprint or "",
        input_tokens=used.prompt_tokens,
        output_tokens=used.completion_tokens,
        cost=(used.prompt_tokens * into + used.completion_tokens * out) / MILLION,
    )


def region_of(kube: Kube, tenant: str) -> Json:
    """The DataRegion that serves a tenant."""
    seen = kube.get(kinds.TENANT, tenant)
    if seen is None:
        raise RuntimeError(f"Tenant {tenant} is gone.")
    region = kube.get(kinds.REGION, seen["status"]["region"])
    if region is None:
        raise RuntimeError(f"DataRegion {seen['status']['region']} is gone.")
    return region


def prices(region: Json) -> dict[str, tuple[Decimal, Decimal]]:
    """Dollars per million tokens, in and out, by model."""
    return {
        offer["name"]: (Decimal(offer["inputPerMillion"]), Decimal(offer.get("outputPerMillion", "0")))
        for offer in region["spec"]["provider"]["models"]
    }


def api_key(kube: Kube, tenant: str, key: str = "default") -> str:
    """From the Secret that the operator wrote for the tenant's developers."""
    found = kube.secret(names.workload_namespace(tenant), f"accesskey-{key}")
    if found is None:
        raise RuntimeError(f"Secret accesskey-{key} of tenant {tenant} is not there.")
    return found["api-key"]
