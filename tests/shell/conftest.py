"""Real shells: a kernel in a process of its own, IPython in a terminal, IPython at the end of a pipe."""

import os
import subprocess
import sys

import pytest
from jupyter_client import KernelManager
from shell.shell_tools import REPLY_S, SETUP, TRAIN, Kernel


def shell_environment(folder):
    """Environment of a shell that knows nothing of the developer's own profile."""
    quiet = {"OMP_NUM_THREADS": "1", "IPYTHONDIR": str(folder), "PYTHONWARNINGS": "default", "NO_COLOR": "1"}
    return {**os.environ, **quiet, "PYDEVD_DISABLE_FILE_VALIDATION": "1"}


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    return shell_environment(tmp_path_factory.mktemp("ipython"))


@pytest.fixture(scope="module")
def kernel(environment, tmp_path_factory):
    """One kernel per module, with the extension loaded; each test starts from `fresh()` weights."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(env=environment, cwd=str(tmp_path_factory.mktemp("notebook")))
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=REPLY_S)
        made = Kernel(manager, client)
        made.run(SETUP).ok()
        made.run("%load_ext accum_magic").ok()
        yield made
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.fixture
def trained(kernel):
    """Fresh weights in the kernel, and in `expected` those that the plain cell leaves."""
    kernel.run(f"fresh()\n{TRAIN}expected, expected_loss = parameters(), loss.item()\nfresh()").ok()
    return kernel


@pytest.fixture(scope="session")
def ipython(environment):
    """Run a notebook in terminal IPython at the end of a pipe; returns the finished process."""

    def run(notebook, *options, cwd=None, **streams):
        command = [sys.executable, "-m", "IPython", "--no-banner", "--colors=nocolor", *options, str(notebook)]
        given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
        return subprocess.run(command, check=False, text=True, env=environment, cwd=cwd, timeout=REPLY_S, **given)

    return run
