"""A configuration for tests; every test changes only what it is about."""

from typing import Any

from tenantry_runtime.config import Cache, Configuration, Documents, Embedding, ModelPrice, Prompt
from tenantry_runtime.prompt import DEFAULT_TEMPLATE


def configuration(**changes: Any) -> Configuration:
    values: dict[str, Any] = {
        "tenant": "acme",
        "tenant_uid": "3f0c1f0e-9d5a-4c57-8a86-0c3f5a1f4f01",
        "display_name": "Acme Corp",
        "tier": "pro",
        "region": "local",
        "default_model": "gpt-4o-mini",
        "allowed_models": ("gpt-4o-mini",),
        "prices": {
            "gpt-4o-mini": ModelPrice(input_nano=150, output_nano=600),
            "gpt-4o": ModelPrice(input_nano=2500, output_nano=10000),
            "wordllama-256": ModelPrice(input_nano=20, output_nano=0),
        },
        "prices_version": "2026-01-01",
        "prompt": Prompt(template=DEFAULT_TEMPLATE),
        "documents": Documents(max_files=10, max_file_bytes=1_000_000),
        "cache": Cache(mode="Off"),  # so that each call of a test asks the provider
        "embedding": Embedding(model="wordllama-256", dimension=256),
    }
    return Configuration(**(values | changes))
