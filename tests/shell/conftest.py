"""Real shells: a kernel in a process of its own, IPython in a terminal, IPython at the end of a pipe."""

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field

import pytest
from jupyter_client import KernelManager

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
REPLY_S = 120  # a busy machine imports torch slowly

# What every shell of these tests starts from: ten rows in two batches, fresh weights when asked for.
SETUP = """
import asyncio, io, os, sys, time
import torch
import torch.nn.functional as F
from torch import nn
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
X, Y = torch.randn(20, 4), torch.randint(0, 3, (20,))
loader = [(X[:10], Y[:10]), (X[10:], Y[10:])]
def fresh():
    global model, optimizer
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
def parameters():
    return [p.detach().clone() for p in model.parameters()]
def gradients():
    return [None if p.grad is None else p.grad.clone() for p in model.parameters()]
def same(a, b):
    return all((x is None and y is None) or torch.allclose(x, y, rtol=1e-9, atol=1e-12) for x, y in zip(a, b, strict=True))
fresh()
"""
TRAIN = """\
for x, y in loader:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
"""


def plain_text(text):
    """Text without colours."""
    return ANSI.sub("", text)


@dataclass
class Reply:
    """What a notebook shows below a cell."""

    outputs: list = field(default_factory=list)
    """(kind, text) in the order they stand in; an updated display holds its last text."""
    history: dict = field(default_factory=dict)
    """All texts that each updatable display has held."""
    count: int = 0
    ename: str = ""
    evalue: str = ""
    traceback: str = ""

    def texts(self, kind):
        return [text for name, text in self.outputs if name == kind]

    @property
    def stdout(self):
        return "".join(self.texts("stdout"))

    @property
    def stderr(self):
        return "".join(self.texts("stderr"))

    @property
    def out(self):
        """Text of `Out[n]`, None without one."""
        return next(iter(self.texts("execute_result")), None)

    @property
    def displays(self):
        return self.texts("display_data")

    def ok(self):
        """Return itself; a cell that failed fails the test with its traceback."""
        assert not self.ename, self.traceback
        return self


class Kernel:
    """A kernel as a notebook drives it."""

    def __init__(self, manager, client):
        self.manager, self.client = manager, client

    def start(self, code):
        """Send a cell; `finish` waits for its end."""
        return self.client.execute(code, allow_stdin=False)

    def run(self, code):
        return self.finish(self.start(code))

    def finish(self, sent, until=None):
        """Collect what a cell shows until it is idle, or until `until(reply)` holds."""
        reply, displays, deadline = Reply(), {}, time.monotonic() + REPLY_S
        while True:
            message = self.client.get_iopub_msg(timeout=max(0.1, deadline - time.monotonic()))
            if message["parent_header"].get("msg_id") != sent:
                continue
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                break
            self._take(reply, displays, message)
            if until is not None and until(reply):
                return reply
        shell = self._shell_reply(sent, deadline)
        reply.count = shell["execution_count"]
        return reply

    def _shell_reply(self, sent, deadline):
        while True:
            message = self.client.get_shell_msg(timeout=max(0.1, deadline - time.monotonic()))
            if message["parent_header"].get("msg_id") == sent:
                return message["content"]

    def _take(self, reply, displays, message):
        kind, content = message["msg_type"], message["content"]
        if kind == "stream":
            if reply.outputs and reply.outputs[-1][0] == content["name"]:
                content = {"name": content["name"], "text": reply.outputs.pop()[1] + content["text"]}
            reply.outputs.append((content["name"], content["text"]))
        elif kind in {"display_data", "execute_result"}:
            text = content["data"].get("text/plain", "")
            label = content.get("transient", {}).get("display_id")
            if label is not None:
                displays[label] = len(reply.outputs)
                reply.history[label] = [text]
            reply.outputs.append((kind, text))
        elif kind == "update_display_data":
            label = content["transient"]["display_id"]
            text = content["data"].get("text/plain", "")
            reply.outputs[displays[label]] = ("display_data", text)
            reply.history[label].append(text)
        elif kind == "error":
            reply.ename, reply.evalue = content["ename"], content["evalue"]
            reply.traceback = plain_text("\n".join(content["traceback"]))

    def value(self, expression):
        """Value of an expression of plain Python literals."""
        import ast

        sent = self.client.execute("", silent=True, user_expressions={"value": expression}, allow_stdin=False)
        found = self._shell_reply(sent, time.monotonic() + REPLY_S)["user_expressions"]["value"]
        assert found["status"] == "ok", found
        return ast.literal_eval(found["data"]["text/plain"])

    def interrupt(self):
        self.manager.interrupt_kernel()


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
