"""Scheduler steps are counted for the length of a run, whatever the scheduler is made of, and nothing stays behind."""

import warnings

import accelerate
import pytest
import torch
from torch.optim import lr_scheduler as schedulers

import accum_magic
from accum_magic.engine.run import begin


class Halving(schedulers.LRScheduler):
    """A user's own, which calls its parent's step."""

    def get_lr(self):
        return [0.5 * group["lr"] for group in self.optimizer.param_groups]

    def step(self, epoch=None):
        super().step(epoch)


MADE = {
    "step": lambda o: schedulers.StepLR(o, 2),
    "plateau": schedulers.ReduceLROnPlateau,
    "sequential": lambda o: schedulers.SequentialLR(
        o, [schedulers.ConstantLR(o), schedulers.ExponentialLR(o, 0.9)], [2]
    ),
    "chained": lambda o: schedulers.ChainedScheduler([schedulers.ConstantLR(o), schedulers.ExponentialLR(o, 0.9)], o),
    "restarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 3),
    "one_cycle": lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=50),
    "own": Halving,
}


@pytest.fixture
def optimizer():
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)


def steps_of(kind, scheduler, times):
    for _ in range(times):
        scheduler.optimizer.step()
        scheduler.step(*([1.0] if kind == "plateau" else []))


@pytest.mark.parametrize("kind", MADE)
def test_each_step_counts_once(kind, optimizer):
    before, run = MADE[kind](optimizer), begin()
    steps_of(kind, before, 3)
    steps_of(kind, MADE[kind](optimizer), 2)  # one made in the cell: its first step is not the user's
    run.end()
    steps_of(kind, before, 1)
    assert run.snapshot().scheduler_steps == accum_magic.last_run().scheduler_steps == 5


def test_through_accelerate(optimizer):
    accelerator = accelerate.Accelerator(cpu=True)
    prepared, scheduler = accelerator.prepare(optimizer, schedulers.StepLR(optimizer, 2))
    run = begin()
    for _ in range(3):
        prepared.step()
        scheduler.step()
    run.end()
    assert run.summary().scheduler_steps == 3


def test_classes_are_as_they_were_behind_a_run():
    own = {kind: dict(vars(kind)) for kind in (schedulers.LRScheduler, schedulers.SequentialLR, Halving)}
    first = begin()
    begin().end()  # a run that begins within another, as after an error that kept the first from ending
    first.end()
    assert {kind: dict(vars(kind)) for kind in own} == own


def test_a_warning_names_the_line_that_has_called_the_scheduler(optimizer):
    run = begin()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        schedulers.StepLR(optimizer, 2).step()  # before the optimizer's
    run.end()
    assert [w.filename for w in caught] == [__file__]
