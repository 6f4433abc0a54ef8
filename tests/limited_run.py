"""A process of its own that trains where memory is short: `python -m limited_run JOBS`, findings as JSON."""

import json
import os
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path
from time import perf_counter

import torch
from torch import nn

import accum_magic
from accum_magic.testing import run_accumulated, run_plain

SAMPLES, TOKENS, WIDTH, LAYERS, STEPS = 96, 512, 32, 8, 2
MIB = 2**20
CELL = """
for x, y in loader:
    optimizer.zero_grad()
    out = model(x)
    loss = F.cross_entropy(out, y)
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
"""
HAND_WRITTEN = """
for x, y in loader:
    optimizer.zero_grad()
    total = 0.0
    for part, labels in zip(x.split(4), y.split(4)):
        loss = F.cross_entropy(model(part), labels, reduction="sum") / len(x)
        loss.backward()
        total += loss.item()
    optimizer.step()
    losses.append(total)
"""
HAND = {"plain": CELL, "hand-written": HAND_WRITTEN}
# glibc gives a freed tensor back at once, and keeps no arena of 64 MiB of addresses for another thread
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}


def status_mib(field):
    """Return a line of /proc/self/status, such as VmHWM."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    message = f"this system does not tell {field}"
    raise OSError(message)


def activations_mib():
    """Return what the plain step keeps for its backward: the inputs of each linear layer and of each GELU."""
    return 2 * LAYERS * SAMPLES * TOKENS * WIDTH * 8 / MIB


def namespace():
    """A net whose memory is nearly all activations, in float64."""
    torch.manual_seed(0)
    body = [m for _ in range(LAYERS) for m in (nn.Linear(WIDTH, WIDTH), nn.GELU())]
    model = nn.Sequential(nn.Embedding(100, WIDTH), *body, nn.Flatten(), nn.Linear(WIDTH * TOKENS, 5)).double()
    return {
        "F": nn.functional, "model": model, "losses": [], "optimizer": torch.optim.Adam(model.parameters(), lr=1e-3),
        "loader": [(torch.randint(100, (SAMPLES, TOKENS)), torch.randint(5, (SAMPLES,))) for _ in range(STEPS)],
    }  # fmt: skip


def run(how, headroom_mib=None, budget_over_now_mib=None):
    """Train in this process; `how` is "plain", "hand-written", or the N of `%%accumulate`."""
    budget = None if budget_over_now_mib is None else int(status_mib("VmRSS") + budget_over_now_mib)
    names, before = namespace(), status_mib("VmHWM")
    if headroom_mib is not None:
        limit = int((status_mib("VmSize") + headroom_mib) * MIB)
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    start, error = perf_counter(), ""
    try:
        train(how, names, f"--memory {budget}MiB" if budget else "")
    except Exception as raised:  # noqa: BLE001 - it is what the process was started for
        error = f"{type(raised).__name__}: {raised}"
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    told = [] if how in HAND else [[type(e).__name__, str(e)] for e in accum_magic.last_run().events]
    return {
        "error": error, "peak_mib": status_mib("VmHWM"), "before_mib": before, "budget_mib": budget, "events": told,
        "elapsed_s": perf_counter() - start, "losses": names["losses"],
        "parameters": [p.flatten()[:20].tolist() for p in names["model"].parameters()],
    }  # fmt: skip


def train(how, names, options):
    """Run the cell."""
    if how in HAND:
        run_plain(HAND[how], names)
    else:
        run_accumulated(CELL, names, how if how == "auto" else int(how), options)


def warm_up():
    """Load the libraries behind a step, and whatever the magic reads late, before memory is short."""
    torch.set_num_threads(1)
    names = namespace()
    names["loader"] = [(x[:4], y[:4]) for x, y in names["loader"][:1]]
    train("2", names, "")


def forked(job):
    """Call a job in a process of its own; each begins with the same memory, and none waits for imports."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        with os.fdopen(writer, "w") as pipe:
            json.dump(job(), pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    return json.loads(told) if told else {"error": f"the process died: {os.waitstatus_to_exitcode(status)}"}


def in_processes(jobs):
    """Run jobs, each (how, limits), one by one; return their findings."""
    done = subprocess.run(
        [sys.executable, "-m", "limited_run", json.dumps(jobs)],
        cwd=Path(__file__).parent, env=os.environ | ENVIRONMENT, check=True, stdout=subprocess.PIPE, text=True,
        timeout=200,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    warm_up()
    print(json.dumps([forked(partial(run, how, **limits)) for how, limits in json.loads(sys.argv[1])]))
