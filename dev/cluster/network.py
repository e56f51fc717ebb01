"""The bridge that Pods hang on, the way out for them, and the closing of ports that others shall not reach."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import socket
from pathlib import Path

from dev.cluster.progress import ClusterError, run
from dev.cluster.record import Record
from dev.cluster.settings import BRIDGE, BRIDGE_ADDRESS, MILVUS_PORT, NFT_TABLE, POD_CIDR

_WAYS = {"INPUT": ("-i",), "FORWARD": ("-i", "-o")}
_BRIDGE_FILTER = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")


def start(record: Record) -> None:
    """Make the bridge and our nftables table; forward between Pods and the world."""
    if not _exists(BRIDGE):
        run(["ip", "link", "add", BRIDGE, "type", "bridge"], timeout=10)
    run(["ip", "addr", "replace", f"{BRIDGE_ADDRESS}/{POD_CIDR.partition('/')[2]}", "dev", BRIDGE], timeout=10)
    run(["ip", "link", "set", BRIDGE, "up"], timeout=10)
    record.change(Path("/proc/sys/net/ipv4/ip_forward"), "1")
    if not _BRIDGE_FILTER.exists() and shutil.which("modprobe"):
        with contextlib.suppress(ClusterError):  # `bridge_is_filtered` tells what to do without
            run(["modprobe", "br_netfilter"], timeout=30)
    record.change(_BRIDGE_FILTER, "1")
    run(["nft", "-f", "-"], timeout=10, text=_rules())
    for chain in filter(_drops, _WAYS):  # as Docker's or ufw's do: an accept in a table of ours is not enough
        for way in _WAYS[chain]:
            if not any(rule.startswith(f"-A {chain} {way} {BRIDGE} ") for rule in leftover_rules()):
                rule = [chain, way, BRIDGE, "-m", "comment", "--comment", NFT_TABLE, "-j", "ACCEPT"]
                run(["iptables", "-w", "10", "-I", *rule], timeout=20)


def bridge_is_filtered() -> bool:
    """Whether packets between two Pods pass the address translation; else kube-proxy must hide their sender."""
    try:
        return _BRIDGE_FILTER.read_text().strip() == "1"
    except OSError:
        return False


def stop() -> None:
    """Remove the bridge, what hangs on it, and every nftables table that this cluster made."""
    if not shutil.which("ip"):
        return
    for link in leftover_links():
        try:
            run(["ip", "link", "del", link], timeout=10)
        except ClusterError:
            if _exists(link):  # a Pod's end goes by itself a moment after the Pod
                raise
    for rule in leftover_rules():
        run(["iptables", "-w", "10", "-D", *shlex.split(rule)[1:]], timeout=20)
    for family, table in leftover_tables():
        run(["nft", "delete", "table", family, table], timeout=10)


def leftover_links() -> list[str]:
    """The bridge and the Pods' ends on it."""
    if not shutil.which("ip") or not _exists(BRIDGE):
        return []
    found = json.loads(run(["ip", "-json", "link", "show", "master", BRIDGE], timeout=10) or "[]")
    return [*(link["ifname"] for link in found if link), BRIDGE]


def leftover_tables() -> list[tuple[str, str]]:
    """Our nftables tables, kube-proxy's among them: family and name."""
    if not shutil.which("nft"):
        return []
    listed = [line.split() for line in run(["nft", "list", "tables"], timeout=10).splitlines()]
    return [
        (words[1], words[2])
        for words in listed
        if len(words) == 3 and (words[2] == "kube-proxy" or words[2].startswith("tenantry"))
    ]


def leftover_rules() -> list[str]:
    """Our rules in other programs' iptables chains, as `iptables -S` prints them."""
    return [
        line
        for chain in _WAYS
        for line in _iptables(chain)
        if line.startswith("-A") and f"--comment {NFT_TABLE}" in line
    ]


def _drops(chain: str) -> bool:
    return f"-P {chain} DROP" in _iptables(chain)


def _iptables(chain: str) -> list[str]:
    if not shutil.which("iptables"):
        return []
    try:
        return run(["iptables", "-w", "10", "-S", chain], timeout=20).splitlines()
    except ClusterError:  # a kernel without iptables has no such rules
        return []


def _exists(link: str) -> bool:
    return link in (name for _, name in socket.if_nameindex())


def _rules() -> str:
    """Pods reach the world by this machine's address; Milvus, which listens everywhere, only from here."""
    return f"""
add table inet {NFT_TABLE}
delete table inet {NFT_TABLE}
table inet {NFT_TABLE} {{
  chain leaving {{
    type nat hook postrouting priority srcnat + 10; policy accept;
    ip saddr {POD_CIDR} ip daddr != {POD_CIDR} oifname != "{BRIDGE}" masquerade
  }}
  chain arriving {{
    type filter hook input priority filter; policy accept;
    iifname != {{ "lo", "{BRIDGE}" }} tcp dport {MILVUS_PORT} drop
  }}
}}
"""
