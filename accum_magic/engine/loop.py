"""The loop over the micro-batches of one step: forward, weighted backward, what comes out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from accum_magic.engine.counting import Totals, count_totals
from accum_magic.engine.values import Collector
from accum_magic.engine.weighing import Nothing, Weighing
from accum_magic.engine.weights import look_at, parameters_of
from accum_magic.engine.whole import WholeStep, index_of_loss


class _ReplayedError(Exception):
    """The step, measured in mid-run beside its first micro-batch, has to be replayed."""


@dataclass(slots=True)
class MicroBatches(WholeStep):
    """The micro-batches of one step."""

    counted: Totals = field(default_factory=dict)  # per loss and part, the totals of the micro-batches
    loss_at: int | None = None  # which of the step's values the loss is
    read: tuple[str, ...] = ()  # names of the values
    unread: tuple[str, ...] = ()
    columns: Sequence[Sequence[Any]] = ()  # the micro-batches of each name of the batch
    weighing: Weighing | None = None  # from the graph of the first micro-batch on
    collectors: Sequence[Collector] = ()
    is_mixed: bool = False  # whether a value is a loss of parts that are weighed apart

    def run(self, read: tuple[str, ...], unread: tuple[str, ...]) -> tuple[Any, ...]:
        """Run them all and return the values of the whole batch."""
        __tracebackhide__ = True
        if len(self.sizes) == 1:
            return self.plain((*read, *unread))
        with self.statistics:
            if self.site.calls is None:
                try:
                    return self._run_many(read, unread)
                except _ReplayedError:
                    self.statistics.forget()
            values = self.replay((*read, *unread))
            return self._run_many(read, unread) if values is None else values

    def _run_many(self, read: tuple[str, ...], unread: tuple[str, ...]) -> tuple[Any, ...]:
        __tracebackhide__ = True
        self.columns = self.site.pieces(self.batch, self.sizes)
        self.read, self.unread = read, unread
        self.weighing, self.is_mixed = None, self.site.remembering.is_needed
        self.run_of_cell.micro_batches = len(self.sizes)
        self._count(zip(*self.columns, strict=True))
        if self.facts.batch_norms:
            self.statistics.find_layers()
        for index, pieces in enumerate(zip(*self.columns, strict=True)):
            self._run_one(index, pieces)
        return self._results()

    def _run_one(self, index: int, pieces: Sequence[Any]) -> None:
        """Run one micro-batch: forward, take over its values, backward."""
        __tracebackhide__ = True
        self.run_of_cell.micro_batch = index + 1
        self.statistics.micro_batch = index
        remembering, remembered = self.site.remembering, None
        if self.is_mixed:
            with remembering.block() as remembered:
                roots, values = self.micro_step(*pieces)
        else:
            roots, values = self.micro_step(*pieces)
        weighing = self.weighing
        if weighing is None:
            weighing = self._look_at(roots, values)
        elif weighing.reads_totals:
            self.gradients.take(parameters_of(roots))
        seen = remembering.named(values) if self.is_mixed and remembered is None else remembered
        for position, collector in enumerate(self.collectors):
            collector.take(values[position], seen)
        if remembered is not None:
            remembering.learn(remembered, values)
        del values, remembered, seen  # what the backward does not need goes before it
        self._back_propagate(weighing, index, roots)
        del roots
        if self.gradients.folds:
            self.gradients.fold()

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
                self.counted = count_totals(self.micro_step, micro_batches, self.facts, site.counted, sources, first)

    def _look_at(self, roots: Sequence[torch.Tensor], values: Sequence[Any]) -> Weighing:
        """Prepare a step, from the graph of its first micro-batch."""
        self.statistics.all_found()
        self.gradients.take(self._check_facts(roots))
        names, facts = (*self.read, *self.unread), self.facts
        self.loss_at = index_of_loss(names, roots, values)
        weighing = self.weighing = Weighing(self.site, facts, self.batch, self.sizes, self.counted)
        named = zip(names, facts.values, values, strict=True)
        self.collectors = [
            Collector(name, leaves, self.sizes, weighing.of_value(value, roots), is_read=i < len(self.read))
            for i, (name, leaves, value) in enumerate(named)
        ]
        self.is_mixed = any(collector.is_mixed for collector in self.collectors)
        return weighing

    def _check_facts(self, roots: Sequence[torch.Tensor]) -> list[torch.Tensor]:
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
                self.site.measure(self.micro_step, self.batch, self.sizes, self.read)
            if self.site.calls is not None:
                raise _ReplayedError
        # in every step: a cell may weigh its classes anew for each batch or epoch
        pieces = {name: column[0] for name, column in zip(self.batch, self.columns, strict=True)}
        is_known = self.site.find_targets(self.facts, roots, pieces, self.batch)
        if is_another or not is_known:
            self._count(zip(*(column[1:] for column in self.columns), strict=True), roots)
        if is_new:
            self.site.signature = signature
            self.run_of_cell.learn(self.site)
        return parameters

    def _results(self) -> tuple[Any, ...]:
        weighing, collectors = self.weighing, self.collectors
        assert weighing is not None  # noqa: S101 - there are two micro-batches at least
        factor = weighing.rescaling()
        if factor is not None:
            self.gradients.rescale(factor)
        results = tuple(c.result() for c in collectors)
        for doubt in (weighing.doubt, *(c.doubt for c in collectors)):
            if doubt:
                self.run_of_cell.reasons[doubt] = None
        loss = None if self.loss_at is None else results[self.loss_at]
        self.loss = loss if isinstance(loss, torch.Tensor) and loss.numel() == 1 else None
        return results
