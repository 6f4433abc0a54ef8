import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = """
import pytest

def test_runs():
    pass

@pytest.mark.skip(reason="no browser")
def test_marked():
    pass

def test_skips_itself():
    pytest.skip("no browser")

@pytest.mark.xfail(reason="known")
def test_known_failure():
    assert False
"""
SKIPPED_MODULE = 'import pytest\npytest.importorskip("no_such_module")'


@pytest.mark.parametrize(
    ("in_ci", "returncode", "closing"),
    [
        ("", 0, "1 passed, 3 skipped, 1 xfailed"),
        ("1", 1, "1 failed, 1 passed, 1 xfailed, 2 errors"),
    ],
)
def test_a_skip_fails_in_ci_alone(tmp_path, in_ci, returncode, closing):
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_suite.py").write_text(SUITE)
    (tmp_path / "test_skipped_module.py").write_text(SKIPPED_MODULE)
    command = [sys.executable, "-m", "pytest", "-q", "--rootdir=.", "--continue-on-collection-errors"]
    environment = {**os.environ, "ACCUM_MAGIC_CI": in_ci}
    run = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)
    assert run.returncode == returncode
    assert closing in run.stdout
    assert ("must not skip under ACCUM_MAGIC_CI: " in run.stdout) == bool(in_ci)
