"""Starting processes that measure themselves."""

import json
import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent.parent


def in_fresh_process(*arguments, environment=None, module="in_fresh_process"):
    """A figure of `in_fresh_process.py`, or of another module that prints one."""
    # every process but the first after an installation finds compiled modules
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    given = inherited | (environment or {})
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    done = subprocess.run(command, cwd=TESTS, env=given, check=True, stdout=subprocess.PIPE, text=True, timeout=120)
    return json.loads(done.stdout.splitlines()[-1])
