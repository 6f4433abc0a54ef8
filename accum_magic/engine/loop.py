"""The loop over the micro-batches of one step: forward, weighted backward, what comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch

from accum_magic.engine.counting import Totals, count_totals
from accum_magic.engine.guard import BudgetGuard
from accum_magic.engine.measured import Measured
from accum_magic.engine.oom import forget, is_out_of_memory
from accum_magic.engine.rescue import Progress, Reached, gave_up, is_reentrant, once_more, reached_by, smaller
from accum_magic.engine.values import Collector
from accum_magic.engine.weighing import Nothing, Weighing
from accum_magic.engine.weights import look_at, parameters_of
from accum_magic.engine.whole import WholeStep, index_of_loss


class _ReplayedError(Exception):
    """The step, measured in mid-run beside its first micro-batch, has to be replayed."""


@dataclass(slots=True)
class MicroBatches(WholeStep):
    """The micro-batches of one step. One that runs out of memory is redone in smaller pieces."""

    measured: Measured | None = None  # what `auto` learns from
    read: tuple[str, ...] = ()  # names of the values
    unread: tuple[str, ...] = ()
    pieces: Sequence[tuple[Any, ...]] = ()  # of each micro-batch, what it is handed
    counted: Totals | None = None  # per loss and part, the totals of the micro-batches
    weighing: Weighing | None = None
    collectors: Sequence[Collector] = ()
    roots_read: Sequence[int | None] = ()  # which loss each of the collected values is itself
    is_mixed: bool = False  # a loss is logged whose parts are weighed apart
    loss_at: int | None = None  # which of the step's values the loss is
    progress: Progress | None = None  # of the micro-batch that runs
    reached: list[Reached] = field(default_factory=list)  # by micro-batch
    alone: int = -1  # a micro-batch that cannot be cut, and runs a second time

    def run(self, read: tuple[str, ...], unread: tuple[str, ...]) -> tuple[Any, ...]:
        """Run them all and return the values of the whole batch."""
        __tracebackhide__ = True
        with self.statistics:
            if len(self.sizes) == 1 and self.measured is None:
                values = self.plain_if_it_fits((*read, *unread))
                if values is not None:
                    return values
            if self.site.calls is None:
                try:
                    return self._run_many(read, unread)
                except _ReplayedError:
                    self.statistics.forget()
            if self.measured is not None:
                self.measured.begins()
            values = self.replay((*read, *unread))
            return self._run_many(read, unread) if values is None else values

    def _run_many(self, read: tuple[str, ...], unread: tuple[str, ...]) -> tuple[Any, ...]:
        __tracebackhide__ = True
        self.read, self.unread, self.weighing = read, unread, None
        once_more(lambda: self._cut(self.sizes))
        self.reached = [{}] * len(self.sizes)
        self.is_mixed = self.site.remembering.is_needed
        if self.facts.batch_norms:
            self.statistics.find_layers()
        recall = self.site.recall(self.micro_step, self.batch)
        index = 0
        while index < len(self.sizes):
            if recall is not None and (index == 0 or not self.site.is_reentrant):
                once_more(recall.take)
            error = self._failure(index)
            if error is None:
                index += 1
                continue
            if recall is not None:
                once_more(recall.restore)
            index = self._redo(index, error)
            del error
            self.run_of_cell.meter.release()
        return self._results()

    def _failure(self, index: int) -> Exception | None:
        """Run a micro-batch, and return the out-of-memory error that has ended it."""
        __tracebackhide__ = True
        try:
            if self.measured is None and self.guard_bytes is None:
                self._run_one(index)
            else:
                self._run_watched(index)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            forget(error)
            return error
        return None

    def _run_watched(self, index: int) -> None:
        """Run a micro-batch whose time and memory are measured, or whose memory may burst the budget."""
        __tracebackhide__ = True
        measured, meter = self.measured, self.run_of_cell.meter
        guard = None if self.guard_bytes is None else BudgetGuard(meter, self.guard_bytes)
        if measured is not None:
            measured.begins()
        with guard or nullcontext():
            self._run_one(index, meter.now_bytes if guard is None else guard.check)
        if measured is not None:
            measured.ends(self.sizes[index])

    def _run_one(self, index: int, is_forward_done: Callable[[], object] | None = None) -> None:
        """Run one micro-batch forward and backward; between the two all is alive that the backward will free."""
        __tracebackhide__ = True
        run = self.run_of_cell
        run.micro_batch = index + 1
        run.control.hear()
        self.statistics.micro_batch = index
        if self.counted is None:
            self._count(self.pieces)
            self._weigh_again(index)
        remembering, remembered, seen = self.site.remembering, None, None
        if self.is_mixed:
            with remembering.block() as remembered:
                roots, values = self.micro_step(*self.pieces[index])
        else:
            roots, values = self.micro_step(*self.pieces[index])
        weighing = self.weighing
        if weighing is None:
            weighing = self._look_at(roots, values)
        elif weighing.reads_totals:
            self.gradients.take(parameters_of(roots))
        if self.is_mixed or remembered is not None:
            seen = remembering.named(values) if remembered is None else remembered
        for position, collector in enumerate(self.collectors):
            collector.take(values[position], seen)
        if remembered is not None:
            remembering.learn(remembered, values)
        del values, remembered, seen  # what the backward does not need goes before it
        if is_forward_done is not None:
            is_forward_done()
        self._back_propagate(weighing, index, roots)
        if self.gradients.folds:
            self.progress = roots, len(roots), ([], [])
            self.gradients.fold()
        self.progress = None

    def _back_propagate(self, weighing: Weighing, index: int, roots: Sequence[torch.Tensor]) -> None:
        __tracebackhide__ = True
        gradients, reached = self.gradients, self.reached[index]
        for which, root in enumerate(roots):
            self.progress = roots, which, gradients.versions()
            start = weighing.gradient(which, index, root)
            if isinstance(start, Nothing):
                pass
            elif which not in reached:
                self.backward(which, root, start)
            elif others := [leaf for leaf in parameters_of([root]) if leaf not in reached[which]]:
                self.backward(which, root, start, others)
            if gradients.may_share:
                gradients.part(None if isinstance(start, Nothing) else start)
            if weighing.handles:
                weighing.release()

    def _cut(self, sizes: tuple[int, ...]) -> None:
        self.sizes = sizes
        self.pieces = self.site.pieces(self.batch, sizes)
        self.counted = None
        self.run_of_cell.sizes = sizes

    def _redo(self, index: int, error: Exception) -> int:
        """Take back what a failed micro-batch has left; cut it smaller, and those behind it.

        Returns:
            The micro-batch to go on with: the first, where nothing tells which gradients are complete.

        Raises:
            Exception: The error; there is nothing smaller.

        """
        __tracebackhide__ = True
        site, size = self.site, self.sizes[index]
        site.plan.failed(size)
        start = 0 if site.is_reentrant else index
        cut = smaller(self.sizes[start:], index - start, site.plan.ceiling.under(size), site.min_samples)
        pieces = len(cut[index - start])
        reached = {} if site.is_reentrant else reached_by(self.progress, self.reached[index], self.gradients)
        self.progress = None
        if self.weighing is not None:
            self.weighing.release()
        if reached is None:
            raise error
        if pieces == 1:
            if self.alone == index:
                raise gave_up(error, site.where, size)
            self.alone = index  # once more: what has been freed may be enough
        if site.is_reentrant:
            self.gradients.begin_again()
        of_each = [reached, *self.reached[start + 1 :]]
        self.reached[start:] = [left for left, parts in zip(of_each, cut, strict=True) for _ in parts]
        self._cut((*self.sizes[:start], *chain.from_iterable(cut)))
        self.gradients.drop_partial(start, self.sizes)
        self.statistics.forget_from(start)
        self.run_of_cell.rescued(site, size, pieces)
        return start

    def _weigh_again(self, index: int) -> None:
        """Weigh micro-batches that were cut anew; the first `index` of them have run."""
        earlier = self.weighing
        if earlier is None:
            return
        self.weighing = Weighing(self.site, self.facts, self.batch, self.sizes, self.counted or {})
        self.weighing.go_on(earlier, index)
        for collector, root in zip(self.collectors, self.roots_read, strict=True):
            collector.resize(index, self.sizes, self.weighing.of_root(root))

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
        weighing = self.weighing = Weighing(self.site, facts, self.batch, self.sizes, self.counted or {})
        self.roots_read = [next((i for i, root in enumerate(roots) if root is value), None) for value in values]
        self.collectors = [
            Collector(name, leaves, self.sizes, weighing.of_root(root), is_read=i < len(self.read))
            for i, (name, leaves, root) in enumerate(zip(names, facts.values, self.roots_read, strict=True))
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
        first = dict(zip(self.batch, self.pieces[0], strict=True))
        is_known = self.site.find_targets(self.facts, roots, first, self.batch)
        if is_another or not is_known:
            self._count(self.pieces[1:], roots)
        if is_new:
            self.site.is_reentrant = is_reentrant(roots)
            self.site.signature, self.site.is_told = signature, False
        if not self.site.is_told and len(self.sizes) > 1:  # a whole batch is what the plain cell runs
            self.site.is_told = True
            self.run_of_cell.learn(self.site)
        return parameters

    def _results(self) -> tuple[Any, ...]:
        weighing, collectors = self.weighing, self.collectors
        assert weighing is not None  # noqa: S101 - there is a micro-batch at least
        results, factor = once_more(lambda: (tuple([c.result() for c in collectors]), weighing.rescaling()))
        if factor is not None:
            once_more(lambda: self.gradients.rescale(factor))
        for doubt in (weighing.doubt, *(c.doubt for c in collectors)):
            if doubt:
                self.run_of_cell.reasons[doubt] = None
        loss = None if self.loss_at is None else results[self.loss_at]
        self.loss = loss if isinstance(loss, torch.Tensor) and loss.numel() == 1 else None
        return results
