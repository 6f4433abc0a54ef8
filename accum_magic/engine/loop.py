"""The loop over the micro-batches of one step: forward, weighted backward, what comes out."""

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
from accum_magic.engine.run import Run
from accum_magic.engine.saved import SavedTensors
from accum_magic.engine.site import Outcome, Site
from accum_magic.engine.undo import RandomStates
from accum_magic.engine.values import Collector, detached
from accum_magic.engine.weighing import Nothing, Weighing
from accum_magic.engine.weights import look_at, parameters_of

_REPLAYED = ("replayed",)  # in place of a graph's signature
_FRAMES_FROM_REPLAY = 5  # learn, _run_replayed, run, step: then the user's own line


@dataclass(frozen=True, slots=True)
class Backward:
    """How the user's cell back-propagates: by the loss's own method, or through an object such as Accelerate's."""

    through: Callable[..., object] | None
    options: Sequence[Mapping[str, object]]

    def __call__(self, which: int, root: torch.Tensor, gradient: torch.Tensor | None) -> None:
        """Back-propagate one loss, starting from `gradient` in place of 1."""
        __tracebackhide__ = True
        if self.through is None and not self.options:
            root.backward(gradient)  # type: ignore[no-untyped-call]
            return
        options = dict(self.options[which]) if self.options else {}
        if gradient is not None:
            options["gradient"] = gradient
        call = self.through or type(root).backward
        call(root, **options)


class _ReplayedError(Exception):
    """The step, measured in mid-run beside its first micro-batch, has to be replayed."""


@dataclass(slots=True)
class MicroBatches:
    """The micro-batches of one step."""

    run_of_cell: Run
    site: Site
    micro_step: Callable[..., Outcome]
    batch: Mapping[str, Any]
    sizes: tuple[int, ...]
    gradients: SetAside
    backward: Callable[[int, torch.Tensor, torch.Tensor | None], None]
    statistics: RunningStatistics = field(default_factory=RunningStatistics)
    loss: torch.Tensor | None = None  # of the whole batch, once it has run
    loss_at: int | None = None  # which of the step's values it is

    def run(self, read: tuple[str, ...], unread: tuple[str, ...]) -> tuple[Any, ...]:
        """Run them all and return the values of the whole batch."""
        __tracebackhide__ = True
        if len(self.sizes) == 1:
            self.run_of_cell.micro_batches = self.run_of_cell.micro_batch = 1
            return self._run_whole((*read, *unread))
        with self.statistics:
            if self.site.calls is None:
                try:
                    return self._run_many(read, unread)
                except _ReplayedError:
                    self.statistics.forget()
            return self._run_again_if_new(read, unread)

    def _run_again_if_new(self, read: tuple[str, ...], unread: tuple[str, ...]) -> tuple[Any, ...]:
        """Replay the step; measure it anew if its calls are others: a new model in each fold of a cross-validation."""
        __tracebackhide__ = True
        from accum_magic.engine.replay import AnotherCallError  # activation checkpointing is read when it is needed

        assert self.site.calls is not None  # noqa: S101 - or it is no step to replay
        start = RandomStates.now()
        try:
            return self._run_replayed(self.site.calls, (*read, *unread))
        except AnotherCallError:
            self.statistics.forget()
            start.restore()
        self.site.measure(self.micro_step, self.batch, self.sizes, read)
        if self.site.calls is None:
            return self._run_many(read, unread)
        return self._run_replayed(self.site.calls, (*read, *unread))

    def _run_replayed(self, calls: StudiedCalls, names: Sequence[str]) -> tuple[Any, ...]:
        """The plain step, with its module calls in chunks."""
        __tracebackhide__ = True
        from accum_magic.engine.replay import ChunkedCalls

        run, chunked = self.run_of_cell, ChunkedCalls(calls, self.sizes, self._chunk_begins, self.statistics.paused)
        run.micro_batches = len(self.sizes)
        if self._facts().batch_norms:
            self.statistics.find_layers()
        if self.site.signature == _REPLAYED:
            return self._run_whole(names, chunked)
        self.site.signature = _REPLAYED
        run.learn(self.site, _FRAMES_FROM_REPLAY)
        with SavedTensors() as saved:
            found = self._run_whole(names, chunked)
        self.site.whole_bytes = saved.peak_bytes
        return found

    def _chunk_begins(self, index: int) -> None:
        self.statistics.micro_batch = index
        self.run_of_cell.micro_batch = index + 1

    def _run_whole(self, names: Sequence[str], calls: AbstractContextManager[object] | None = None) -> tuple[Any, ...]:
        """The plain step, where `calls` may see to its module calls."""
        __tracebackhide__ = True
        with calls or nullcontext():
            roots, values = self.micro_step(*self.batch.values())
        self.statistics.all_found()
        self.gradients.take(parameters_of(roots))
        for which, root in enumerate(roots):
            self.backward(which, root, None)
        out = tuple(detached(v) for v in values)
        found = _index_of_loss(names, roots, values)
        self.loss = roots[-1].detach() if found is None else out[found]
        return out

    def _run_many(self, read: tuple[str, ...], unread: tuple[str, ...]) -> tuple[Any, ...]:
        __tracebackhide__ = True
        run, micro_step, backward = self.run_of_cell, self.micro_step, self.backward
        columns = self.site.pieces(self.batch, self.sizes)
        run.micro_batches = len(self.sizes)
        weighing: Weighing | None = None
        collectors: list[Collector] = []
        if self._facts().batch_norms:
            self.statistics.find_layers()
        for index, pieces in enumerate(zip(*columns, strict=True)):
            run.micro_batch = index + 1
            self.statistics.micro_batch = index
            roots, values = micro_step(*pieces)
            if weighing is None:
                weighing, collectors = self._look_at(roots, values, pieces, read, unread)
            elif weighing.reads_totals:
                self.gradients.take(parameters_of(roots))
            for position, collector in enumerate(collectors):
                collector.take(values[position])
            del values
            for which, root in enumerate(roots):
                gradient = weighing.gradient(which, index, root)
                if not isinstance(gradient, Nothing):
                    backward(which, root, gradient)
            del roots, root
            if self.gradients.folds:
                self.gradients.fold()
        return self._results(weighing, collectors)

    def _look_at(
        self,
        roots: Sequence[torch.Tensor],
        values: Sequence[Any],
        pieces: Sequence[Any],
        read: tuple[str, ...],
        unread: tuple[str, ...],
    ) -> tuple[Weighing, list[Collector]]:
        """Prepare a step, from the graph of its first micro-batch."""
        self.statistics.all_found()
        self.gradients.take(self._check_facts(roots, pieces, read))
        facts = self._facts()
        self.loss_at = _index_of_loss((*read, *unread), roots, values)
        named = zip((*read, *unread), facts.values, values, strict=True)
        collectors = [Collector(n, f, is_read=i < len(read)) for i, (n, f, _) in enumerate(named)]
        return Weighing(self.site, facts, self.batch, self.sizes), collectors

    def _facts(self) -> StepFacts:
        assert self.site.facts is not None  # noqa: S101 - a step is measured before its first micro-batch
        return self.site.facts

    def _check_facts(
        self, roots: Sequence[torch.Tensor], pieces: Sequence[Any], read: tuple[str, ...]
    ) -> list[torch.Tensor]:
        """Return the leaves of the graph, after a look whether it is still the one that was probed.

        In mid-run it may be another one: another loss, another mode. The step is then measured beside the graph of
        its first micro-batch, which stays: a second forward pass would draw random numbers and move state once more.
        """
        for root in roots:
            if root.numel() != 1 or not root.requires_grad:  # or gradients are switched off
                root.backward()  # type: ignore[no-untyped-call]  # the user's own error: PyTorch says what is wrong
        parameters, signature = look_at(roots)
        is_new = signature != self.site.signature
        if is_new and self.site.signature:
            with self.statistics.paused():
                self.site.measure(self.micro_step, self.batch, self.sizes, read)
            if self.site.calls is not None:
                raise _ReplayedError
        # in every step: a cell may weigh its classes anew for each batch or epoch
        self.site.find_targets(roots, dict(zip(self.batch, pieces, strict=True)))
        if is_new:
            self.site.signature = signature
            self.run_of_cell.learn(self.site)
        return parameters

    def _results(self, weighing: Weighing | None, collectors: Sequence[Collector]) -> tuple[Any, ...]:
        assert weighing is not None  # noqa: S101 - there are two micro-batches at least
        factor = weighing.rescaling()
        if factor is not None:
            self.gradients.rescale(factor)
        doubt = weighing.doubt()
        if doubt is not None:
            self.run_of_cell.doubt(doubt, self.site.line)
        results = tuple(c.result(weighing.of_value(c.scalar)) for c in collectors)
        loss = None if self.loss_at is None else results[self.loss_at]
        self.loss = loss if isinstance(loss, torch.Tensor) and loss.numel() == 1 else None
        return results


def _index_of_loss(names: Sequence[str], roots: Sequence[torch.Tensor], values: Sequence[Any]) -> int | None:
    """Return which value of a step is its loss: the last root, or behind a scaler the number that is named so."""
    same = [i for i, value in enumerate(values) if value is roots[-1]]
    numbers = [i for i, v in enumerate(values) if isinstance(v, torch.Tensor) and v.numel() == 1 and v.requires_grad]
    named = [i for i in numbers if "loss" in names[i].lower()]
    return next(reversed(same or named or numbers), None)
