"""``python -m tenantry_runtime``: serve one tenant, as the file that TENANTRY_CREDENTIALS names says."""

import sys

from tenantry_runtime.server import main

sys.exit(main())
