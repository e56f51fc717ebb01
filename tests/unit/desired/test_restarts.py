"""What restarts a runtime: its own template, image and credentials, and nothing of the operator's.

`restarts.json` holds what the Deployments of some fixed tenants were when it was last written.  A difference means
that the upgrade to this version of the operator restarts every runtime of an installation (one after the other and
without a failed request, but all of them).  Where that is meant, `python -m tests.unit.desired.test_restarts` writes
the file anew, and the upgrade notes say so; where it is not, the change of the code is wrong.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tenantry.desired import configuration, secrets, workload
from tenantry.desired.options import Options
from tenantry.desired.vectors import Place
from tests import samples

FILE = Path(__file__).with_name("restarts.json")
OPTIONS = Options("example/runtime:1")
PLACES = {
    "Partition": Place("default", "shared_x_1536_cosine_1", "t_1", "tag1"),
    "Collection": Place("default", "t_1", None, "tag1"),
}


def tenants():
    """By a short name: one of each kind of template."""
    return {
        "free": samples.resolved("acme", "free"),
        "pro": samples.resolved("globex", "pro", namespaces=[{"suffix": "dev"}]),
        "enterprise": samples.resolved("initech", "enterprise"),
        "own": samples.resolved(
            "umbrella",
            "pro",
            in_region=samples.region(nodeSelector={"zone": "b", "disk": "fast"}),
            database={"isolation": "Database"},
            runtime={"replicas": {"min": 3}, "resources": {"cpuLimit": "2", "memoryLimit": "1Gi"}},
        ),
    }


def deployment(resolved, options=OPTIONS):
    place = PLACES[resolved.vectors.isolation]
    held = configuration.credentials(resolved, samples.credentials(), place, ("t_user", "t_password"), "sk-provider")
    return workload.deployment(resolved, options, secrets.digest(secrets.runtime(resolved, held)))


def templates(options=OPTIONS):
    return {name: deployment(resolved, options)["spec"]["template"] for name, resolved in tenants().items()}


def made():
    """What the file holds: one template to read, and the digests of all."""
    found = templates()
    return {
        "note": "A change of this file restarts every runtime of an installation: see test_restarts.py.",
        "digests": {
            name: hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()
            for name, template in found.items()
        },
        "free": found["free"],
    }


def test_this_version_restarts_no_runtime():
    stored, now = json.loads(FILE.read_text()), made()
    assert now == stored, (
        "The runtimes' Pod template or credentials Secret differs: an upgrade would restart every runtime. If that is "
        "meant, write the file anew (python -m tests.unit.desired.test_restarts) and say so in the change's message."
    )


def test_nothing_of_the_process_is_in_a_template():
    """Another process, with other hashes and so other orders of sets, makes the same."""
    for seed in ("1", "2"):
        other = subprocess.run(
            [sys.executable, "-c", "import json; from tests.unit.desired import test_restarts as t; "
             "print(json.dumps(t.made()))"],
            env={**os.environ, "PYTHONHASHSEED": seed, "TZ": "Asia/Tokyo", "TENANTRY_POD": f"tenantry-{seed}"},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=120,
        )  # fmt: skip
        assert json.loads(other.stdout) == made()


@pytest.mark.parametrize(
    "option",
    [
        {"operator_namespace": "elsewhere"},
        {"operator_service_account": "other"},
        {"prometheus_namespace": "other"},
        {"prometheus_cidrs": ("10.1.0.0/16",)},
        {"monitor": "PodMonitor"},
    ],
)
def test_options_of_the_operator_are_in_no_template(option):
    assert templates(Options("example/runtime:1", **option)) == templates()


def test_the_runtimes_image_is():
    before, after = templates(), templates(Options("example/runtime:2"))
    assert all(before[name] != after[name] for name in before)


def test_the_order_of_a_manifest_is_not():
    one, two = (
        samples.resolved("acme", in_region=samples.region(nodeSelector=selector))
        for selector in ({"a": "1", "b": "2"}, {"b": "2", "a": "1"})
    )
    assert json.dumps(deployment(one)) == json.dumps(deployment(two))


if __name__ == "__main__":
    FILE.write_text(json.dumps(made(), indent=1) + "\n")
