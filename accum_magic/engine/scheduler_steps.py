"""Counts the steps of learning-rate schedulers during a run: PyTorch has no hook for them, as it has for optimizers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

from torch.optim.lr_scheduler import LRScheduler

_METHODS = ("step", "_initial_step")


@dataclass(slots=True)
class SchedulerSteps:
    """Counts the `scheduler.step()` of the cell and of what it calls, each once.

    Those that a scheduler takes within its own, or begins with, are not counted.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> steps = SchedulerSteps()
    >>> steps.begin()
    >>> scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    >>> optimizer.step(); scheduler.step()
    >>> steps.end()
    >>> scheduler.step()
    >>> steps.count
    1
    """

    count: int = 0
    _inside: set[CodeType] = field(default_factory=set)
    _own: list[tuple[type, Callable[..., Any]]] = field(default_factory=list)

    def begin(self) -> None:
        """Count from now on."""
        kinds: list[type] = [LRScheduler, *_kinds(LRScheduler)]
        for kind in dict.fromkeys(kinds):
            own = [vars(kind)[name] for name in _METHODS if name in vars(kind)]
            self._inside |= {method.__code__ for method in own if hasattr(method, "__code__")}
            if "step" in vars(kind):
                self._own.append((kind, own[0]))
                setattr(kind, "step", _Counted(self, own[0]))  # noqa: B010 - mypy takes it for an override

    def end(self) -> None:
        """Let schedulers be as they were."""
        while self._own:
            kind, own = self._own.pop()
            setattr(kind, "step", own)  # noqa: B010 - the same

    def asked_for(self, caller: CodeType) -> None:
        """Count a step, unless it is a scheduler that takes it."""
        self.count += caller not in self._inside


class _Counted:
    """Stands in a scheduler's class for its `step`.

    It counts when `step` is looked up, and hands out the method itself: so no frame of ours stands between the user's
    line and a warning of the scheduler, which names the line that has called it.
    """

    def __init__(self, steps: SchedulerSteps, own: Callable[..., Any]) -> None:
        self._steps, self._own = steps, own

    def __get__(self, scheduler: object | None, kind: type) -> Any:
        if scheduler is None:
            return self._own
        self._steps.asked_for(sys._getframe(1).f_code)
        return self._own.__get__(scheduler, kind)


def _kinds(kind: type[LRScheduler]) -> Iterator[type[LRScheduler]]:
    for one in kind.__subclasses__():
        yield one
        yield from _kinds(one)
