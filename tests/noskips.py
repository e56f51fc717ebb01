"""A test that could not run has shown nothing: with CI set, a skip is a failure.

On somebody's own machine a test may do without what is not there, and says so.  Continuous integration runs where
everything can be had, so there each skip names something that was forgotten.
"""

import os
from collections.abc import Generator

import pytest

CI = os.environ.get("CI", "").lower() not in ("", "0", "false")


def failed(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Make a skip a failure whose text is the skip's reason."""
    if not CI or report.outcome != "skipped" or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    report.outcome = "failed"
    report.longrepr = f"In continuous integration no test is skipped: install what it needs. {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    failed(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    failed(report)
    return report
