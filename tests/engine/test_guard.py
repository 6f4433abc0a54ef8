"""The guard of a memory budget on a CPU: it stops a forward or a backward before the machine would."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tight_run import in_processes
from torch import nn

from accum_magic.engine.guard import BudgetGuard
from accum_magic.engine.memory import ResidentMemory
from accum_magic.engine.saved import SavedTensors
from accum_magic.errors import BudgetExceededError

MIB = 2**20
linux = pytest.mark.skipif(sys.platform != "linux", reason="VmHWM is Linux's")

# Each step needs 240 MiB and may have 60: a chain of layers, and dense gradients of embeddings that save indices only.
SCRIPT = """
import json, os, torch
from torch import nn
from limited_run import status_mib
from accum_magic.engine.guard import BudgetGuard
from accum_magic.engine.memory import ResidentMemory
from accum_magic.errors import BudgetExceededError

def forward():
    x = torch.ones(2**20, requires_grad=True)
    for _ in range(60):
        x = x.sigmoid()
    return x.sum()

def backward():
    tables = [nn.Embedding(2**20, 1, _weight=torch.empty(2**20, 1)) for _ in range(60)]
    index = torch.zeros(10, dtype=torch.long)
    loss = sum(table(index).sum() for table in tables)
    at[0] = "backward"
    loss.backward()

torch.set_num_threads(1)
torch.ones(8, requires_grad=True).sigmoid().sum().backward()
found = []
for step in (forward, backward):
    reader, writer = os.pipe()
    if not os.fork():
        at, before = ["forward"], status_mib("VmHWM")
        meter = ResidentMemory()
        budget = meter.now_bytes() + 60 * 2**20
        error = None
        try:
            with BudgetGuard(meter, budget):
                step()
        except BudgetExceededError as raised:
            error = [raised.in_use_bytes, raised.budget_bytes]
        os.write(writer, json.dumps([at[0], error, budget / 2**20, status_mib("VmHWM")]).encode())
        os._exit(0)
    os.wait()
    found.append(json.loads(os.read(reader, 10_000)))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def exceeded():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        check=True, stdout=subprocess.PIPE, text=True, timeout=120, cwd=Path(__file__).parents[1],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return dict(zip(("forward", "backward"), json.loads(done.stdout.splitlines()[-1]), strict=True))


@linux
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_it_raises_before_all_is_allocated(exceeded, where):
    at, error, budget_mib, peak_mib = exceeded[where]
    print(f"\n{where}: peak {peak_mib:.0f} of {budget_mib:.0f} MiB", end="")
    assert at == where
    assert error[1] == pytest.approx(budget_mib * MIB)
    assert error[0] > error[1]
    assert peak_mib <= budget_mib + 8


def test_what_fits_runs_as_without_it():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)), torch.randn(5, 4)
    model(x).mean().backward()
    expected = [p.grad for p in model.parameters()]
    model.zero_grad()
    meter = ResidentMemory()
    with BudgetGuard(meter, meter.now_bytes() + 500 * MIB) as guard:
        model(x).mean().backward()
    assert all(map(torch.equal, expected, (p.grad for p in model.parameters())))
    assert guard.now_bytes == 0 < guard.peak_bytes


def test_a_budget_that_is_used_up_stops_the_first_saved_tensor():
    meter = ResidentMemory()
    x = torch.ones(4, requires_grad=True)
    with BudgetGuard(meter, meter.now_bytes() // 2), pytest.raises(BudgetExceededError) as caught:
        x.sigmoid()
    assert str(caught.value).endswith("Take smaller micro-batches (a larger N), or allow more with --memory.")


def test_garbage_is_no_need():
    """What a collection of garbage frees does not exceed a budget."""
    meter = ResidentMemory()
    now = meter.now_bytes()
    cycle = [torch.ones(200 * MIB // 4)]
    cycle.append(cycle)
    del cycle
    x = torch.ones(4, requires_grad=True)
    assert meter.now_bytes() > now + 150 * MIB
    time.sleep(1.1)  # it is collected once a second at most
    with BudgetGuard(meter, now + 100 * MIB):
        x.sigmoid().sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("under", ["nothing", "counter", "guard"])
def test_a_saved_tensor_that_was_modified_raises_as_in_pytorch(under):
    meter = ResidentMemory()
    block = {
        "nothing": torch.enable_grad,
        "counter": SavedTensors,
        "guard": lambda: BudgetGuard(meter, meter.now_bytes() + 500 * MIB),
    }[under]()
    with block:
        out = torch.ones(3, requires_grad=True).exp()
        loss = out.sum()
        out.mul_(2)
        with pytest.raises(RuntimeError) as caught:
            loss.backward()
    words = "one of the variables needed for gradient computation has been modified by an inplace operation: "
    assert str(caught.value).startswith(words)
    assert " is at version 1; expected version 0 instead" in str(caught.value)


@pytest.fixture(scope="module")
def run():
    jobs = [("half does not fit", False), ("half does not fit", True), ("window", False), ("window", True)]
    return dict(zip(jobs, in_processes(jobs), strict=True))


@linux
@pytest.mark.parametrize("name", ["half does not fit", "window"])
def test_what_does_not_fit_is_cut_and_the_result_is_the_same(run, name):
    """Of a window the loader batches are padded each to its own length: none is put together with another."""
    ours, plain = run[name, False], run[name, True]
    print(f"\n{name}: peak {ours['peak_mib']:.0f} of {ours['budget_mib']} MiB, else {plain['peak_mib']:.0f}", end="")
    assert not ours["error"]
    assert ours["rescues"]
    assert ours["peak_mib"] <= 1.05 * ours["budget_mib"] < plain["peak_mib"]
    assert ours["losses"] == pytest.approx(plain["losses"], rel=1e-9)
    assert ours["parameters"] == pytest.approx(plain["parameters"], rel=1e-9)
    assert min(ours["micro_batches"]) > 2
