"""What a run tells: a snapshot while it goes on, a summary of what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from accum_magic.engine.control import State
from accum_magic.engine.events import Event
from accum_magic.engine.footprint import Footprint
from accum_magic.engine.noise import NoiseScale

Verdict = Literal["exact", "approximate"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a view needs to know, as plain numbers."""

    steps: int
    total_steps: int | None
    micro_batch: int  # the running one, 1-based
    micro_batches: int  # of the running step
    samples: int
    loss: float | None
    memory_bytes: int
    peak_bytes: int
    elapsed_s: float
    samples_per_s: float
    remaining_s: float | None
    limit_bytes: int  # the run's budget
    footprint: Footprint
    state: State | Literal["ended"] = "running"
    n: int | None = None  # what the user has asked for since the cell began
    sizes: tuple[int, ...] = ()  # samples of the running step's micro-batches
    is_in_step: bool = False
    optimizer_steps: int = 0
    scheduler_steps: int = 0
    rescues: int = 0
    plain_bytes: float | None = None  # the estimated peak of the plain cell
    verdict: Verdict | None = None  # None before a step has been measured
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What became of a run.

    `losses` holds the last 10,000 full-batch losses as numbers; `peak_bytes` is the process's resident
    memory on a CPU, allocated memory on an accelerator; `activation_bytes` estimates what autograd keeps
    for one micro-batch and `plain_activation_bytes` what it would keep for the whole batch, by a line
    through the two runs of the probe (None where nothing was split); `micro_batches` counts all that ran;
    `noise_scale` and its standard error are in samples (None without `--noise`, or where it cannot be told);
    `budget_bytes` is what `--memory` allows, or by default what there is less a margin; `footprint` divides the peak by
    what it is for; `events` holds the last 1,000: a `StepDone` for each step with its number of micro-batches, which
    under `auto` changes, and a `MicroBatchRescued` for each one that ran out of memory and ran again in smaller pieces.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    optimizer_steps: int
    micro_batches: int
    steps: int
    samples: int
    peak_bytes: int
    elapsed_s: float
    samples_per_s: float
    activation_bytes: float | None
    plain_activation_bytes: float | None
    losses: tuple[float, ...]
    events: tuple[Event, ...]
    noise_scale: float | None = None
    noise_scale_error: float | None = None
    budget_bytes: int | None = None
    footprint: Footprint | None = None
    stopped_after: int | None = None
    total_steps: int | None = None
    scheduler_steps: int = 0

    def __str__(self) -> str:
        """Return one line with the counts and the verdict, and one line per reason and note."""
        if not self.steps:
            return "accum_magic: no training step has run"
        per_step = self.micro_batches / self.steps
        line = (
            f"accum_magic: {self.verdict} · {self._stopped()}{_count(self.optimizer_steps, 'optimizer step')} · "
            f"{_count(self.micro_batches, 'micro-batch', 'micro-batches')} ({per_step:.3g} per step) · "
            f"{_count(self.samples, 'sample')} in {self.elapsed_s:.1f} s ({self.samples_per_s:,.0f}/s) · "
            f"{self._memory()}"
        )
        why = [f"  approximate: {reason}" for reason in self.reasons]
        noise = [] if self.noise_scale is None else [f"  {NoiseScale(self.noise_scale, self.noise_scale_error or 0.0)}"]
        return "\n".join([line, *why, *noise, *(f"  note: {note}" for note in self.notes)])

    def _stopped(self) -> str:
        if self.stopped_after is None:
            return ""
        of = "" if self.total_steps is None else f" of {self.total_steps:,}"
        return f"stopped after step {self.stopped_after:,}{of} · "

    def _memory(self) -> str:
        process = f"process peak {self.peak_bytes / 2**20:,.0f} MiB"
        if self.activation_bytes is None or self.plain_activation_bytes is None:
            return process
        ours, plain = _mebibytes(self.activation_bytes), _mebibytes(self.plain_activation_bytes)
        return f"activations about {ours} (plain cell: {plain}), {process}"


def _mebibytes(count: float) -> str:
    return f"{count / 2**20:,.1f} MiB"


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
