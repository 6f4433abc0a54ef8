"""A step that fails on few samples: the user's own error, or one that says what needs the whole batch."""

import pytest
import torch
from torch import nn

import accum_magic
from accum_magic.engine.run import begin

X, Y = torch.randn(7, 4), torch.tensor([0, 1, 2, 0, 1, 2, 0])


@pytest.fixture(autouse=True)
def run():
    run = begin()
    yield
    run.end()


def step(forward, n=3):
    model = nn.Linear(4, 3)

    def micro_step(x, y):
        return (nn.functional.cross_entropy(model(forward(x)), y),), ()

    accum_magic.step(micro_step, {"x": X, "y": Y}, n=n)


def test_what_needs_the_whole_batch_is_told_with_the_error_as_its_cause():
    with pytest.raises(
        accum_magic.AccumulateError, match=r"fails on 3 of the batch's 7 samples \(shape '\[7, 4\]'"
    ) as caught:
        step(lambda x: x.view(7, 4))
    assert "Split were `x` and `y`: name another batch with --batch, or run the plain cell." in str(caught.value)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_an_error_of_the_plain_cell_is_the_plain_cells():
    with pytest.raises(RuntimeError, match=r"shape '\[5, 4\]' is invalid for input of size 28"):
        step(lambda x: x.view(5, 4))


def test_what_only_the_probe_cannot_run_names_its_samples():
    def forward(x):
        return x if len(x) > 2 else x[[2]]

    with pytest.raises(accum_magic.AccumulateError, match="fails on 2 or 3 samples") as caught:
        step(forward, n=2)
    assert isinstance(caught.value.__cause__, IndexError)


def test_the_trials_leave_nothing_behind():
    seen = []

    def forward(x):
        seen.append(len(x))
        return x.view(7, 4)

    with pytest.raises(accum_magic.AccumulateError):
        step(forward)
    assert seen == []
