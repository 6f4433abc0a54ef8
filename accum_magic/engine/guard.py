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
_RELEASES = (False, True)  # whether garbage is collected too, which takes longer
_HELD_IN_BACKWARD = 2  # times the largest saved tensor: a layer's incoming and outgoing gradient


class BudgetGuard(SavedTensors):
    """Raise `BudgetExceededError` from within a forward or backward that needs more than a budget allows."""

    def __init__(self, meter: Meter, budget_bytes: int) -> None:
        super().__init__()
        self._meter, self._budget = meter, budget_bytes
        self._step = max(1, (budget_bytes - meter.now_bytes()) // _READS)
        self._next_read = 0
        self._largest = 0
        self._releases = 0

    def _pack(self, tensor: torch.Tensor) -> Any:
        held = super()._pack(tensor)
        self._largest = max(self._largest, tensor.nbytes)  # of a view its own: a batch may be cut from a large data set
        if self.now_bytes >= self._next_read:
            self._next_read = self.now_bytes + self._step
            self.check()
        return held

    def _unpack(self, held: Any) -> torch.Tensor:
        self.check(in_backward=True)
        return super()._unpack(held)

    def check(self, *, in_backward: bool = False) -> None:
        """Read the memory in use; a backward that is still to come needs some more.

        Raises:
            BudgetExceededError: The budget does not allow it.

        """
        reserve = 0 if in_backward else _HELD_IN_BACKWARD * self._largest
        needed = self._meter.now_bytes() + reserve
        while needed > self._budget and self._releases < len(_RELEASES):
            # garbage, and what an allocator keeps of earlier micro-batches, are no need
            self._meter.release(collects=_RELEASES[self._releases])
            self._releases += 1
            needed = self._meter.now_bytes() + reserve
        if needed > self._budget:
            raise BudgetExceededError(needed, self._budget)
