"""A memory budget where no allocator keeps one: a forward or backward that would burst it stops with an error.

On a CPU the machine swaps, or kills the process, where an accelerator raises. So while a micro-batch runs whose
memory is not known to fit, the bytes that autograd saves are added up and the memory in use is read as they grow.
"""

from __future__ import annotations

from typing import Any

import torch

from accum_magic.engine.memory import Meter
from accum_magic.engine.saved import SavedTensors
from accum_magic.errors import BudgetExceededError

_READS = 32  # of the memory in use, while what is free is used up
_HELD_IN_BACKWARD = 2  # times the largest saved tensor: a layer's incoming and outgoing gradient


class BudgetGuard(SavedTensors):
    """Raise `BudgetExceededError` from within a forward or backward that needs more than a budget allows."""

    def __init__(self, meter: Meter, budget_bytes: int) -> None:
        super().__init__()
        self._meter, self._budget = meter, budget_bytes
        self._before = meter.now_bytes()
        self._step = max(1, (budget_bytes - self._before) // _READS)
        self._next_read = self._step
        self._largest = 0

    def _pack(self, tensor: torch.Tensor) -> Any:
        held = super()._pack(tensor)
        self._largest = max(self._largest, held.nbytes)
        reserve = _HELD_IN_BACKWARD * self._largest
        if self._before + self.now_bytes + reserve > self._budget:
            self._refuse(self._before + self.now_bytes + reserve)
        if self.now_bytes >= self._next_read:
            self._next_read = self.now_bytes + self._step
            in_use = self._meter.now_bytes()
            if in_use + reserve > self._budget:
                self._refuse(in_use + reserve)
        return held

    def check(self) -> None:
        """Read the memory in use: between a forward and its backward, and where a micro-batch begins."""
        in_use = self._meter.now_bytes()
        if in_use > self._budget:
            self._refuse(in_use)

    def _refuse(self, needed: int) -> None:
        raise BudgetExceededError(needed, self._budget)
