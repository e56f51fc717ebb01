"""``python -m tenantry_runtime``: serve one tenant, as the file that TENANTRY_CREDENTIALS names says."""

import gc
import signal
import sys

# A container's first process ignores SIGTERM until it asks for it: its end would wait for the whole grace period.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

# What is imported stays: looking for garbage among it takes a tenth of the start, and later milliseconds of a request.
gc.disable()
from tenantry_runtime.server import main  # noqa: E402 - takes a moment

gc.freeze()
# A call makes some hundred objects and leaves nothing for the collector: looked for less often, it costs less of each.
gc.set_threshold(10_000, 10, 10)
gc.enable()

sys.exit(main())
