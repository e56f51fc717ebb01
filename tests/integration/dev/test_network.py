"""The cluster's network is made and taken away whole, tried in a network namespace of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dev.cluster.settings import PODS

ROOT = Path(__file__).parents[3]
CODE = """
import subprocess, sys
from pathlib import Path
from dev.cluster import network, paths, record
paths.RUN, paths.OWNER = Path(sys.argv[1]), Path(sys.argv[1]) / "owner.json"
shown = lambda *words: subprocess.run(words, check=True, capture_output=True, text=True).stdout
Path("/proc/sys/net/ipv4/ip_forward").write_text("0")
drops = sys.argv[2] == "drops"
if drops:
    for chain in ("INPUT", "FORWARD"):
        shown("iptables", "-P", chain, "DROP")
before = shown("iptables", "-S")
made = record.Record("here")
for _ in range(2):  # the second changes nothing
    network.start(made)
assert "10.244.0.1/24" in shown("ip", "addr", "show", "tenantry0")
assert len(network.leftover_rules()) == (3 if drops else 0), network.leftover_rules()
assert network.leftover_tables() == [("inet", "tenantry_dev")]
assert "dport 19530 drop" in shown("nft", "list", "table", "inet", "tenantry_dev")
shown("ip", "link", "add", "pod-end", "type", "veth", "peer", "name", "pod-start")
shown("ip", "link", "set", "pod-end", "master", "tenantry0")
assert network.leftover_links() == ["pod-end", "tenantry0"]
assert made.sysctls.get("/proc/sys/net/ipv4/ip_forward") == "0"
network.stop()
assert (network.leftover_links(), network.leftover_rules(), network.leftover_tables()) == ([], [], [])
assert shown("iptables", "-S") == before
network.stop()
"""


@pytest.mark.skipif(not PODS, reason="needs Linux and root")
@pytest.mark.parametrize("firewall", ["drops", "accepts"])
def test_made_and_taken_away(firewall: str, tmp_path: Path) -> None:
    for program in ("ip", "nft", "iptables", "unshare"):
        if not shutil.which(program):
            pytest.skip(f"{program} is missing: make cluster-up installs it.")
    ended = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", CODE, str(tmp_path), firewall],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
