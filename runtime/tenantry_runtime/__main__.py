"""``python -m tenantry_runtime``: serve one tenant, as the file that TENANTRY_CREDENTIALS names says."""

import signal
import sys

# A container's first process ignores SIGTERM until it asks for it: its end would wait for the whole grace period.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

from tenantry_runtime.server import main  # noqa: E402 - takes a moment

sys.exit(main())
