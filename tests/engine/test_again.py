"""A module that is called once more for a later loss: its buffers move once, and an update in between is noticed."""

import pytest
import torch
from torch import nn

import accum_magic


def test_buffers_are_put_back():
    generator = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    x = torch.randn(5, 2)
    again = accum_magic.Again(generator)
    generator(x)
    once = {name: buffer.clone() for name, buffer in generator.named_buffers()}
    again.begin("fake", 7)
    generator(x)
    assert not torch.equal(generator[1].running_mean, once["1.running_mean"])
    again.end()
    assert all(torch.equal(buffer, once[name]) for name, buffer in generator.named_buffers())


def test_an_update_in_between_is_refused():
    generator = nn.Linear(2, 3)
    optimizer = torch.optim.SGD(generator.parameters(), lr=0.1)
    again = accum_magic.Again(generator)
    generator(torch.ones(1, 2)).sum().backward()
    again.begin("fake", 7)  # gradients alone change nothing
    optimizer.step()
    with pytest.raises(accum_magic.AccumulateError) as caught:
        again.begin("fake", 7)
    assert str(caught.value) == (
        "line 7: `fake` carries a graph from before an update of the module that made it, so it cannot be computed "
        "again for this loss. Compute `fake` again after that update, right before line 7."
    )
