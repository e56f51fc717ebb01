"""A real browser: Debian's Chromium, driven by Playwright, which here downloads nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

PROGRAMS = ("/usr/bin/chromium-headless-shell", "/usr/bin/chromium")


@contextmanager
def chromium() -> Iterator[Browser]:
    """Skips, with words, where there is none: `make cluster-up` installs it on Debian."""
    program = next((name for name in PROGRAMS if Path(name).exists()), None)
    if program is None:
        pytest.skip("there is no Chromium here: install chromium-headless-shell, as `make cluster-up` does on Debian")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program,
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],  # as root, and in small containers
        )
        try:
            yield browser
        finally:
            browser.close()
