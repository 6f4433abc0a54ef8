"""Those who run the same training side by side: a namespace and a compiled cell each."""

import ast
import io
import random
import time
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin
from lightning_fabric import Fabric

import accum_magic
from accum_magic.engine.run import begin, end
from accum_magic.view.text import REFRESH_S, TextView
from benchmarks import cells

N = 8
PLAIN, HAND_WRITTEN, ACCELERATE, FABRIC = "plain full batch", "hand-written loop", "Accelerate", "Lightning Fabric"
OURS, OURS_WITH_VIEW = "ours", "ours, with text view"


class Transformer(torch.nn.Module):
    """Four encoder layers that predict a class for each token."""

    def __init__(self, vocabulary=100, width=256):
        super().__init__()
        layer = torch.nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True)
        self.embed = torch.nn.Embedding(vocabulary, width)
        self.layers = torch.nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = torch.nn.Linear(width, vocabulary)

    def forward(self, tokens):
        return self.head(self.layers(self.embed(tokens))).transpose(1, 2)


@dataclass(frozen=True)
class Task:
    """A model and its batch; `seconds` is how long a contender's turn may take."""

    name: str
    batch: int
    steps: int
    rounds: int

    def model(self):
        torch.manual_seed(0)
        return Transformer() if self.name == "transformer" else torch.nn.Sequential(
            torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3)
        )  # fmt: skip

    def data(self, samples):
        torch.manual_seed(1)
        if self.name == "transformer":
            return torch.randint(100, (samples, 32)), torch.randint(100, (samples, 32))
        return torch.randn(samples, 8, dtype=torch.get_default_dtype()), torch.randint(3, (samples,))

    def namespace(self, steps, samples=None):
        model = self.model()
        x, y = self.data(samples or self.batch)
        loader = [(x, y)] * steps
        micro_loader = list(zip(x.chunk(N), y.chunk(N), strict=True)) * steps
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        functional = torch.nn.functional
        return {"model": model, "optimizer": optimizer, "loader": loader, "micro_loader": micro_loader,
                "F": functional, "N": N, "torch": torch}  # fmt: skip


class Contender:
    """A cell and the names it finds."""

    def __init__(self, name, cell, namespace):
        self.name, self.namespace = name, namespace
        self.code = compile(cell, f"<{name}>", "exec")

    def run(self):
        exec(self.code, self.namespace)

    def timed(self):
        """Seconds of one turn."""
        start = time.perf_counter()
        self.run()
        return time.perf_counter() - start


class WithView(Contender):
    """Ours with the thread of the text view publishing meanwhile, at the pace it has in a long run."""

    def __init__(self, name, cell, namespace, run):
        super().__init__(name, cell, namespace)
        self.counters, self.random = run.snapshot, random.Random(0)

    def timed(self):
        view = TextView(StringLine(), self.counters)
        view.start()
        time.sleep(self.random.uniform(0, REFRESH_S))  # turns are as short as a refresh: begin anywhere within one
        try:
            return super().timed()
        finally:
            view.close("")


class StringLine:
    """A line that writes to memory."""

    def __init__(self):
        self.out = io.StringIO()

    def show(self, text):
        self.out.write("\r" + text)

    close = show


def rewritten(namespace):
    return ast.fix_missing_locations(accum_magic.rewrite(cells.PLAIN, N, namespace=namespace).tree)


def contenders_of(task, steps):
    """All of them, each with a model of its own; they have run once. Ends the run of ours when exhausted."""
    accelerated = task.namespace(steps)
    # the default, on a CPU, in the way its documentation shows; the loader is a list, as everybody's
    accelerator = Accelerator(cpu=True, gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=N))
    accelerated["model"], accelerated["optimizer"] = accelerator.prepare(accelerated["model"], accelerated["optimizer"])
    accelerated["accelerator"] = accelerator
    with_fabric = task.namespace(steps)
    fabric = Fabric(accelerator="cpu", devices=1)
    with_fabric["model"], with_fabric["optimizer"] = fabric.setup(with_fabric["model"], with_fabric["optimizer"])
    with_fabric["fabric"] = fabric
    ours = task.namespace(steps)
    return [
        Contender(PLAIN, cells.PLAIN, task.namespace(steps)),
        Contender(HAND_WRITTEN, cells.HAND_WRITTEN, task.namespace(steps)),
        Contender(ACCELERATE, cells.ACCELERATE, accelerated),
        Contender(FABRIC, cells.FABRIC, with_fabric),
        Contender(OURS, rewritten(ours), ours),
    ]


def check_equal_gradients(task):
    """The gradients at each of two optimizer steps, in float64, are those of the plain cell."""
    torch.set_default_dtype(torch.float64)
    try:
        plain, *others = [(c.name, _gradients_of(c)) for c in contenders_of(task, steps=2)]
    finally:
        torch.set_default_dtype(torch.float32)
    assert len(plain[1]) == 2
    for name, gradients in others:
        torch.testing.assert_close(gradients, plain[1], rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


def _gradients_of(contender):
    seen = []
    optimizer = contender.namespace["optimizer"]
    optimizer = getattr(optimizer, "optimizer", optimizer)  # the peers wrap it
    parameters = list(contender.namespace["model"].parameters())
    assert {p.dtype for p in parameters} == {torch.float64}
    optimizer.register_step_pre_hook(lambda *_: seen.append([p.grad.clone() for p in parameters]))
    run = begin()
    try:
        contender.run()
    finally:
        end(run)
    return seen
