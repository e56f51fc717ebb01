"""Property tests give the same cases in every run, and no clock fails them; in CI no test is skipped."""

from hypothesis import HealthCheck, settings

from tests.noskips import pytest_make_collect_report, pytest_runtest_makereport

__all__ = ["pytest_make_collect_report", "pytest_runtest_makereport"]

settings.register_profile(
    "tenantry",
    deadline=None,
    derandomize=True,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
settings.load_profile("tenantry")
