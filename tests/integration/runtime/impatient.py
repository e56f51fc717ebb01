"""The service with deadlines that a test can wait for: ``python -m tests.integration.runtime.impatient``."""

import runpy

from tenantry_runtime import connection, uploads

uploads.GRACE = 1.0
connection.UNREAD_SECONDS = 1.0

runpy.run_module("tenantry_runtime", run_name="__main__")
