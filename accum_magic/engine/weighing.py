"""How much each micro-batch of one step counts in the gradient, for a loss as a whole or summand by summand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch

from accum_magic.engine.counting import Totals
from accum_magic.engine.facts import Part, Path, Scalar, StepFacts
from accum_magic.engine.site import Site
from accum_magic.engine.weights import AnotherGraphError, Walk, node_at, total_at

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

Weights = tuple[float, ...]
UNCOUNTED = "the graph changes from micro-batch to micro-batch, so the terms of a loss could not be weighed apart"


class Nothing:
    """In place of a gradient: the micro-batch adds nothing, so there is nothing to back-propagate."""


class Weighing:
    """The weights of one step's micro-batches.

    Shares of the samples for means, ones for sums; for cross entropies the share of the total weight of
    valid targets, counted beforehand where the batch holds them, else read from each graph. A loss of
    several parts starts its backward from the share, and the parts with other weights are scaled on the way.
    """

    def __init__(
        self, site: Site, facts: StepFacts, batch: Mapping[str, Any], sizes: tuple[int, ...], counted: Totals
    ) -> None:
        self.facts = facts
        self.sizes = sizes
        self.shares = shares_of(sizes)
        self.reads_totals = False
        self.doubt = ""
        """Why the gradients are only approximate; empty if they are not."""
        self._site, self._batch, self._counted = site, batch, counted
        self._totals: list[torch.Tensor] = []
        self._expected: torch.Tensor | None = None
        self._starts: dict[int, Sequence[torch.Tensor | Nothing | None]] = {}  # by root, and by micro-batch
        self._scalings: dict[int, _Scaling] = {}
        self.handles: list[RemovableHandle] = []
        self._weights = [self._of_root(which, fact) for which, fact in enumerate(facts.roots)]

    def _of_root(self, which: int, fact: Scalar) -> Weights | None:
        """Return the weights that a loss's backward starts from; None where they are read from the graphs."""
        summands: Sequence[Part | Scalar] = fact.parts or (fact,)
        parts = [self._of_part((which, i), part) for i, part in enumerate(summands)]
        if len(parts) == 1 and parts[0] is not None:
            return parts[0]
        if parts == [None] and len(self.facts.roots) == 1:
            self.reads_totals = True
            return None
        if None in parts:
            self.doubt = UNCOUNTED
        known = [self.shares if part is None else part for part in parts]
        first = known[0]
        if all(part == first for part in known):
            return first
        self._scalings[which] = _Scaling(fact.parts, known, self.shares)
        return self.shares

    def _of_part(self, key: tuple[int, int], part: Part | Scalar) -> Weights | None:
        if part.reduction == "sum":
            return (1.0,) * len(self.sizes)
        if part.reduction != "measured":
            return self.shares
        targets = self._site.targets.get(key)
        totals = self._counted.get(key) if targets is None else targets.totals(self._batch, self.sizes)
        if totals is None:
            return None
        whole = sum(totals)
        if not whole or (totals is self.sizes and not part.power):
            return self.shares  # all targets count; or none does, and 0 / 0 is the plain cell's NaN
        return tuple(t / whole * share**part.power for t, share in zip(totals, self.shares, strict=True))

    def of_root(self, which: int | None) -> Weights | None:
        """Return the weights of a loss that has one per micro-batch; None for all others."""
        return None if which is None or which in self._scalings else self._weights[which]

    def go_on(self, earlier: Weighing, count: int) -> None:
        """Take over what the first `count` micro-batches of the step have told, before the others were cut anew."""
        self._totals, self._expected, self.doubt = earlier._totals[:count], earlier._expected, earlier.doubt

    def gradient(self, which: int, index: int, root: torch.Tensor) -> torch.Tensor | Nothing | None:
        """Return what a loss's backward starts from; None stands for one.

        Parts with weights of their own are scaled when it comes by, until `release` is called.
        """
        if which in self._scalings:
            try:
                self.handles += self._scalings[which].attach(root, index)
            except AnotherGraphError:
                self.doubt = UNCOUNTED
        starts = self._starts.get(which)
        if starts is None:
            weights = self._weights[which]
            if weights is None:
                return self._read_total(which, index, root)
            starts = self._starts[which] = _starts(root, weights)
        return starts[index]

    def release(self) -> None:
        """Take off what scales the parts of a loss: another loss may go through the same graph."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()

    def _read_total(self, which: int, index: int, root: torch.Tensor) -> torch.Tensor:
        """Weigh by the total weight over what the first micro-batch lets expect of the whole; no synchronisation."""
        fact = self.facts.roots[which]
        node = node_at(root, fact.total_path)
        exact = torch.promote_types(root.dtype, torch.float32)  # a number of tokens is an integer
        total = total_at(node).to(root.device, exact)
        if getattr(node, "_saved_weight", True) is not None:  # a cross entropy without class weights has no 0 / 0
            self.handles.append(node.register_hook(_nothing_where_empty(total)))
        self._totals.append(total)
        if self._expected is None:
            self._expected = torch.clamp(total * (sum(self.sizes) / self.sizes[0]), min=1.0)
        weight = total / self._expected * self.shares[index] ** fact.power
        return weight.to(root.dtype).expand(root.shape)

    def rescaling(self) -> torch.Tensor | None:
        """Return the factor that puts gradients weighed by expected totals right; None where nothing was expected."""
        if self._expected is None:
            return None
        return self._expected / torch.stack(self._totals).sum()


@lru_cache(maxsize=64)  # a loop asks the same in every step
def shares_of(sizes: tuple[int, ...]) -> Weights:
    """Return what part of the batch each micro-batch is."""
    samples = sum(sizes)
    return tuple(k / samples for k in sizes)


def _starts(root: torch.Tensor, weights: Weights) -> Sequence[torch.Tensor | Nothing | None]:
    """Return what the backward of each micro-batch starts from; those of one weight share it."""
    made = {weight: _start(root, weight) for weight in set(weights)}
    return list(map(made.__getitem__, weights))


def _start(root: torch.Tensor, weight: float) -> torch.Tensor | Nothing | None:
    if weight == 1.0:
        return None
    if weight == 0.0:
        return Nothing()  # no valid target: its loss is NaN, and NaN survives a multiplication by zero
    return torch.full_like(root, weight, requires_grad=False)


GradientHook = Callable[[tuple[Any, ...], tuple[Any, ...]], tuple[Any, ...]]


def _nothing_where_empty(total: torch.Tensor) -> GradientHook:
    """Make the gradient of a mean over nothing zero: it is NaN, which survives a multiplication by zero."""

    def hook(inputs: tuple[Any, ...], _: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(None if g is None else torch.where(total == 0, torch.zeros_like(g), g) for g in inputs)

    return hook


class _Scaling:
    """Scales the gradients of a loss's parts where the sum hands them down.

    Not at the parts' own nodes: a parameter that is a part has one that outlives the graph, and what is
    read by two parts has one gradient for both.
    """

    def __init__(self, parts: Sequence[Part], weights: Sequence[Weights], base: Weights) -> None:
        by_sum: dict[Path, dict[int, Weights]] = {}
        for part, own in zip(parts, weights, strict=True):
            if own != base:
                factors = tuple(w / b for w, b in zip(own, base, strict=True))
                by_sum.setdefault(part.path[:-1], {})[part.path[-1]] = factors
        self._sums = [tuple(inputs.items()) for inputs in by_sum.values()]
        self._walk = Walk(by_sum)
        self._hooks: dict[tuple[int, int], GradientHook] = {}

    def attach(self, root: torch.Tensor, index: int) -> list[RemovableHandle]:
        """Hang a hook on each sum; one that is reached by two ways gets it once."""
        nodes = {node: place for place, node in enumerate(self._walk.nodes(root))}
        return [node.register_hook(self._hook(place, index)) for node, place in nodes.items()]

    def _hook(self, place: int, index: int) -> GradientHook:
        found = self._hooks.get((place, index))
        if found is None:
            factors = [(i, own[index]) for i, own in self._sums[place]]
            found = self._hooks[place, index] = _scaled(factors)
        return found


def _scaled(factors: Sequence[tuple[int, float]]) -> GradientHook:
    def hook(inputs: tuple[Any, ...], _: tuple[Any, ...]) -> tuple[Any, ...]:
        scaled = list(inputs)
        for index, factor in factors:
            gradient = scaled[index]
            if gradient is not None and factor != 1.0:
                # None ends this way down: the gradient of a mean over nothing is NaN, and stays it times zero
                scaled[index] = gradient * factor if factor else None
        return tuple(scaled)

    return hook
