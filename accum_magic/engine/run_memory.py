"""The memory of one run: its meter, its budget, and what the memory is used for."""

from __future__ import annotations

from collections.abc import Collection

import torch

from accum_magic.engine.budget import Budget, BudgetOfRun, budget_of
from accum_magic.engine.footprint import Footprint, Holdings
from accum_magic.engine.memory import Meter, meter_for
from accum_magic.errors import BudgetError

_STEPS_BEFORE_ALL_STATE = 2  # optimizers make their state in their first step


class RunMemory:
    """Measures the device that a run is on. Views ask from another thread: nothing here raises for them."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.meter: Meter = meter_for(self.device)
        self.holdings = Holdings()
        self._rest_bytes = self.meter.now_bytes()
        self._asked: str | None = None
        self._budget: BudgetOfRun | None = None

    def use_device(self, device: torch.device) -> None:
        """Measure an accelerator that the batch is on."""
        if device.type != "cpu":
            self.device, self.meter = device, meter_for(device)

    def begin_step(self, memory: str | None, steps: int) -> None:
        """Keep to the budget that a step asks for, and look at what is there before its activations.

        Raises:
            BudgetError: More is in use already.

        """
        if memory != self._asked:
            try:
                budget_of(self.meter, memory)
            except BudgetError:
                self.meter.release()  # what nobody holds any more is no use
                budget_of(self.meter, memory)
            self._asked, self._budget = memory, None
        if steps < _STEPS_BEFORE_ALL_STATE:
            self._rest_bytes = self.meter.now_bytes()

    def reach(self, parameters: Collection[torch.Tensor]) -> None:
        """Take note of the parameters of a step; where they are on an accelerator, the batch is moved there."""
        self.holdings.reach(parameters)
        if self.device.type == "cpu":
            self.use_device(next((p.device for p in parameters), self.device))

    @property
    def is_watched(self) -> bool:
        """Whether nothing else stops the run at its budget, as an accelerator's allocator does at its limit."""
        return self.device.type == "cpu" or self.is_asked

    @property
    def is_asked(self) -> bool:
        """Whether the user has named a budget."""
        return self._asked is not None

    @property
    def budget(self) -> Budget:
        """The budget, resolved when it is first asked for."""
        return self._resolved().budget

    def free_bytes(self) -> int:
        """Return what the run may still take, below 0 where it has taken more; limits are read once a second."""
        return self._resolved().free_bytes()

    def _resolved(self) -> BudgetOfRun:
        found = self._budget
        if found is None or found.meter is not self.meter:
            found = self._budget = BudgetOfRun(self.meter, self._asked)
        return found

    def count(self) -> None:
        """Count what the memory is used for, now and then."""
        self.holdings.count(self.device)

    def footprint(self, peak_bytes: int, activation_bytes: float | None, *, anew: bool = True) -> Footprint:
        """Divide a peak by what it is for."""
        return self.holdings.footprint(self.device, peak_bytes, self._rest_bytes, activation_bytes, anew=anew)
