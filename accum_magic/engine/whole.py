"""A step on its whole batch: as the plain cell has it, or replayed, with its module calls in chunks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from accum_magic.engine.batch_norm import RunningStatistics
from accum_magic.engine.calls import StudiedCalls
from accum_magic.engine.facts import StepFacts
from accum_magic.engine.gradients import SetAside
from accum_magic.engine.guard import BudgetGuard
from accum_magic.engine.replayable import UNTOLD_ROWS, WHOLE
from accum_magic.engine.rescue import Failed, gave_up, once_more, tried
from accum_magic.engine.run import Run
from accum_magic.engine.saved import SavedTensors
from accum_magic.engine.site import Outcome, Site
from accum_magic.engine.split import cut
from accum_magic.engine.undo import RandomStates
from accum_magic.engine.values import detached
from accum_magic.engine.weights import parameters_of

_REPLAYED = ("replayed",)  # in place of a graph's signature
# learn, _replay, <lambda>, tried, _replay_what_fits, replay, run, _gradients_made, step: then the cell
_FRAMES_TO_THE_CELL = 10


@dataclass(slots=True)
class WholeStep:
    """One step, and what it needs to run."""

    run_of_cell: Run
    site: Site
    micro_step: Callable[..., Outcome]
    batch: Mapping[str, Any]
    sizes: tuple[int, ...]
    gradients: SetAside
    backward: Callable[..., None]
    statistics: RunningStatistics = field(default_factory=RunningStatistics)
    loss: torch.Tensor | None = None  # of the whole batch, once it has run
    guard_bytes: int | None = None  # the budget, where a micro-batch may burst it and no allocator would tell
    guard: BudgetGuard | None = None  # of a step that is replayed
    is_last_try: bool = False  # of single samples, at once or in chunks

    @property
    def facts(self) -> StepFacts:
        """What the probe has found."""
        assert self.site.facts is not None  # noqa: S101 - a step is measured before its first micro-batch
        return self.site.facts

    def plain_if_it_fits(self, names: Sequence[str]) -> tuple[Any, ...] | None:
        """Run the step as the plain cell does, a single micro-batch, and return its values.

        None where it runs out of memory: it is measured then, and to be cut.
        """
        __tracebackhide__ = True
        run, start = self.run_of_cell, None if self.site.draws is False else once_more(RandomStates.now)
        self.statistics.take_over(self.site.modules_in_reach(self.micro_step, self.batch))
        run.sizes, run.micro_batch = self.sizes, 1
        with nullcontext() if self.guard_bytes is None else BudgetGuard(run.meter, self.guard_bytes):
            result = tried(lambda: self._run(names))
        if not isinstance(result, Failed):
            if self.site.draws is None and start is not None:
                self.site.draws = once_more(lambda: start.differs(RandomStates.now()))
            return result
        self._take_smaller(result.error, start)
        del result
        if self.site.facts is None:
            with self.statistics.paused():
                self.site.measure(self.micro_step, self.batch, self.sizes, names)
        return None

    def replay(self, names: Sequence[str]) -> tuple[Any, ...] | None:
        """Run the step with its module calls in chunks, and return its values.

        If its calls are others than those that were studied (there is a new model in each fold of a cross-validation)
        it is measured anew; None if it is none to be replayed then.
        """
        __tracebackhide__ = True
        from accum_magic.engine.replay import AnotherCallError  # activation checkpointing is read when it is needed

        start = RandomStates.now()
        try:
            return self._replay_what_fits(names, start)
        except AnotherCallError:
            self.statistics.forget()
            start.restore()
        self.site.measure(self.micro_step, self.batch, self.sizes, names)
        return None if self.site.calls is None else self._replay_what_fits(names, start, is_strict=False)

    def _replay_what_fits(
        self, names: Sequence[str], start: RandomStates, *, is_strict: bool = True
    ) -> tuple[Any, ...]:
        """Run the step in chunks; if they run out of memory all of it runs again, in smaller ones."""
        __tracebackhide__ = True
        calls = self.site.calls
        assert calls is not None  # noqa: S101 - or it is no step to replay
        while True:
            result = tried(lambda: self._replay(calls, names, is_strict=is_strict))
            if not isinstance(result, Failed):
                return result
            self._take_smaller(result.error, start)
            del result

    def _take_smaller(self, error: Exception, start: RandomStates | None) -> None:
        """Take back what a step has left that has run out of memory, and cut its batch smaller.

        Raises:
            Exception: The error; there is nothing smaller.

        """
        site, largest = self.site, max(self.sizes)
        if largest == 1 and self.is_last_try:
            raise gave_up(error, site.where, largest)
        self.is_last_try = largest == 1  # once more: what has been freed may be enough
        site.plan.failed(largest)
        self.gradients.begin_again()
        self.statistics.forget()
        self.sizes = cut(sum(self.sizes), site.plan.ceiling.under(max(1, largest - 1)))
        self.run_of_cell.rescued(site, largest, len(self.sizes))
        if start is not None:
            start.restore()
        self.run_of_cell.meter.release()

    def _replay(self, calls: StudiedCalls, names: Sequence[str], *, is_strict: bool = True) -> tuple[Any, ...]:
        __tracebackhide__ = True
        from accum_magic.engine.replay import ChunkedCalls

        run, paused = self.run_of_cell, self.statistics.paused
        chunked = ChunkedCalls(calls, self.sizes, self._chunk_begins, paused, is_strict=is_strict)
        run.sizes = self.sizes
        if self.facts.batch_norms:
            self.statistics.find_layers()
        is_first = self.site.signature != _REPLAYED
        if is_first:
            self.site.signature = _REPLAYED
            run.learn(self.site, _FRAMES_TO_THE_CELL)
        if self.guard_bytes is not None:
            self.guard = BudgetGuard(run.meter, self.guard_bytes)
        with SavedTensors() if is_first else nullcontext() as saved, self.guard or nullcontext():
            found = self._run(names, chunked)
        if saved is not None:
            self.site.whole_bytes = saved.peak_bytes
        for kind in sorted(chunked.whole):
            run.note(WHOLE.format(kind, UNTOLD_ROWS))
        return found

    def _chunk_begins(self, index: int) -> None:
        self.statistics.micro_batch = index
        self.run_of_cell.micro_batch = index + 1
        self.run_of_cell.control.hear()
        if self.guard is not None:
            self.guard.check()

    def _run(self, names: Sequence[str], calls: AbstractContextManager[object] | None = None) -> tuple[Any, ...]:
        """Run forward, where `calls` may see to the module calls, and backward."""
        __tracebackhide__ = True
        with calls or nullcontext():
            roots, values = self.micro_step(*self.batch.values())
        self.statistics.all_found()
        self.gradients.take(parameters_of(roots))
        for which, root in enumerate(roots):
            self.backward(which, root, None)
        out = tuple(detached(v) for v in values)
        found = index_of_loss(names, roots, values)
        self.loss = roots[-1].detach() if found is None else out[found]
        return out


def index_of_loss(names: Sequence[str], roots: Sequence[torch.Tensor], values: Sequence[Any]) -> int | None:
    """Return which value of a step is its loss: the last root, or behind a scaler the number that is named so."""
    same = next((i for i in reversed(range(len(values))) if values[i] is roots[-1]), None)
    if same is not None:
        return same
    numbers = [i for i, v in enumerate(values) if isinstance(v, torch.Tensor) and v.numel() == 1 and v.requires_grad]
    named = [i for i in numbers if "loss" in names[i].lower()]
    return next(reversed(named or numbers), None)
