"""Starting processes that measure themselves."""

import json
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent.parent


def in_fresh_process(*arguments):
    """A figure of `in_fresh_process.py`."""
    command = [sys.executable, "-m", "benchmarks.in_fresh_process", *map(str, arguments)]
    done = subprocess.run(command, cwd=TESTS, check=True, capture_output=True, text=True, timeout=120)
    return json.loads(done.stdout.splitlines()[-1])
