"""Real shells: a kernel in a process of its own, IPython in a terminal, IPython at the end of a pipe."""

import os
import subprocess
import sys
from contextlib import contextmanager

import pytest
from environments import STACKS
from environments import environment as stack
from jupyter_client import KernelManager
from jupyter_client.kernelspec import KernelSpecManager
from shell.shell_tools import REPLY_S, SETUP, TRAIN, Kernel


def shell_environment(folder):
    """Environment of a shell that knows nothing of the developer's own profile."""
    quiet = {"OMP_NUM_THREADS": "1", "IPYTHONDIR": str(folder), "PYTHONWARNINGS": "default", "NO_COLOR": "1"}
    return {**os.environ, **quiet, "PYDEVD_DISABLE_FILE_VALIDATION": "1"}


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    return shell_environment(tmp_path_factory.mktemp("ipython"))


@contextmanager
def started(manager, variables, folder):
    """A kernel with the extension loaded; each test starts from `fresh()` weights."""
    manager.start_kernel(env=variables, cwd=str(folder))
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


@pytest.fixture(scope="module")
def kernel(environment, tmp_path_factory):
    """One kernel per module."""
    with started(KernelManager(kernel_name="python3"), environment, tmp_path_factory.mktemp("notebook")) as made:
        yield made


@pytest.fixture(scope="module", params=STACKS)
def kernel_of_each_stack(request, tmp_path_factory):
    """One kernel per module for each Jupyter stack, from Colab's old one to the newest."""
    folder = tmp_path_factory.mktemp("stack")
    name = stack(request.param).write_kernelspec(folder)
    manager = KernelManager(
        kernel_name=name, kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(folder / "kernels")])
    )
    # a profile of its own: old and new IPython would share one history file
    with started(manager, shell_environment(folder / "ipython"), folder) as made:
        made.stack = name
        yield made


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
