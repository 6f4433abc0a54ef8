"""The loop over the micro-batches of one step: what the rewritten cell calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from accum_magic.engine.facts import Scalar, Unknown
from accum_magic.engine.gradients import SetAside
from accum_magic.engine.run import Run, current_run
from accum_magic.engine.site import Outcome, Site
from accum_magic.engine.split import micro_batch_sizes
from accum_magic.engine.values import Collector, Released, detached
from accum_magic.engine.weights import parameters_of, total_weight
from accum_magic.errors import BatchError

_UNDO: list[SetAside] = []


def step(
    micro_step: Callable[..., Outcome],
    batch: Mapping[str, Any],
    *,
    n: int | None = None,
    size: int | None = None,
    dims: Mapping[str, int] | None = None,
    loose: tuple[str, ...] = (),
    fixed: tuple[str, ...] = (),
    read: tuple[str, ...] = (),
    unread: tuple[str, ...] = (),
    when: bool = True,
    backward: Callable[..., object] | None = None,
    backward_options: Sequence[Mapping[str, object]] = (),
    undoable: bool = False,
) -> tuple[Any, ...]:
    """Run forward and backward of one training step in micro-batches; the rewritten cell calls this.

    Args:
        micro_step: Forward pass of one micro-batch; returns the losses to back-propagate, and values.
        batch: Arguments of `micro_step` by name; tensors are split along dimension 0, or `dims[name]`.
        n: Number of micro-batches, at most one per sample.
        size: Samples per micro-batch at most, in place of `n`.
        dims: Batch dimension of a name where it is not 0.
        loose: Names that are split only if they have as many rows as the batch.
        fixed: Names that are handed over whole.
        read: Names of the values that are read later: losses are recombined, outputs joined.
        unread: Names of the values that nobody in the cell reads: single numbers are kept.
        when: Whether the plain cell would call `backward` at all.
        backward: What to call in place of `loss.backward`, such as `accelerator.backward`.
        backward_options: Keyword arguments of each loss's `backward`.
        undoable: Keep the gradients from before the step for `undo_step`.

    Returns:
        The values of the full batch, those of `read` first, without a graph.

    Raises:
        BatchError: The batch cannot be split as planned; no gradient has changed.

    """
    if not when or not torch.is_grad_enabled():
        return tuple(micro_step(*batch.values())[1])
    run = current_run()
    site = _site_of(run, micro_step, loose, fixed, dims or {})
    samples = site.samples(batch)
    sizes = micro_batch_sizes(samples, n, size)
    if n is not None and len(sizes) < n:
        run.note(f"the batch has fewer samples than N = {n}: one micro-batch per sample")
    batch, carried = _carry(batch, fixed, loose)
    work = _Step(run, site, micro_step, batch, sizes, (read, unread), backward, backward_options)
    values = work.run_all(undoable=undoable)
    for value, leaf in carried:
        if leaf.grad is not None:
            value.backward(leaf.grad)
    run.step_done(samples, len(sizes), work.loss)
    return values


def undo_step() -> None:
    """Put the gradients back as they were before the last step; a jump that skips `backward` calls this."""
    for gradients in _UNDO:
        gradients.restore()
    _UNDO.clear()


def _site_of(
    run: Run, micro_step: Callable[..., Outcome], loose: tuple[str, ...], fixed: tuple[str, ...], dims: Mapping[str, int]
) -> Site:
    code = micro_step.__code__  # type: ignore[attr-defined]
    site = run.sites.get(code)
    if site is None:
        site = run.sites[code] = Site(code.co_firstlineno, loose, fixed, dims)
    return site


def _carry(
    batch: Mapping[str, Any], fixed: tuple[str, ...], loose: tuple[str, ...]
) -> tuple[Mapping[str, Any], list[tuple[torch.Tensor, torch.Tensor]]]:
    """Cut the graphs of values computed once: each enters the loop as a leaf, its graph runs once at the end."""
    carried = []
    for name in (*fixed, *loose):
        value = batch[name]
        if isinstance(value, torch.Tensor) and value.grad_fn is not None:
            leaf = value.detach().requires_grad_()
            batch = {**batch, name: leaf}
            carried.append((value, leaf))
    return batch, carried


class _Step:
    """One step: its micro-batches, their weights, and what comes out."""

    def __init__(
        self,
        run: Run,
        site: Site,
        micro_step: Callable[..., Outcome],
        batch: Mapping[str, Any],
        sizes: tuple[int, ...],
        outputs: tuple[tuple[str, ...], tuple[str, ...]],
        backward: Callable[..., object] | None,
        backward_options: Sequence[Mapping[str, object]],
    ) -> None:
        self.run, self.site, self.micro_step, self.batch, self.sizes = run, site, micro_step, batch, sizes
        self.read, self.unread = outputs
        self.backward, self.options = backward, backward_options
        self.samples = sum(sizes)
        self.loss: torch.Tensor | None = None
        self.gradients = SetAside()

    def run_all(self, *, undoable: bool) -> tuple[Any, ...]:
        """Run every micro-batch and return the values of the whole batch."""
        _UNDO.clear()
        try:
            values = self._run_one() if len(self.sizes) == 1 else self._run_many()
            self.gradients.finish(keep=undoable)
        except BaseException:
            self.gradients.restore()
            raise
        if undoable:
            _UNDO.append(self.gradients)
        return values

    def _run_one(self) -> tuple[Any, ...]:
        """A single micro-batch is the plain step."""
        run = self.run
        run.micro_batches, run.micro_batch = 1, 1
        roots, values = self.micro_step(*self.batch.values())
        self.gradients.take(parameters_of(roots))
        for index, root in enumerate(roots):
            self._backward(index, root, None)
        out = tuple(detached(v) for v in values)
        self.loss = next((v for v in reversed(out) if isinstance(v, torch.Tensor) and v.numel() == 1), None)
        if self.loss is None:
            self.loss = roots[-1].detach()
        return out

    def _run_many(self) -> tuple[Any, ...]:
        site, run = self.site, self.run
        if site.facts is None:
            self._measure()
        columns = site.pieces(self.batch, self.sizes)
        run.micro_batches = len(self.sizes)
        collectors: list[Collector] | None = None
        weights: list[list[float]] = []
        measured: list[list[torch.Tensor]] = []
        for index, pieces in enumerate(zip(*columns, strict=True)):
            run.micro_batch = index + 1
            roots, values = self.micro_step(*pieces)
            if index == 0:
                parameters = self._check_facts(roots, pieces)
                weights = self._weights()
                measured = [[] for _ in roots]
                collectors = self._collectors(values)
                self.gradients.take(parameters)
            elif self._needs_rescale:
                self.gradients.take(parameters_of(roots))
            for collector, value in zip(collectors or (), values, strict=True):
                collector.take(value)
            del values
            for which, root in enumerate(roots):
                self._backward_weighted(which, root, weights[which], index, measured[which])
            del roots, root
        return self._results(collectors or [], weights, measured)

    def _measure(self) -> None:
        """Probe the step; a value that is read later and cannot be recombined is refused here."""
        self.site.measure(self.micro_step, self.batch, self.samples)
        facts = self.site.facts
        assert facts is not None  # noqa: S101 - measured above
        for name, leaves in zip(self.read, facts.values, strict=False):
            bad = next((f for f in leaves if isinstance(f, Unknown)), None)
            if bad is not None and len(leaves) == 1:
                self.site.facts = None
                message = (
                    f"line {self.site.line}: `{name}` is read after the step but cannot be put together from its "
                    f"micro-batches: {bad.reason}. In place of it, return the predictions, or compute it after the step."
                )
                raise BatchError(message)

    def _check_facts(self, roots: Sequence[torch.Tensor], pieces: Sequence[Any]) -> list[torch.Tensor]:
        """Measure again where the step now builds another graph than the one that was probed; return its leaves."""
        for root in roots:
            if root.numel() != 1 or not root.requires_grad:
                root.backward()  # the user's own error: PyTorch says what is wrong with this loss
        parameters = list(parameters_of(roots))
        signature = (len(parameters), *(r.grad_fn.name() if r.grad_fn is not None else "" for r in roots))
        if signature != self.site.signature:
            if self.site.signature:
                self._measure()
            self.site.signature = signature
            self.site.find_targets(roots, dict(zip(self.batch, pieces, strict=True)))
            self.run.learn(self.site)
        if self.site.unignored:
            reason = self.site.ignored_reason(self.batch)
            if reason is not None:
                self.run.reasons[reason] = None
        return parameters

    def _weights(self) -> list[list[float]]:
        """Return the weight of every micro-batch, per loss; counted beforehand wherever the batch tells it."""
        facts = self.site.facts
        assert facts is not None  # noqa: S101 - measured before the first micro-batch
        shares = [k / self.samples for k in self.sizes]
        self._needs_rescale = False
        weights = []
        for index, fact in enumerate(facts.roots):
            targets = self.site.targets.get(index)
            if fact.reduction == "sum":
                weights.append([1.0] * len(self.sizes))
            elif fact.reduction == "measured" and targets is not None:
                totals = targets.totals(dict(self.batch), self.sizes, self.site.dim(targets.name))
                whole = sum(totals)
                weights.append([t / whole for t in totals] if whole else shares)
            else:
                self._needs_rescale |= fact.reduction == "measured"
                weights.append(shares)
        return weights

    def _collectors(self, values: Sequence[Any]) -> list[Collector]:
        facts = self.site.facts
        assert facts is not None  # noqa: S101 - measured before the first micro-batch
        names = (*self.read, *self.unread)
        count = len(self.read)
        return [Collector(n, f, is_read=i < count) for i, (n, f, _) in enumerate(zip(names, facts.values, values, strict=True))]

    def _backward_weighted(
        self, which: int, root: torch.Tensor, weights: Sequence[float], index: int, measured: list[torch.Tensor]
    ) -> None:
        fact = self.site.facts.roots[which]  # type: ignore[union-attr]
        weight = weights[index]
        if fact.reduction == "measured" and self.site.targets.get(which) is None:
            total = total_weight(root, fact)
            measured.append(total)
            gradient = (total / self._expected_total(total, index)).to(root.dtype).expand(root.shape)
        elif weight == 0.0 and fact.reduction == "measured":
            return  # no valid target in this micro-batch: it adds nothing, and its loss is NaN
        else:
            gradient = _gradient(weight, root)
        self._backward(which, root, gradient)

    def _expected_total(self, total: torch.Tensor, index: int) -> torch.Tensor:
        """The whole batch's total weight as the first micro-batch lets expect it; `rescale` puts it right."""
        if index == 0:
            self._expected = torch.clamp(total * (self.samples / self.sizes[0]), min=1.0)
        return self._expected

    def _backward(self, which: int, root: torch.Tensor, gradient: torch.Tensor | None) -> None:
        options = dict(self.options[which]) if self.options else {}
        if gradient is not None:
            options["gradient"] = gradient
        if self.backward is not None:
            self.backward(root, **options)
        else:
            root.backward(**options)  # type: ignore[arg-type]

    def _results(
        self, collectors: Sequence[Collector], weights: list[list[float]], measured: list[list[torch.Tensor]]
    ) -> tuple[Any, ...]:
        value_weights = weights[0]
        if self._needs_rescale:
            totals = next(m for m in measured if m)
            stacked = torch.stack(totals)
            whole = stacked.sum()
            self.gradients.rescale(self._expected / whole)
            value_weights = (stacked / whole).tolist()
        results = tuple(c.result(self._value_weights(c, weights, value_weights)) for c in collectors)
        loss = next((r for r, c in zip(reversed(results), reversed(collectors), strict=True) if c.is_loss), None)
        self.loss = None if isinstance(loss, Released) else loss
        return results

    def _value_weights(self, collector: Collector, weights: list[list[float]], measured: list[float]) -> Sequence[float]:
        fact = next((f for f in collector.facts if isinstance(f, Scalar)), None)
        if fact is None or fact.reduction == "measured":
            return measured
        return [k / self.samples for k in self.sizes]


_GRADIENTS: dict[tuple[float, torch.dtype, torch.device, torch.Size], torch.Tensor] = {}


def _gradient(weight: float, root: torch.Tensor) -> torch.Tensor | None:
    """Return the weight as the gradient to start from: no extra node, and none at all for a weight of one."""
    if weight == 1.0:
        return None
    key = (weight, root.dtype, root.device, root.shape)
    made = _GRADIENTS.get(key)
    if made is None:
        if len(_GRADIENTS) > 256:  # noqa: PLR2004 - weights counted from targets differ in every step
            _GRADIENTS.clear()
        made = _GRADIENTS[key] = torch.full(root.shape, weight, dtype=root.dtype, device=root.device)
    return made
