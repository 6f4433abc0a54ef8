"""Values that a step leaves, and what a probe must leave untouched."""

# ruff: noqa: ARG005  all values of a table are made alike

import gc
import random
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from accum_magic.engine.facts import Constant, Joined, Scalar, Unknown
from accum_magic.engine.probe import probe

X = torch.randn(8, 4)
Y = torch.randint(0, 3, (8,))
MODEL = nn.Linear(4, 3)
LENGTHS = (4, 3)


def facts_of(*make, k=3):
    def forward(n):
        out = MODEL(X[:n])
        return (out.square().mean(),), tuple(each(out, n) for each in make)

    return probe(forward, k)


def leaf(make, k=3):
    ((found,),) = facts_of(make, k=k).values
    return found


GLOBAL = 0.3
VALUES = {
    "output": (lambda o, n: o, Joined(0)),
    "predictions": (lambda o, n: o.argmax(1), Joined(0)),
    "transposed": (lambda o, n: o.detach().T, Joined(1)),
    "flattened": (lambda o, n: o.reshape(-1), Joined(0)),
    "flattened without a graph": (lambda o, n: o.detach().reshape(-1), Joined(0)),
    "loss": (lambda o, n: o.mean(), Scalar("mean")),
    "one-element loss": (lambda o, n: o.sum().reshape(1), Scalar("sum")),
    "parameter": (lambda o, n: MODEL.weight, Constant()),
    "from parameters": (lambda o, n: MODEL.weight.exp(), Constant()),
    "text": (lambda o, n: "text", Constant()),
    "none": (lambda o, n: None, Constant()),
    "module": (lambda o, n: MODEL, Constant()),
    "counter": (lambda o, n: 17, Constant()),
    "coefficient": (lambda o, n: GLOBAL * 2, Constant()),
    "positions": (lambda o, n: torch.arange(3), Constant()),
}


@pytest.mark.parametrize(("make", "expected"), VALUES.values(), ids=VALUES)
def test_values_that_recombine(make, expected):
    assert leaf(make) == expected


UNKNOWN = {
    "detached mean": (lambda o, n: o.detach().mean(), "a number without a graph"),
    "loss.item()": (lambda o, n: o.mean().item(), "a number without a graph"),
    "right answers": (lambda o, n: (o.argmax(1) == Y[:n]).sum().item(), "a number without a graph"),
    "equal by chance": (lambda o, n: int((o > 1e9).sum()), "a number without a graph"),
    "accuracy by hand": (lambda o, n: (o > 1e9).sum().item() / n, "a number without a graph"),
    "samples": (lambda o, n: n, "a number without a graph"),
    "similarities": (lambda o, n: o @ o.T, "several of its dimensions grow"),
    "features": (lambda o, n: o.mean(0), "several values that are reduced over the batch"),
    "statistics": (lambda o, n: o.detach().mean(0), "it depends on the batch and has no batch dimension"),
    "both views": (lambda o, n: torch.cat([o, -o]), "more than once"),
    "both views, no graph": (lambda o, n: torch.cat([o, -o]).detach(), "do not follow each other sample by sample"),
    "selected": (lambda o, n: o[o > 1e9], "the data decide how many rows it has"),
    "object": (lambda o, n: SimpleNamespace(loss=o), "a SimpleNamespace that the step builds anew"),
    "rmse": (lambda o, n: o.square().mean().sqrt(), "the square root"),
}


@pytest.mark.parametrize(("make", "reason"), UNKNOWN.values(), ids=UNKNOWN)
def test_values_that_do_not(make, reason):
    found = leaf(make)
    text = found.reason if isinstance(found, Unknown) else " ".join(found.reasons)
    assert isinstance(found, (Unknown, Scalar))
    assert reason in text


def test_a_value_does_not_spoil_the_verdict():
    assert facts_of(lambda o, n: o.square().mean().sqrt()).exact


def test_nested_values_follow_the_order_of_the_tree():
    found = facts_of(lambda o, n: {"b": o, "a": (o.sum(), None)}).values
    assert found == ((Joined(0), Scalar("sum"), Constant()),)


def test_graphs_are_gone_and_facts_hold_no_tensor():
    kept = []

    def forward(n):
        out = MODEL(X[:n])
        loss = out.mean()
        kept.extend([weakref.ref(out), weakref.ref(loss)])
        return (loss,), (out,)

    facts = probe(forward, 3)
    gc.collect()
    assert all(reference() is None for reference in kept)
    assert hash(facts) == hash(facts)


def test_random_states_and_buffers_are_put_back():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    seen = []

    def forward(n):
        seen.append((random.random(), np.random.rand(), torch.rand(())))  # noqa: NPY002
        return (model(X[:n]).mean(),), ()

    facts = probe(forward, 3)
    assert seen[0] == seen[1]
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert np.array_equal(states[2][1], np.random.get_state()[1])  # noqa: NPY002
    assert all(torch.equal(buffers[name], buffer) for name, buffer in model.named_buffers())
    assert facts.notes == ("random layers (Dropout) draw other random numbers than the plain cell (same law)",)


def test_all_is_put_back_when_the_forward_raises():
    model = nn.BatchNorm1d(4)
    state = torch.get_rng_state()

    def forward(n):
        model(X[:n] + torch.rand(n, 4))
        raise ValueError(n)

    with pytest.raises(ValueError, match="3"):
        probe(forward, 3)
    assert model.num_batches_tracked == 0
    assert torch.equal(model.running_mean, torch.zeros(4))
    assert torch.equal(state, torch.get_rng_state())
    assert not nn.modules.module._global_forward_pre_hooks


def test_saved_bytes_follow_the_samples():
    a, b = facts_of().saved_bytes
    full_input = X.numel() * 4
    assert (a, b) == (full_input, 3 * 4)  # all of x is alive; `square` saves the output
