"""Training in a process with little memory: `python -m benchmarks.limited WHO`, figures as JSON.

Everybody has the same room: the address space of the process with everything imported and warmed up, and ROOM_MIB
more. The full batch does not fit. What is measured: with which size each ends, and what it has cost until then.
"""

import json
import logging
import math
import resource
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks import cells
from benchmarks.jobs import JOBS, ROWS

JOB = next(job for job in JOBS if job.name == "MLP")
ROOM_MIB = 112
UPDATES = 8  # of the full batch


@dataclass(frozen=True)
class Slices:
    """A loader that cuts its batches when they are asked for: thousands of small tensors are memory, too."""

    x: torch.Tensor
    y: torch.Tensor
    size: int

    def __len__(self):
        return math.ceil(len(self.x) / self.size)

    def __iter__(self):
        for start in range(0, len(self.x), self.size):
            yield self.x[start : start + self.size], self.y[start : start + self.size]


@dataclass
class Watch:
    """The updates that count: when each was done, on the processor's clock. A restart throws the earlier ones away."""

    updates_s: list[float] = field(default_factory=list)
    started_s: float = 0.0
    size: int | None = None  # that the search has ended with; of the whole batch where nobody searches

    def start(self):
        ROWS[0] = 0
        register_optimizer_step_post_hook(lambda *_: self.updates_s.append(time.process_time()))
        self.started_s = time.process_time()

    def restart(self, size):
        self.updates_s.clear()
        self.size = size

    def figures(self, samples):
        """What became of a run that has trained on so many samples since the last restart."""
        first_s, last_s = self.updates_s[0], self.updates_s[-1]
        return {
            "died": False,
            "size": self.size,
            "updates": len(self.updates_s),
            "thrown_away": ROWS[0] - samples,
            "first_update_s": first_s - self.started_s,
            "samples_per_s": samples * (1 - 1 / len(self.updates_s)) / (last_s - first_s),
        }


def plain(names, watch):
    watch.restart(JOB.batch)
    exec(cells.PLAIN, names)


def accelerate(names, watch):
    """As its documentation has it: the function makes everything that depends on the batch size anew."""
    x, y = names["all"]

    @names["find_executable_batch_size"](starting_batch_size=JOB.batch)
    def train(batch_size):
        watch.restart(batch_size)
        made = JOB.namespace(samples=1)
        made["loader"] = Slices(x, y, batch_size)
        exec(cells.PLAIN, made)

    train()


def lightning(names, watch, mode):
    pl, x, y = names["pl"], *names["all"]

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.model, self.batch_size = names["model"], 2

        def train_dataloader(self):
            return Slices(x, y, self.batch_size)

        def training_step(self, batch):
            return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.model.parameters(), lr=1e-3)

    with tempfile.TemporaryDirectory() as folder:
        module = Module()
        trainer = pl.Trainer(
            max_epochs=1, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        )  # fmt: skip
        watch.restart(names["Tuner"](trainer).scale_batch_size(module, mode=mode, max_val=len(x)))
        trainer.fit(module)


def ours(names, watch):
    names["run_accumulated"](cells.PLAIN, names, "auto")
    steps = [event for event in names["last_run"]().events if hasattr(event, "micro_batches")]
    watch.size = -(-JOB.batch // steps[-1].micro_batches)


WHO = {
    "plain": plain,
    "accelerate": accelerate,
    "lightning, power": lambda names, watch: lightning(names, watch, "power"),
    "lightning, binsearch": lambda names, watch: lightning(names, watch, "binsearch"),
    "ours": ours,
}


def imported(who):
    """What each needs, imported before the clock starts and the limit is set."""
    if who == "accelerate":
        from accelerate.utils import find_executable_batch_size

        return {"find_executable_batch_size": find_executable_batch_size}
    if who.startswith("lightning"):
        import pytorch_lightning as pl
        from pytorch_lightning.tuner import Tuner

        logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
        warnings.simplefilter("ignore")
        return {"pl": pl, "Tuner": Tuner}
    if who == "ours":
        from accum_magic import last_run
        from accum_magic.testing import run_accumulated

        return {"run_accumulated": run_accumulated, "last_run": last_run}
    return {}


def limit_memory():
    status = Path("/proc/self/status").read_text(encoding="ascii")
    kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmSize:"))
    limit = (kib << 10) + (ROOM_MIB << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def measured(who):
    torch.set_num_threads(1)
    names = JOB.namespace(samples=2) | imported(who)
    x, y = names["all"] = JOB.data(UPDATES * JOB.batch)
    exec(cells.PLAIN, names)  # PyTorch's own first-time costs
    names["loader"] = Slices(x, y, JOB.batch)
    limit_memory()
    watch = Watch()
    watch.start()
    try:
        WHO[who](names, watch)
    except (RuntimeError, MemoryError) as error:
        if "memory" not in str(error):
            raise
        return {"died": True, "size": watch.size, "updates": len(watch.updates_s), "why": str(error)}
    return watch.figures(UPDATES * JOB.batch)


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1])))
