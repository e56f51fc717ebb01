"""With CI set a skipped test fails, wherever the skip is said; without, it is skipped."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = {
    "test_marked.py": "import pytest\n@pytest.mark.skipif(True, reason='no wheel')\ndef test_it(): pass\n",
    "test_inside.py": "import pytest\ndef test_it(): pytest.skip('no browser')\n",
    "test_fixture.py": (
        "import pytest\n@pytest.fixture\ndef server(): pytest.skip('no server')\ndef test_it(server): pass\n"
    ),
    "test_module.py": "import pytest\npytest.importorskip('no_such_module')\ndef test_it(): pass\n",
    "test_expected.py": "import pytest\n@pytest.mark.xfail\ndef test_it(): assert False\n",
    "test_good.py": "def test_it(): pass\n",
}


@pytest.mark.parametrize(
    ("ci", "told"),
    [("true", "1 failed, 1 passed, 1 xfailed, 3 errors"), ("", "1 passed, 4 skipped, 1 xfailed")],
)
def test_a_skip_is_a_failure_in_ci(tmp_path: Path, ci: str, told: str) -> None:
    for name, text in TESTS.items():
        (tmp_path / name).write_text(text)
    options = ("-q", "-p", "tests.noskips", "--rootdir", str(tmp_path), "--continue-on-collection-errors")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)],
        env={**os.environ, "CI": ci, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""},
        cwd=Path(__file__).parents[3],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert told in done.stdout, done.stdout + done.stderr
    if ci:
        assert done.returncode == 1
        for missing in ("no wheel", "no browser", "no server", "could not import 'no_such_module'"):
            assert f"install what it needs. Skipped: {missing}" in done.stdout
