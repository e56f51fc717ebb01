"""The operator as in a Pod: `python -m bench.in_cluster` logs in by a ServiceAccount, not by a kubeconfig.

A kubeconfig would bring the official library with it, which takes 10 MB; so nothing else is imported here either.
"""

import os
import sys
from pathlib import Path

from tenantry import run
from tenantry.backends import access

FOLDER = "BENCH_SERVICE_ACCOUNT"

if __name__ == "__main__":
    access.SERVICE_ACCOUNT = Path(os.environ[FOLDER])
    sys.exit(run.main())
