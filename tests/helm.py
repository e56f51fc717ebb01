"""What Helm makes of a chart, and what the models say of a manifest."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tenantry.api import AccessKey, DataRegion, Resource, Tenant, TenantTier
from tests import samples

CHARTS = samples.ROOT / "charts"
HELM = samples.ROOT / ".dev" / "bin" / "helm"
TIERS = ("free", "pro", "enterprise")
REGION = {
    "postgres": {"host": "10.0.0.1"},
    "milvus": {"uri": "http://milvus.data.svc:19530"},
    "provider": {"baseUrl": "https://api.openai.com/v1"},
}
MODELS: dict[str, type[Resource]] = {m.kind_name: m for m in (Tenant, TenantTier, DataRegion, AccessKey)}

helm_needed = pytest.mark.skipif(not HELM.exists(), reason="Helm comes with `make cluster-up`")


def helm(chart: str, values: dict[str, Any], tmp_path: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """`helm template` with nothing of the machine's own Helm settings."""
    file = tmp_path / "values.yaml"
    file.write_text(json.dumps(values))
    home = {name: str(tmp_path / name) for name in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")}
    return subprocess.run(
        [str(HELM), "template", "tenantry", str(CHARTS / chart), "-n", "tenantry-system", "-f", str(file), *more],
        env={**os.environ, **home, "KUBECONFIG": os.devnull},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def render(chart: str, values: dict[str, Any], tmp_path: Path, *more: str) -> list[dict[str, Any]]:
    done = helm(chart, values, tmp_path, *more)
    assert done.returncode == 0, done.stderr
    return [o for o in yaml.safe_load_all(done.stdout) if o]


def one(objects, kind, name):
    (found,) = [o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name]
    return found


def unknown(given: Any, known: Any, path: str = "") -> list[str]:
    """Fields of `given` that the model dropped."""
    if isinstance(given, dict) and isinstance(known, dict):
        missing = [f"{path}.{key}" for key in given if key not in known]
        return missing + [u for k in given if k in known for u in unknown(given[k], known[k], f"{path}.{k}")]
    if isinstance(given, list) and isinstance(known, list):
        return [u for i, item in enumerate(given) for u in unknown(item, known[i], f"{path}[{i}]")]
    return []


def loaded(manifest: dict[str, Any]) -> Resource:
    """The manifest as its model reads it; fails for a field that the model does not know."""
    model = MODELS[manifest["kind"]]
    resource = model.model_validate(manifest)
    dumped = resource.model_dump(mode="json", by_alias=True)
    assert unknown(manifest["spec"], dumped["spec"]) == []
    return resource
