"""Where the development cluster keeps what: beneath `.dev/`, but for sockets and what a boot ends.

A Unix socket's path may have 107 characters at most, so sockets lie in RUN, not in the checkout.
"""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEV = ROOT / ".dev"
BIN = DEV / "bin"
CACHE = DEV / "cache"
SECRETS = DEV / "secrets"
STATE = DEV / "state"
LOGS = STATE / "logs"
KUBECONFIG = DEV / "kubeconfig"
INFO = DEV / "cluster.json"
RUN = Path("/run/tenantry-dev") if os.geteuid() == 0 else Path(f"/tmp/tenantry-dev-{os.geteuid()}")
OWNER = RUN / "owner.json"
VAR = Path("/var/lib/tenantry-dev")  # kubelet's own folder, with sockets in it
