"""What optimizers will hold from their first step on, beside what they really hold after it."""

import pytest
import torch
from torch import nn

import accum_magic
from accum_magic.engine.pending import gradient_bytes, missing_gradients, missing_state
from accum_magic.engine.run import begin
from accum_magic.testing import run_accumulated

OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "Adam": torch.optim.Adam,
    "amsgrad": lambda p: torch.optim.Adam(p, amsgrad=True),
    "AdamW": torch.optim.AdamW,
    "RMSprop": torch.optim.RMSprop,
    "RMSprop, centered": lambda p: torch.optim.RMSprop(p, momentum=0.9, centered=True),
    "Adagrad": torch.optim.Adagrad,
    "Adadelta": torch.optim.Adadelta,
    "NAdam": torch.optim.NAdam,
    "Adafactor": torch.optim.Adafactor,
    "foreach": lambda p: torch.optim.Adam(p, foreach=True),
    "fused": lambda p: torch.optim.Adam(p, fused=True),
}
CELL = """\
for x, y in loader:
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(x), y)
    loss.backward()
    optimizer.step()
"""


def model(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64)).to(dtype)


def held(optimizer):
    """Bytes of the state that is there, single numbers aside."""
    tensors = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
    return sum(t.numel() * t.element_size() for t in tensors if t.ndim)


def trained(net, optimizer):
    dtype = next(net.parameters()).dtype
    net(torch.ones(2, 64, dtype=dtype)).sum().backward()
    optimizer.step()


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_it_tells_what_the_first_step_makes(kind):
    net = model(torch.float64 if kind == "Adam" else torch.float32)
    optimizer = OPTIMIZERS[kind](net.parameters())
    told, before = missing_state(net.parameters()), held(optimizer)  # Adagrad makes its own at once
    trained(net, optimizer)
    made = held(optimizer) - before
    total = sum(p.numel() * p.element_size() for p in net.parameters())
    if kind == "Adafactor":  # keeps rows and columns, and is taken to keep all
        assert made < told <= total
    else:
        assert told == made
    assert missing_state(net.parameters()) == 0


@pytest.mark.parametrize("kind", ["momentum", "Adam"])
def test_asking_changes_nothing(kind):
    net = model()
    optimizer = OPTIMIZERS[kind](net.parameters())
    before = [p.detach().clone() for p in net.parameters()]
    random = torch.get_rng_state()
    run = begin()
    try:
        trained(net, optimizer)  # which puts the guard around `step`
        step, done = type(optimizer).step, run.optimizer_steps
        optimizer.state.clear()
        before = [p.detach().clone() for p in net.parameters()]
        assert missing_state(net.parameters()) > 0
        assert (run.optimizer_steps, type(optimizer).step) == (done, step)
    finally:
        run.end()
    assert not optimizer.state
    assert all(map(torch.equal, before, net.parameters()))
    assert torch.equal(random, torch.get_rng_state())


def test_the_steps_of_a_run_under_auto_are_counted_as_the_cell_makes_them():
    net = model()
    loader = [(torch.randn(8, 64), torch.randn(8, 64))] * 3
    run_accumulated(
        CELL, {"nn": nn, "model": net, "loader": loader, "optimizer": torch.optim.Adam(net.parameters())}, "auto"
    )
    assert accum_magic.last_run().optimizer_steps == 3


def test_only_the_parameters_of_the_step_count():
    net, other = model(), model()
    optimizers = [torch.optim.Adam(m.parameters()) for m in (net, other)]
    size = sum(p.numel() * 4 for p in net.parameters())
    assert missing_state(net.parameters()) == 2 * size
    assert missing_state([*net[0].parameters()]) == 2 * sum(p.numel() * 4 for p in net[0].parameters())
    trained(other, optimizers[1])
    assert missing_state(net.parameters()) == 2 * size


def test_each_group_has_options_of_its_own():
    net = model()
    groups = [{"params": [net[0].weight], "momentum": 0.9}, {"params": [net[2].weight]}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    told = missing_state(net.parameters())
    trained(net, optimizer)
    assert told == held(optimizer) == net[0].weight.numel() * 4


class Named(torch.optim.Optimizer):
    """One whose constructor takes no `defaults`, and which cannot be asked."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})


def test_one_that_cannot_be_asked_is_taken_for_adam():
    net = model()
    optimizer = Named(net.parameters())
    assert missing_state(net.parameters()) == 2 * sum(p.numel() * 4 for p in net.parameters())
    del optimizer


def test_gradients_that_are_there_are_not_to_come():
    net = model()
    total = sum(p.numel() * 4 for p in net.parameters())
    assert (missing_gradients(net.parameters()), gradient_bytes(net.parameters())) == (total, 0)
    net(torch.ones(2, 64)).sum().backward()
    assert (missing_gradients(net.parameters()), gradient_bytes(net.parameters())) == (0, total)
    net[0].zero_grad()
    first = sum(p.numel() * 4 for p in net[0].parameters())
    assert (missing_gradients(net.parameters()), gradient_bytes(net.parameters())) == (first, total - first)
