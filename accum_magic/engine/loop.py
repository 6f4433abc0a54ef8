"""The loop over the micro-batches of one step: forward, weighted backward, what comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from accum_magic.engine.batch_norm import RunningStatistics
from accum_magic.engine.calls import StudiedCalls
from accum_magic.engine.counting import Totals, count_totals
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
    counted: Totals = field(default_factory=dict)  # per loss and part, the totals of the micro-batches
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
        run, micro_step = self.run_of_cell, self.micro_step
        columns = self.site.pieces(self.batch, self.sizes)
        run.micro_batches = len(self.sizes)
        self._count(zip(*columns, strict=True))
        weighing: Weighing | None = None
        collectors: list[Collector] = []
        remembering = self.site.remembering
        is_mixed = remembering.is_needed
        if self._facts().batch_norms:
            self.statistics.find_layers()
        for index, pieces in enumerate(zip(*columns, strict=True)):
            run.micro_batch = index + 1
            self.statistics.micro_batch = index
            with remembering.block() if is_mixed else nullcontext() as remembered:
                roots, values = micro_step(*pieces)
            if weighing is None:
                weighing, collectors = self._look_at(roots, values, columns, read, unread)
                is_mixed = any(collector.is_mixed for collector in collectors)
            elif weighing.reads_totals:
                self.gradients.take(parameters_of(roots))
            for position, collector in enumerate(collectors):
                collector.take(values[position], remembered)
            if remembered is not None:
                remembering.learn(remembered)
            del values, remembered
            self._back_propagate(weighing, index, roots)
            del roots
            if self.gradients.folds:
                self.gradients.fold()
        return self._results(weighing, collectors)

    def _back_propagate(self, weighing: Weighing, index: int, roots: Sequence[torch.Tensor]) -> None:
        __tracebackhide__ = True
        for which, root in enumerate(roots):
            gradient = weighing.gradient(which, index, root)
            if not isinstance(gradient, Nothing):
                self.backward(which, root, gradient)
            if weighing.handles:
                weighing.release()

    def _count(self, micro_batches: Iterable[Sequence[Any]], first: Sequence[torch.Tensor] | None = None) -> None:
        """Count the totals that have to be known before the first backward; of the `first` there is a graph."""
        __tracebackhide__ = True
        site, self.counted = self.site, {}
        if site.counted:
            sources = site.sources(self.micro_step, self.batch)
            with self.statistics.paused():
                self.counted = count_totals(self.micro_step, micro_batches, self._facts(), site.counted, sources, first)

    def _look_at(
        self,
        roots: Sequence[torch.Tensor],
        values: Sequence[Any],
        columns: Sequence[Sequence[Any]],
        read: tuple[str, ...],
        unread: tuple[str, ...],
    ) -> tuple[Weighing, list[Collector]]:
        """Prepare a step, from the graph of its first micro-batch."""
        self.statistics.all_found()
        self.gradients.take(self._check_facts(roots, columns, read))
        facts = self._facts()
        self.loss_at = _index_of_loss((*read, *unread), roots, values)
        weighing = Weighing(self.site, facts, self.batch, self.sizes, self.counted)
        named = zip((*read, *unread), facts.values, values, strict=True)
        return weighing, [
            Collector(name, leaves, self.sizes, weighing.of_value(value, roots), is_read=i < len(read))
            for i, (name, leaves, value) in enumerate(named)
        ]

    def _facts(self) -> StepFacts:
        assert self.site.facts is not None  # noqa: S101 - a step is measured before its first micro-batch
        return self.site.facts

    def _check_facts(
        self, roots: Sequence[torch.Tensor], columns: Sequence[Sequence[Any]], read: tuple[str, ...]
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
        is_another = is_new and bool(self.site.signature)
        if is_another:
            with self.statistics.paused():
                self.site.measure(self.micro_step, self.batch, self.sizes, read)
            if self.site.calls is not None:
                raise _ReplayedError
        # in every step: a cell may weigh its classes anew for each batch or epoch
        pieces = {name: column[0] for name, column in zip(self.batch, columns, strict=True)}
        is_known = self.site.find_targets(self._facts(), roots, pieces, self.batch)
        if is_another or not is_known:
            self._count(zip(*(column[1:] for column in columns), strict=True), roots)
        if is_new:
            self.site.signature = signature
            self.run_of_cell.learn(self.site)
        return parameters

    def _results(self, weighing: Weighing | None, collectors: Sequence[Collector]) -> tuple[Any, ...]:
        assert weighing is not None  # noqa: S101 - there are two micro-batches at least
        factor = weighing.rescaling()
        if factor is not None:
            self.gradients.rescale(factor)
        results = tuple(c.result() for c in collectors)
        doubts = (weighing.doubt, *(c.doubt for c in collectors))
        self.run_of_cell.reasons |= dict.fromkeys(filter(None, doubts))
        loss = None if self.loss_at is None else results[self.loss_at]
        self.loss = loss if isinstance(loss, torch.Tensor) and loss.numel() == 1 else None
        return results


def _index_of_loss(names: Sequence[str], roots: Sequence[torch.Tensor], values: Sequence[Any]) -> int | None:
    """Return which value of a step is its loss: the last root, or behind a scaler the number that is named so."""
    same = [i for i, value in enumerate(values) if value is roots[-1]]
    numbers = [i for i, v in enumerate(values) if isinstance(v, torch.Tensor) and v.numel() == 1 and v.requires_grad]
    named = [i for i in numbers if "loss" in names[i].lower()]
    return next(reversed(same or named or numbers), None)
