"""Those who run the same training side by side: a namespace and a compiled cell each."""

import ast
import io
import time
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin
from lightning_fabric import Fabric

import accum_magic
from accum_magic.engine.run import begin
from accum_magic.view.text import TextView
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
    """A model and its batch; how often, in how many turns a round, of how many steps, contenders take turns."""

    name: str
    batch: int
    steps: int
    slices: int
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
        """Seconds of one turn: of the processor, and on the wall."""
        start, start_wall = time.process_time(), time.perf_counter()
        self.run()
        return time.process_time() - start, time.perf_counter() - start_wall


class WithView(Contender):
    """Ours with the text view live: its thread wakes at its own pace, and publishes where it meets our turn.

    So the turns, each shorter than a refresh, have together as many refreshes as a long run.
    """

    def __init__(self, name, cell, namespace, run):
        super().__init__(name, cell, namespace)
        self.run_of_cell, self.is_our_turn = run, False
        self.line, self.last = StringLine(), run.snapshot()
        self.view = TextView(self.line, self.counters)
        self.view.start()

    def counters(self):
        if self.is_our_turn:
            self.last = self.run_of_cell.snapshot()
        return self.last

    def timed(self):
        self.is_our_turn = True
        try:
            return super().timed()
        finally:
            self.is_our_turn = False


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
    """All of them, each with a model of its own that starts out the same."""
    accelerated = task.namespace(steps)
    # the loader is a list, as everybody's, and not prepared
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
        run.end()
    return seen
