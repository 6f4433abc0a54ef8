"""What may change between two steps of one cell does: nothing that a step has worked out is stale in the next one."""

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody writes it
from torch import nn

import accum_magic
from accum_magic.testing import run_accumulated, run_plain

CELL = """\
for x, y, criterion in loader:
    optimizer.zero_grad()
    loss = criterion(model(x), y)
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
"""
generator = torch.Generator().manual_seed(0)
X = torch.randn(11, 3, dtype=torch.float64, generator=generator)
Y = torch.tensor([0, 3, 1, 1, 2, 0, 3, 3, 1, 2, 0])
PADDED = torch.where(torch.arange(11) % 5 < 2, -100, Y)
TABLE = torch.stack([Y, PADDED, (Y + 1) % 4], 1)
RARE = nn.CrossEntropyLoss(torch.tensor([4.0, 1.0, 0.5, 2.0], dtype=torch.float64))
COMMON = nn.CrossEntropyLoss(torch.tensor([0.1, 1.0, 3.0, 1.0], dtype=torch.float64))
PLAIN, SUM = nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="sum")


def column(index, criterion=PLAIN):
    return lambda out, y: criterion(out, y[:, index])


def penalised(out, y):
    return F.cross_entropy(out, y) + 0.1 * out.square().sum()


def distance(out, y):
    return F.l1_loss(out[:, 0], y.double())


def ignoring(index):
    return nn.CrossEntropyLoss(ignore_index=index)


STEPS = {
    "class weights": [(X, Y, RARE), (X, Y, COMMON), (X, Y, PLAIN), (X, Y, RARE)],
    "the ignored index": [(X, Y, ignoring(1)), (X, Y, ignoring(0)), (X, Y, ignoring(7)), (X, Y, ignoring(3))],
    "padding": [(X, Y, PLAIN), (X, PADDED, PLAIN), (X, Y, PLAIN), (X, PADDED.flip(0), PLAIN)],
    "sizes": [(X[:k], PADDED[:k], RARE) for k in (11, 7, 11, 8, 3)],
    "sizes of a mean": [(X[:k], Y[:k], distance) for k in (11, 7, 2, 11)],
    "the kind of loss": [(X, PADDED, c) for c in (PLAIN, SUM, distance, PLAIN, SUM)],
    "terms with weights of their own": [(X[:k], y[:k], penalised) for k, y in ((11, Y), (9, PADDED), (11, PADDED))],
    "where the labels lie": [(X, TABLE, column(k)) for k in (0, 1, 2, 1)],
    "the labels' layout": [(X, y, RARE) for y in (TABLE[:, 1], PADDED, TABLE[:, 1].clone(), TABLE[:, 1])],
    "whether they are the batch's": [
        (X, PADDED, c) for c in (PLAIN, lambda out, y: F.cross_entropy(out, y.clone()), PLAIN)
    ],
}


def namespace(loader):
    torch.manual_seed(0)
    model = nn.Linear(3, 4).double()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    return {"model": model, "optimizer": optimizer, "loader": copy.copy(loader), "losses": []}


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("loader", STEPS.values(), ids=STEPS)
def test_what_changes_between_two_steps_is_seen(loader, n):
    plain, ours = namespace(loader), namespace(loader)
    run_plain(CELL, plain)
    run_accumulated(CELL, ours, n)
    assert ours["losses"] == pytest.approx(plain["losses"], rel=1e-9)
    for mine, theirs in zip(ours["model"].parameters(), plain["model"].parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)
    assert accum_magic.last_run().verdict == "exact"


def test_another_number_of_terms_is_seen():
    loader = [(X, PADDED, c) for c in (PLAIN, penalised, SUM, penalised, PLAIN)]
    plain, ours = namespace(loader), namespace(loader)
    run_plain(CELL, plain)
    run_accumulated(CELL, ours, 3)
    for mine, theirs in zip(ours["model"].parameters(), plain["model"].parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def test_a_loss_in_float16_is_as_large_as_its_micro_batches():
    weight = torch.full((1,), 200.0, dtype=torch.float16, requires_grad=True)
    x = torch.full((4,), 200.0, dtype=torch.float16)  # a loss of 40,000; float16 ends at 65,504
    ours = {"x": x, "weight": weight}
    run_accumulated("loss = (x * weight).mean()\nloss.backward()", ours, 2)
    assert ours["loss"] == 40_000
