"""A kernel as a notebook drives it, and what a cell shows there."""

import ast
import re
import time
from dataclasses import dataclass, field

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
    def close(x, y):
        return (x is None and y is None) or torch.allclose(x, y, rtol=1e-9, atol=1e-12)
    return all(map(close, a, b)) and len(a) == len(b)
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
    places: dict = field(default_factory=dict)
    """Where in `outputs` each updatable display stands."""
    count: int = 0
    ename: str = ""
    evalue: str = ""
    traceback: str = ""
    pager: str = ""
    """What `?` shows."""
    is_aborted: bool = False
    """Whether it did not run, since a cell before it had failed; ipykernel 6 is late to let cells run again."""

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

    stack = "newest"
    """The name of its Jupyter stack (environments.py)."""

    def __init__(self, manager, client):
        self.manager, self.client = manager, client
        self._replies = {}  # that came before they were asked for

    def start(self, code):
        """Send a cell; `finish` waits for its end."""
        return self.client.execute(code, allow_stdin=False)

    def run(self, code):
        reply = self.finish(self.start(code))
        while reply.is_aborted:
            reply = self.finish(self.start(code))
        return reply

    def finish(self, sent, reply=None, until=None):
        """Collect what a cell shows until it is idle, or until `until(reply)` holds."""
        reply, deadline = reply or Reply(), time.monotonic() + REPLY_S
        while True:
            message = self.client.get_iopub_msg(timeout=max(0.1, deadline - time.monotonic()))
            if message["parent_header"].get("msg_id") != sent:
                continue
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                break
            self._take(reply, message)
            if until is not None and until(reply):
                return reply
        shell = self._shell_reply(sent, deadline)
        reply.count, reply.is_aborted = shell.get("execution_count", 0), shell["status"] == "aborted"
        pages = [part for part in shell.get("payload", []) if part["source"] == "page"]
        reply.pager = "".join(part["data"]["text/plain"] for part in pages)
        return reply

    def _shell_reply(self, sent, deadline):
        while sent not in self._replies:
            message = self.client.get_shell_msg(timeout=max(0.1, deadline - time.monotonic()))
            self._replies[message["parent_header"].get("msg_id")] = message["content"]
        return self._replies.pop(sent)

    def _take(self, reply, message):
        kind, content = message["msg_type"], message["content"]
        if kind == "stream":
            if reply.outputs and reply.outputs[-1][0] == content["name"]:
                content = {"name": content["name"], "text": reply.outputs.pop()[1] + content["text"]}
            reply.outputs.append((content["name"], content["text"]))
        elif kind in {"display_data", "execute_result"}:
            text = content["data"].get("text/plain", "")
            label = content.get("transient", {}).get("display_id")
            if label is not None:
                reply.places[label] = len(reply.outputs)
                reply.history[label] = [text]
            reply.outputs.append((kind, text))
        elif kind == "update_display_data":
            label = content["transient"]["display_id"]
            text = content["data"].get("text/plain", "")
            reply.outputs[reply.places[label]] = ("display_data", text)
            reply.history[label].append(text)
        elif kind == "error":
            reply.ename, reply.evalue = content["ename"], content["evalue"]
            reply.traceback = plain_text("\n".join(content["traceback"]))

    def value(self, expression):
        """Value of an expression of plain Python literals."""
        shell = {"status": "aborted"}
        while shell["status"] == "aborted":
            sent = self.client.execute("", silent=True, user_expressions={"value": expression}, allow_stdin=False)
            shell = self._shell_reply(sent, time.monotonic() + REPLY_S)
        found = shell["user_expressions"]["value"]
        assert found["status"] == "ok", found
        return ast.literal_eval(found["data"]["text/plain"])

    def interrupt(self):
        self.manager.interrupt_kernel()
