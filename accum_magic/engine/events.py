"""What the engine tells whoever listens: frozen values, no tensor among them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A cell begins to run."""


@dataclass(frozen=True, slots=True)
class StepMeasured:
    """The probe has looked at a step, before its first update."""

    line: int
    reasons: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StepDone:
    """The gradients of a step are complete."""

    step: int
    samples: int
    micro_batches: int


@dataclass(frozen=True, slots=True)
class MicroBatchRescued:
    """A micro-batch has run out of memory, and runs again in smaller pieces."""

    line: int
    samples: int
    pieces: int


@dataclass(frozen=True, slots=True)
class NChanged:
    """From a step on, each is cut into `n` micro-batches, as the user has asked while the cell ran."""

    step: int
    n: int


@dataclass(frozen=True, slots=True)
class NoiseEstimated:
    """The gradient noise scale of the run and its standard error, in samples."""

    noise_scale: float
    error: float


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The cell has ended, or failed."""


Event = RunStarted | StepMeasured | StepDone | MicroBatchRescued | NChanged | NoiseEstimated | RunEnded
