"""What the memory of a run is used for."""

import gc

import pytest
import torch
from torch import nn

import accum_magic
from accum_magic import testing
from accum_magic.engine import run as runs
from accum_magic.engine.footprint import Holdings

CPU = torch.device("cpu")
CELL = """\
for x, y in loader:
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(x), y)
    loss.backward()
    optimizer.step()
"""


def notebook(model=None, optimizer=torch.optim.Adam, rows=64, **more):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 1)) if model is None else model
    return {
        "nn": nn, "model": model, "loader": [(torch.randn(rows, 16), torch.randn(rows, 1))] * 3,
        "optimizer": optimizer([p for p in model.parameters() if p.requires_grad]), **more,
    }  # fmt: skip


def after(names, cell=CELL, n=4):
    testing.run_accumulated(cell, names, n)
    return accum_magic.last_run().footprint


PARAMETERS = 4 * (16 * 32 + 32 + 32 + 1)


def test_a_peak_is_divided():
    found = after(notebook())
    assert (found.parameters, found.gradients) == (PARAMETERS, PARAMETERS)
    assert found.optimizer_state == 2 * PARAMETERS + 4 * 4  # two moments, and a step count for each of 4 parameters
    summary = accum_magic.last_run()
    assert found.activations == int(summary.activation_bytes) > 0
    parts = (found.parameters, found.gradients, found.optimizer_state, found.activations, found.other)
    assert sum(parts) == summary.peak_bytes


def test_without_a_gradient_and_without_state():
    found = after(notebook(optimizer=torch.optim.SGD), f"{CELL}    optimizer.zero_grad()\n")
    assert (found.parameters, found.gradients, found.optimizer_state) == (PARAMETERS, 0, 0)


def test_what_is_not_reached_is_other():
    model = nn.Sequential(nn.Linear(16, 32), nn.Linear(32, 1))
    model[0].requires_grad_(requires_grad=False)
    assert after(notebook(model)).parameters == 4 * 33


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.flat = nn.Parameter(torch.randn(40))
        self.same = self.flat
        self.words = nn.Embedding(100, 16, sparse=True)

    def forward(self, x):
        rows = self.words(torch.arange(len(x)) % 4)
        return ((x * rows) @ self.flat[:16] + self.same[16:].sum())[:, None]


def test_storages_are_counted_once_and_sparse_gradients_by_what_they_hold():
    found = after(notebook(Tied(), optimizer=torch.optim.SGD, rows=8))
    assert found.parameters == 4 * (40 + 1600)
    rows = (found.gradients - 4 * 40) / (16 * 4 + 8)  # of the embedding: values, and an index each
    assert rows == int(rows)
    assert 0 < rows <= 8


def test_state_in_containers_is_counted():
    found = after(
        notebook(optimizer=torch.optim.LBFGS), CELL.replace("optimizer.step()", "optimizer.step(lambda: loss)")
    )
    assert found.optimizer_state >= PARAMETERS


def test_two_optimizers():
    names = notebook()
    first, last = names["model"][0], names["model"][2]
    names["optimizer"] = torch.optim.SGD(first.parameters(), momentum=0.9)
    names["second"] = torch.optim.SGD(last.parameters(), momentum=0.9)
    found = after(names, f"{CELL}    second.step()\n    second.zero_grad()\n")
    assert found.optimizer_state == PARAMETERS
    assert found.gradients == 4 * (16 * 32 + 32)


def test_a_view_sees_it_while_the_cell_runs():
    seen = []
    names = notebook(look=lambda: seen.append(runs.current_run().snapshot()))
    testing.run_accumulated("look()\n" + CELL + "    look()\n", names, 4)
    before, *steps = (s.footprint for s in seen)
    assert (before.parameters, before.optimizer_state, before.activations) == (0, 0, 0)
    assert [s.parameters for s in steps] == [PARAMETERS] * 3
    assert [s.optimizer_state for s in steps] == [2 * PARAMETERS + 16] * 3
    for snapshot in seen:
        f = snapshot.footprint
        assert f.parameters + f.gradients + f.optimizer_state + f.activations + f.other == snapshot.peak_bytes


def test_it_is_told_of_a_run_that_is_gone_and_keeps_nothing_alive():
    names = notebook()
    expected = after(names)
    holdings = runs._Runs.last.memory.holdings
    names.clear()
    gc.collect()
    assert accum_magic.last_run().footprint == expected
    assert holdings.footprint(CPU, 0, 0, None, anew=True).parameters == 0


def test_nothing_is_negative():
    holdings, parameter = Holdings(), nn.Parameter(torch.ones(1000))
    holdings.reach([parameter])
    found = holdings.footprint(CPU, 100, 0, 1e9, anew=True)
    assert (found.parameters, found.activations, found.other) == (4000, 10**9, 0)


@pytest.mark.parametrize(
    ("peak", "rest", "activations", "other"),
    [
        (20_000, 7_000, 9_000, 3_000),  # 4,000 parameters and 3,000 of data; 4,000 gradients come in the step
        (20_000, 0, 12_000, 0),
        (8_500, 7_000, 0, 500),
    ],
)
def test_an_accelerators_peak_is_what_was_there_gradients_and_activations(peak, rest, activations, other):
    """On the meta device, which has tensors and no memory, since a CPU's activations are estimated."""
    meta = torch.device("meta")
    parameter = nn.Parameter(torch.empty(1000, device=meta))
    parameter.grad = torch.empty(1000, device=meta)
    holdings = Holdings()
    holdings.reach([parameter, nn.Parameter(torch.ones(5))])
    found = holdings.footprint(meta, peak, rest, None, anew=True)
    assert (found.parameters, found.gradients) == (4000, 4000)
    assert (found.activations, found.other) == (activations, other)


def test_a_new_model_in_the_place_of_one_that_is_gone_is_counted():
    """Each fold of a cross-validation has its own; a new tensor may get the id of one that is gone."""
    holdings = Holdings()
    for size in (1000, 2000, 3000):
        parameters = [nn.Parameter(torch.ones(size)), nn.Parameter(torch.ones(1))]
        holdings.reach(parameters)
        assert holdings.footprint(CPU, 0, 0, None, anew=True).parameters == 4 * (size + 1)
        del parameters


def test_what_is_new_is_counted_at_once_and_the_rest_once_a_second():
    holdings, parameter = Holdings(), nn.Parameter(torch.ones(1000))
    optimizer = torch.optim.SGD([parameter], momentum=0.9)

    def counted():
        holdings.count(CPU)
        found = holdings.footprint(CPU, 0, 0, None, anew=False)
        return found.parameters, found.gradients, found.optimizer_state

    assert counted() == (0, 0, 0)
    holdings.reach([parameter])
    assert counted() == (4000, 0, 0)
    parameter.grad = torch.ones(1000)
    assert counted() == (4000, 0, 0)
    optimizer.step()
    holdings.stepped(optimizer)
    assert counted() == (4000, 4000, 4000)


def test_a_view_reads_no_gradient():
    """A backward writes them without Python's lock, so a view's thread that read one could crash the process."""
    holdings, parameter = Holdings(), nn.Parameter(torch.ones(1000))
    holdings.reach([parameter])
    assert holdings.footprint(CPU, 0, 0, None, anew=False).parameters == 0
    holdings.count(CPU)
    assert holdings.footprint(CPU, 0, 0, None, anew=False).parameters == 4000
