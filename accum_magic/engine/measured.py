"""What `auto` learns from a step: the time and the peak of the memory of each of its micro-batches."""

from __future__ import annotations

from dataclasses import dataclass

from accum_magic.engine.clock import Clock
from accum_magic.engine.planner import Auto, Memory, Sizes


@dataclass(slots=True, eq=False)
class Measured:
    """One step of a plan that still learns."""

    plan: Auto
    unit: float
    memory: Memory
    clock: Clock
    sizes: Sizes = ()

    def begins(self) -> None:
        """Tell that a micro-batch begins."""
        self.memory.meter.begin_step()

    def ends(self, size: int) -> None:
        """Tell that a micro-batch of a size has ended."""
        self.clock.lap()
        self.plan.observe(size, self.unit, self.memory.meter.step_peak_bytes(), self.memory)
        self.sizes = (*self.sizes, size)

    def was_whole(self, sizes: Sizes) -> None:
        """Tell that a step has ended whose micro-batches cannot be told apart: each takes its part of the time."""
        self.ends(max(sizes))
        self.sizes = sizes

    def told(self) -> bool:
        """Hand the times over to the plan; False while the device still works on the step."""
        seconds = self.clock.seconds()
        if seconds is None:
            return False
        if len(seconds) < len(self.sizes):
            seconds = tuple(sum(seconds) * size / sum(self.sizes) for size in self.sizes)
        self.plan.timed(self.sizes, self.unit, seconds)
        return True
