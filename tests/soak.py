"""A long run in a process of its own: `python -m soak N OPTIONS`, what it holds at some of its steps, as JSON."""

import gc
import json
import os
import subprocess
import sys
import threading
from collections.abc import MutableMapping, MutableSequence, MutableSet
from pathlib import Path
from time import perf_counter
from types import FunctionType

import torch
from torch import nn
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

import accum_magic
from accum_magic.engine.run import current_run
from accum_magic.testing import run_accumulated

STEPS, EVERY = 20_000, 2_500
CELL = """
for step in range(steps):
    optimizer.zero_grad()
    loss = model(x).mean()
    loss.backward()
    optimizer.step()
    look(step)
"""


class Scale(nn.Module):
    """As little as a model can do: 20,000 steps of it take half of what they take with a linear layer."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return x * self.factor


def sizes():
    """Count what may grow: memory, threads, files, the log of events, every collection that a module of ours holds."""
    # read first: what waits for the garbage collector is counted as memory, and not as objects
    resident_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return {
        "resident_bytes": resident_pages * os.sysconf("SC_PAGE_SIZE"),
        "objects": len(gc.get_objects()) if gc.collect() >= 0 else 0,
        "threads": threading.active_count(),
        "kernel threads": entries("/proc/self/task"),
        "files": entries("/proc/self/fd"),
        "events": len(current_run().events),
        "losses": len(current_run().losses),
        "sites": len(current_run().sites),
        "notes": len(current_run().notes) + len(current_run().reasons),
        "global hooks": sum(map(len, hooks())),
        **caches(),
    }


def entries(folder):
    """Count what a folder lists."""
    return len(list(Path(folder).iterdir()))


def hooks():
    """Return the hooks on all modules and on all optimizers."""
    module = torch.nn.modules.module
    found = [v for k, v in vars(module).items() if k.startswith("_global_") and isinstance(v, dict)]
    return [*found, _global_optimizer_pre_hooks, _global_optimizer_post_hooks]


def caches():
    """Return the length of every collection at the top of a module of ours, of its classes and behind its caches."""
    found = {}
    for name, module in list(sys.modules.items()):
        if module is not None and (name == "accum_magic" or name.startswith("accum_magic.")):
            for key, value in vars(module).items():
                found.update(lengths(f"{name}.{key}", value))
                if isinstance(value, type) and value.__module__ == name:
                    for attribute, inner in vars(value).items():
                        found.update(lengths(f"{name}.{key}.{attribute}", inner))
    return found


def lengths(label, value):
    """Yield the length of a collection, or of a function's cache."""
    if isinstance(value, MutableMapping | MutableSequence | MutableSet) and not label.endswith("__"):
        yield label, len(value)
    elif hasattr(value, "cache_info"):
        yield label, value.cache_info().currsize
    elif isinstance(value, FunctionType):
        yield from ((f"{label}.{k}", len(v)) for k, v in vars(value).items() if isinstance(v, list | dict | set))


def run(n, options):
    """Train for a long time; return the sizes by step."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, seen = Scale(), {}

    def look(step):
        if (step + 1) % EVERY == 0:
            seen[step + 1] = sizes()

    names = {
        "model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.01), "look": look,
        "x": torch.randn(4), "steps": STEPS,
    }  # fmt: skip
    start = perf_counter()
    run_accumulated(CELL, names, n if n == "auto" else int(n), options)
    summary = accum_magic.last_run()
    return {"seen": seen, "elapsed_s": perf_counter() - start, "steps": summary.steps, "after": sizes()}


def in_process(n, options=""):
    """Run it in a process of its own."""
    # the list of all objects is mapped apart, in a heap of its size the next tensors would take its place: 2 MiB a look
    malloc = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "131072"}
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | malloc
    done = subprocess.run(
        [sys.executable, "-m", "soak", n, options],
        cwd=Path(__file__).parent, env=environment, check=True, stdout=subprocess.PIPE, text=True, timeout=240,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    print(json.dumps(run(*sys.argv[1:])))
