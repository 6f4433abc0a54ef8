import gc

import pytest
import torch
from torch import nn

from accum_magic.engine.saved import SavedTensors


def test_activations_are_counted_once_and_parameters_not():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    with SavedTensors() as saved:
        loss = model(torch.ones(16, 8)).mean()
    assert saved.now_bytes == saved.peak_bytes == 2 * 16 * 8 * 4
    loss.backward()
    assert (saved.now_bytes, saved.peak_bytes) == (0, 1024)


def test_what_a_dropped_graph_held_is_taken_off():
    weight = torch.ones(4, requires_grad=True)
    with SavedTensors() as saved:
        first = (weight * 2).exp()
        assert saved.now_bytes >= 16
        del first
        gc.collect()
        assert saved.now_bytes == 0
        second = (weight * 2).exp()
    assert saved.now_bytes == saved.peak_bytes
    del second
    assert saved.now_bytes == 0


def test_gradients_are_those_without_the_counter():
    x = torch.randn(5, 8)
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Tanh())
    model(x).square().sum().backward()
    plain = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    with SavedTensors():
        loss = model(x).square().sum()
    loss.backward()
    assert all(torch.equal(mine, p.grad) for mine, p in zip(plain, model.parameters(), strict=True))


def fail(counter):
    with counter:
        torch.ones(3, requires_grad=True).exp()
        raise KeyError


def test_a_failing_block_is_left_clean():
    counter = SavedTensors()
    with pytest.raises(KeyError):
        fail(counter)
    before = counter.peak_bytes
    torch.ones(3, requires_grad=True).exp().sum()
    assert counter.peak_bytes == before > 0


def test_a_retained_graph_stays_counted():
    x = torch.ones(4, requires_grad=True)
    with SavedTensors() as saved:
        loss = (x * 2).exp().sum()
    held = saved.now_bytes
    loss.backward(retain_graph=True)
    assert saved.now_bytes == held > 0
