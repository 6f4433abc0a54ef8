"""A step that builds another graph in mid-run is measured anew, and leaves what N forward passes leave."""

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody writes it
from torch import nn

import accum_magic
from accum_magic.engine.run import begin

X = torch.randn(22, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
Y = torch.arange(22) % 4
N = 3


class Counting(nn.Module):
    """Counts its calls and draws a number in each."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        self.calls += 1
        return x + torch.rand(())


@pytest.fixture(autouse=True)
def run():
    run = begin()
    yield run
    run.end()


def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 4), Counting(), nn.Dropout(0.3)).double()


def losses(model, kind):
    """Several kinds of steps, each with a graph of its own."""

    def micro_step(x, y):
        out = model(x)
        if kind == "of four at least" and len(x) < 4:
            raise ValueError("four at least")
        loss = {
            "cross entropy": lambda: F.cross_entropy(out, y),
            "mean": lambda: out.square().mean(),
            "sum": lambda: out.square().sum(),
            "of four at least": lambda: out.square().sum().sqrt(),
        }[kind]()
        return (loss,), (loss,)

    return micro_step


KINDS = ("cross entropy", "mean", "mean", "sum", "cross entropy", "sum")


def by_hand(model, kind, pieces):
    shares = [1.0 if kind == "sum" else len(piece) / len(X) for piece in pieces]
    for piece, target, share in zip(pieces, Y.split([len(p) for p in pieces]), shares, strict=True):
        ((loss,), _) = losses(model, kind)(piece, target)
        (loss * share).backward()


def test_no_forward_pass_more_than_micro_batches():
    model, plain = make(), make()
    hand = copy.deepcopy(model)
    torch.manual_seed(7)
    for kind in KINDS:
        by_hand(hand, kind, X.tensor_split(N))
    drawn = torch.get_rng_state()
    torch.manual_seed(7)
    for kind in KINDS:
        accum_magic.step(losses(model, kind), {"x": X, "y": Y}, n=N, read=("loss",))
    assert torch.equal(torch.get_rng_state(), drawn)
    assert model[2].calls == hand[2].calls == len(KINDS) * N
    for mine, theirs in zip(model.parameters(), hand.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-9, atol=1e-12)
    for _ in KINDS:
        plain(X)
    for mine, theirs in zip(model[0].buffers(), plain[0].buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=0.0)


def test_a_layer_that_is_switched_to_training_in_mid_run_moves_once_per_batch():
    model = make()
    plain = copy.deepcopy(model[0])
    for training in (False, False, True, True, False, True):
        model.train(training)
        plain.train(training)
        plain(X)
        accum_magic.step(losses(model, "mean"), {"x": X, "y": Y}, n=N, read=("loss",))
    assert plain.num_batches_tracked == 3
    for mine, theirs in zip(model[0].buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=0.0)
    assert any("BatchNorm in training mode (0)" in reason for reason in accum_magic.last_run().reasons)


def test_what_cannot_be_measured_anew_is_refused_before_any_gradient_has_changed():
    model = make()
    accum_magic.step(losses(model, "mean"), {"x": X, "y": Y}, n=N, read=("loss",))
    before = [p.grad.clone() for p in model.parameters()]
    statistics = [b.clone() for b in model[0].buffers()]
    with pytest.raises(accum_magic.AccumulateError, match=r"fails on 2 or 3 samples \(four at least\)"):
        accum_magic.step(losses(model, "of four at least"), {"x": X, "y": Y}, n=N, read=("loss",))
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))
    assert all(torch.equal(b, s) for b, s in zip(model[0].buffers(), statistics, strict=True))
    assert not model[0]._forward_hooks
