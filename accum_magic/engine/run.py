"""A run: all steps of one cell, its counters and its summary."""

from __future__ import annotations

import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from accum_magic.engine.budget import Budget
from accum_magic.engine.control import Control
from accum_magic.engine.events import (
    Event,
    MicroBatchRescued,
    NChanged,
    NoiseEstimated,
    RunEnded,
    RunStarted,
    StepDone,
    StepMeasured,
)
from accum_magic.engine.footprint import Footprint
from accum_magic.engine.memory import Meter
from accum_magic.engine.noise import Noise, NoiseScale
from accum_magic.engine.optimizer_step import guard, let_interrupt_through, release
from accum_magic.engine.planner import Auto
from accum_magic.engine.run_memory import RunMemory
from accum_magic.engine.scheduler_steps import SchedulerSteps
from accum_magic.engine.site import Site
from accum_magic.engine.summary import RunSummary, Snapshot, Verdict

if TYPE_CHECKING:
    from accum_magic.engine.check import Check

LOSSES_KEPT = 10_000
EVENTS_KEPT = 1_000
_Wish = tuple[int | Literal["auto"] | None, int | None]  # N and --size
_FRAMES_TO_THE_CELL = 10  # learn, _check_facts, _look_at, _run_one, _failure, _run_many, run, _gradients_made, step


class ApproximateWarning(UserWarning):
    """A result is only approximate, in a run that no view shows."""


class Run:
    """The steps of one cell. The training thread writes plain attributes; views read `snapshot()`."""

    def __init__(
        self,
        total_steps: int | None = None,
        subscribers: tuple[Callable[[Event], None], ...] = (),
        *,
        is_shown: bool = True,
    ) -> None:
        self.total_steps = total_steps
        self.around: Run | None = None  # the run in which it began: a widget's handler may train, too
        self.is_shown = is_shown  # someone shows the summary; if not, a doubtful verdict is warned of
        self.subscribers = subscribers
        self.started_s = time.perf_counter()
        self.ended_s: float | None = None
        self.steps = self.samples = self.micro_batches_done = self.optimizer_steps = 0
        self.micro_batch = 0
        self.sizes: tuple[int, ...] = ()  # samples of the running step's micro-batches
        self.is_in_step = False
        self.is_measured = False  # what the verdict rests on
        self._n_told: int | None = None
        self.stopped_after: int | None = None  # steps, when the user's stop ended the first loop
        self.rescues = 0
        self.activation_bytes: float | None = None
        self.plain_activation_bytes: float | None = None
        self.loss: torch.Tensor | None = None
        self.losses: deque[torch.Tensor] = deque(maxlen=LOSSES_KEPT)
        self.events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self.reasons: dict[str, None] = {}
        self.notes: dict[str, None] = {}
        self.sites: dict[object, Site] = {}
        self.check: Check | None = None  # what each step is to be compared by
        self.noise = Noise()
        self.memory = RunMemory()
        self.control = Control()
        self.scheduler_steps = SchedulerSteps()
        self.peak_bytes = self.meter.now_bytes()
        self.footprint: Footprint | None = None  # of the run, once it has ended
        self.emit(RunStarted())

    def emit(self, event: Event) -> None:
        """Keep an event and hand it to the subscribers; one that fails is told no more (structlog's way)."""
        self.events.append(event)
        for subscriber in self.subscribers:
            try:
                subscriber(event)
            except Exception as error:  # noqa: BLE001 - a view must never break training
                self.subscribers = tuple(s for s in self.subscribers if s is not subscriber)
                self.note(f"a view failed and was switched off: {error!r}")

    def note(self, text: str) -> None:
        """Add a note to the summary."""
        self.notes[text] = None

    def learn(self, site: Site, frames: int = _FRAMES_TO_THE_CELL) -> None:
        """Take over what the probe of a step has found; a warning skips the frames up to the cell's."""
        self.is_measured = True
        self.reasons |= dict.fromkeys(site.reasons)
        self.notes |= dict.fromkeys(site.notes)
        if site.reasons and not self.is_shown:
            for reason in site.reasons:
                message = f"line {site.line}: the accumulated result is approximate: {reason}"
                warnings.warn(message, ApproximateWarning, stacklevel=frames)
        self.emit(StepMeasured(site.line, tuple(site.reasons), tuple(site.notes)))

    def estimate(self, activation_bytes: float, plain_activation_bytes: float) -> None:
        """Take over what a step keeps for its backward, and what the plain cell would."""
        self.activation_bytes = max(self.activation_bytes or 0.0, activation_bytes)
        self.plain_activation_bytes = max(self.plain_activation_bytes or 0.0, plain_activation_bytes)

    @property
    def meter(self) -> Meter:
        """Measures the memory of the device that the run is on."""
        return self.memory.meter

    @property
    def budget(self) -> Budget:
        """The bytes that the run may use."""
        return self.memory.budget

    def free_bytes(self) -> int:
        """Return what is left of the budget and of what other processes leave, below 0 where it is exceeded."""
        return self.memory.free_bytes()

    def step_begins(self, n: int | Literal["auto"] | None, size: int | None) -> _Wish:
        """Let commands act before a step, and return how it is to be cut: as the cell says, or as it was told since."""
        control = self.control
        control.boundary()
        self.is_in_step = True
        if control.n is None:
            return n, size
        if control.n != self._n_told:
            self._n_told = control.n
            self.emit(NChanged(self.steps + 1, control.n))
        return control.n, None

    def rescued(self, site: Site, samples: int, pieces: int) -> None:
        """Count a micro-batch that has run out of memory, and runs again in pieces."""
        self.rescues += 1
        self.emit(MicroBatchRescued(site.line, samples, pieces))

    def step_done(self, samples: int, micro_batches: int, loss: torch.Tensor | None) -> None:
        """Count a step whose gradients are complete."""
        self.is_in_step = False
        self.steps += 1
        self.samples += samples
        self.micro_batches_done += micro_batches
        if loss is not None:
            self.loss = loss
            self.losses.append(loss)
        self.memory.count()
        self.emit(StepDone(self.steps, samples, micro_batches))

    def end(self) -> None:
        """End the run: clocks stop, and steps no longer count for it."""
        self.scheduler_steps.end()
        if _Runs.current is self:
            _Runs.current = self._still_running()
            release()
            if _Runs.current is not None:
                _Runs.current.scheduler_steps.begin()
        if self.ended_s is None:
            self.ended_s = time.perf_counter()
            _Runs.last = _Runs.current or self
            self.peak_bytes = self.meter.peak_bytes()
            self.footprint = self.memory.footprint(self.peak_bytes, self.activation_bytes)
            for site in self.sites.values():
                if isinstance(site.plan, Auto):
                    self.note(site.plan.told(site.where))
            if self.rescues:
                one = self.rescues == 1
                what = "1 micro-batch" if one else f"{self.rescues:,} micro-batches"
                self.note(f"{what} ran out of memory, and ran again in smaller pieces")
            self.sites.clear()  # they know the user's modules
            self.control.forget()
            estimate = self.noise.estimate()
            if isinstance(estimate, NoiseScale):
                self.emit(NoiseEstimated(estimate.samples, estimate.error))
            elif estimate is not None:
                self.note(estimate)
            self.emit(RunEnded())

    def _still_running(self) -> Run | None:
        """Return the innermost run around this one that has not ended; the links on the way are cut."""
        run: Run | None = self
        while run is not None and (run is self or run.ended_s is not None):
            run.around, run = None, run.around
        return run

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run began, or that it took."""
        return (self.ended_s or time.perf_counter()) - self.started_s

    def snapshot(self) -> Snapshot:
        """Return the counters of now; reading the loss waits for the device, on the caller's thread."""
        elapsed, loss = self.elapsed_s, self.loss
        remaining, now, peak = None, self.meter.now_bytes(), self.meter.peak_bytes()
        if self.total_steps and self.steps:
            remaining = elapsed / self.steps * max(0, self.total_steps - self.steps)
        return Snapshot(
            self.steps, self.total_steps, self.micro_batch, len(self.sizes), self.samples,
            None if loss is None else float(loss), now, peak, elapsed,
            self.samples / elapsed if elapsed else 0.0, remaining, self.budget.bytes,
            self.memory.footprint(peak, self.activation_bytes, anew=False),
            state="ended" if self.ended_s is not None else self.control.state, n=self.control.n, sizes=self.sizes,
            is_in_step=self.is_in_step, optimizer_steps=self.optimizer_steps,
            scheduler_steps=self.scheduler_steps.count, rescues=self.rescues, plain_bytes=self._plain_bytes(peak),
            verdict=self._verdict() if self.is_measured or self.steps else None,
            reasons=tuple(self.reasons), notes=tuple(self.notes),
        )  # fmt: skip

    def _verdict(self) -> Verdict:
        return "approximate" if self.reasons else "exact"

    def _plain_bytes(self, peak_bytes: int) -> float | None:
        """Estimate the peak of the plain cell."""
        if self.activation_bytes is None or self.plain_activation_bytes is None:
            return None
        return peak_bytes - self.activation_bytes + self.plain_activation_bytes

    def summary(self) -> RunSummary:
        """Return what became of the run so far."""
        peak = self.peak_bytes if self.ended_s is not None else self.meter.peak_bytes()
        elapsed = self.elapsed_s
        estimate = self.noise.estimate()
        noise = (estimate.samples, estimate.error) if isinstance(estimate, NoiseScale) else (None, None)
        return RunSummary(
            self._verdict(), tuple(self.reasons), tuple(self.notes),
            self.optimizer_steps, self.micro_batches_done, self.steps, self.samples, peak, elapsed,
            self.samples / elapsed if elapsed else 0.0, self.activation_bytes, self.plain_activation_bytes,
            tuple(float(v) for v in self.losses), tuple(self.events), noise[0], noise[1],
            budget_bytes=self.budget.bytes,
            stopped_after=self.stopped_after, total_steps=self.total_steps,
            scheduler_steps=self.scheduler_steps.count,
            footprint=self.footprint or self.memory.footprint(peak, self.activation_bytes),
        )  # fmt: skip


class _Runs:
    """The run that steps count for, and the last one."""

    current: Run | None = None
    last: Run | None = None
    hook: object = None


def begin(
    total_steps: int | None = None, subscribers: tuple[Callable[[Event], None], ...] = (), *, is_shown: bool = True
) -> Run:
    """Begin a run; steps count for it until it is ended, and then for the cell's in which it began."""
    if _Runs.hook is None:
        register_optimizer_step_pre_hook(_guard_optimizer_step)
        _Runs.hook = register_optimizer_step_post_hook(_count_optimizer_step)
    around = running()
    if _Runs.current is not None:
        _Runs.current.scheduler_steps.end()
    _Runs.current = _Runs.last = Run(total_steps, subscribers, is_shown=is_shown)
    _Runs.current.around = around
    _Runs.current.scheduler_steps.begin()
    return _Runs.current


@contextmanager
def aside() -> Iterator[Run]:
    """Let steps count for a run that `last_run` does not tell of."""
    kept = _Runs.current, _Runs.last
    run = begin()
    try:
        yield run
    finally:
        run.end()
        _Runs.current, _Runs.last = kept


def current_run() -> Run:
    """Return the run that steps count for; code that runs outside of a cell gets one of its own."""
    return _Runs.current or begin(is_shown=False)


def last_run() -> RunSummary | None:
    """Return the summary of the run of the cell that is running, else of the last one; None before the first.

    How the batch of each step was cut, and how often memory ran out, is in its `events`.

    >>> import accum_magic
    >>> summary = accum_magic.last_run()
    >>> events = () if summary is None else summary.events
    >>> cut_into = [event.micro_batches for event in events if type(event).__name__ == "StepDone"]
    >>> ran_out = [event.samples for event in events if type(event).__name__ == "MicroBatchRescued"]
    """
    return None if _Runs.last is None else _Runs.last.summary()


def running() -> Run | None:
    """Return the run of the cell that is running."""
    run = _Runs.current
    return run if run is not None and run.is_shown else None


def stopped() -> bool:
    """Tell whether the user has stopped the run; the rewritten cell asks at the end of the loops around a step."""
    __tracebackhide__ = True
    run = _Runs.current
    if run is None or not run.control.stopped(sys._getframe(1)):
        return False
    if run.stopped_after is None:
        run.stopped_after = run.steps
    return True


def _guard_optimizer_step(optimizer: Optimizer, *_: object) -> None:
    if _Runs.current is not None:
        guard(type(optimizer))


def _count_optimizer_step(optimizer: Optimizer, *_: object) -> None:
    run = _Runs.current
    if run is not None:
        run.optimizer_steps += 1
        run.memory.holdings.stepped(optimizer)
        run.memory.count()
        let_interrupt_through()
