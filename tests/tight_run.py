"""Training in a process that may take little memory: `python -m tight_run NAME ...`, findings as JSON.

Each job is a cell under a budget, in a forked process of its own; what is found is the high-water mark of its memory.
"""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from time import sleep

import torch
from limited_run import forked, status_mib
from torch import nn

import accum_magic
from accum_magic.engine.events import MicroBatchRescued, StepDone
from accum_magic.testing import run_accumulated, run_plain

MIB = 2**20
WIDTH, LAYERS = 32, 8


class Scaled(nn.Module):
    """Costs little time, and keeps its input and its output for the backward."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.full((WIDTH,), 1.1))

    def forward(self, x):
        return (x * self.scale).relu()


STEP = """
for x, y in loader:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
"""
HOG = (
    STEP
    + """\
    if len(losses) == 8:
        hog = torch.ones(taken)
        sleep(1.2)  # what is free is looked at once a second
    if len(losses) == 16:
        hog = None
        sleep(1.2)
"""
)
PAIRS = STEP.replace("F.cross_entropy(model(x), y)", "F.cross_entropy(model(x) @ model(y).T, torch.arange(len(x)))")


class Reader(nn.Module):
    """A net whose memory is nearly all activations: 4 KiB of them per token, in float64."""

    def __init__(self, out=5):
        super().__init__()
        self.words = nn.Embedding(100, WIDTH)
        self.body = nn.Sequential(*[Scaled() for _ in range(LAYERS)])
        self.head = nn.Linear(WIDTH, out)

    def forward(self, x):
        return self.head(self.body(self.words(x)).mean(1))


class Normed(Reader):
    """Its micro-batches' size changes the result, so all that fits is taken."""

    def __init__(self, out=5):
        super().__init__(out)
        self.head = nn.Sequential(nn.BatchNorm1d(WIDTH), self.head)


class Wide(nn.Module):
    """A net with 24 MiB of parameters, which takes all that fits from its first step on."""

    def __init__(self):
        super().__init__()
        self.read, self.mix = Normed(1024), nn.Linear(1024, 3072)

    def forward(self, x):
        return self.mix(self.read(x).relu())


def batches(steps, samples, tokens, classes=5):
    """Return a loader; `tokens` by step, or of all."""
    lengths = [tokens] * steps if isinstance(tokens, int) else tokens
    return [(torch.randint(100, (samples, n)), torch.randint(classes, (samples,))) for n in lengths]


def pairs(steps, samples, tokens):
    return [(torch.randint(100, (samples, tokens)), torch.randint(100, (samples, tokens))) for _ in range(steps)]


# name: cell, model, loader, N, MiB that the budget allows over what is in use, further options
JOBS = {
    "adam": (STEP, Wide, lambda: batches(4, 48, 768), "auto", 230, ""),
    "taken": (HOG, Normed, lambda: batches(24, 64, 256), "auto", 90, ""),
    "doubling": (STEP, Reader, lambda: batches(0, 24, [64, 128, 256, 512, 1024, 2048]), "auto", 60, ""),
    "three do not fit": (STEP, Reader, lambda: batches(2, 6, 8192), "auto", 75, ""),
    "one does not fit": (STEP, Reader, lambda: batches(2, 6, 16384), "auto", 50, ""),
    "half does not fit": (STEP, Reader, lambda: batches(2, 96, 512), "2", 70, ""),
    "replay": (PAIRS, lambda: Reader(WIDTH), lambda: pairs(4, 48, 512), "auto", 90, ""),
    "window": (STEP, Reader, lambda: batches(0, 32, [700, 650, 600, 550]), "2", 60, "--window"),
}


def names_of(name):
    """Make the names of a job's cell."""
    torch.manual_seed(0)
    _, model, loader, *_ = JOBS[name]
    made = model().double()
    return {
        "F": nn.functional, "torch": torch, "model": made, "losses": [], "sleep": sleep, "taken": 30 * MIB // 8,
        "optimizer": torch.optim.Adam(made.parameters(), lr=1e-3), "loader": loader(),
    }  # fmt: skip


def run(name, *, plain):
    """Run a job in this process."""
    torch.set_default_dtype(torch.float64)
    cell, _, _, n, over_mib, options = JOBS[name]
    names, error, before_update = names_of(name), "", []
    names["optimizer"].register_step_pre_hook(lambda *_: before_update.append(status_mib("VmRSS")))
    now_mib = status_mib("VmRSS")
    budget_mib = int(now_mib + over_mib)
    try:
        if plain:
            n = int(n) if "--window" in options else 1
            run_accumulated(cell, names, n, options) if "--window" in options else run_plain(cell, names)
        else:
            run_accumulated(cell, names, n if n == "auto" else int(n), f"{options} --memory {budget_mib}MiB".strip())
    except Exception as raised:  # noqa: BLE001 - it is what the process was started for
        error = "\n".join([f"{type(raised).__name__}: {raised}", *getattr(raised, "__notes__", ())])
    told = None if plain else accum_magic.last_run()
    return {
        "error": error, "now_mib": now_mib, "before_update_mib": before_update, "budget_mib": budget_mib,
        "peak_mib": status_mib("VmHWM"),
        "losses": names["losses"], "parameters": [p.detach().norm().item() for p in names["model"].parameters()],
        "micro_batches": [e.micro_batches for e in told.events if isinstance(e, StepDone)] if told else [],
        "rescues": [[e.samples, e.pieces] for e in told.events if isinstance(e, MicroBatchRescued)] if told else [],
        "notes": list(told.notes) if told else [],
    }  # fmt: skip


def warm_up():
    """Load the libraries behind a step, and whatever the magic reads late."""
    torch.set_num_threads(1)
    for n, cell in (("auto", STEP), (2, STEP), ("auto", PAIRS)):
        model = Reader(WIDTH)
        run_accumulated(cell, {
            "F": nn.functional, "torch": torch, "model": model, "losses": [],
            "optimizer": torch.optim.Adam(model.parameters()),
            "loader": batches(2, 4, 8) if cell is STEP else pairs(2, 4, 8),
        }, n)  # fmt: skip


def in_processes(jobs):
    """Run jobs one by one, each (name, whether plainly); return their findings."""
    done = subprocess.run(
        [sys.executable, "-m", "tight_run", json.dumps(jobs)],
        cwd=Path(__file__).parent, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, stdout=subprocess.PIPE,
        text=True, timeout=200,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    warm_up()
    print(json.dumps([forked(partial(run, name, plain=plain)) for name, plain in json.loads(sys.argv[1])]))
