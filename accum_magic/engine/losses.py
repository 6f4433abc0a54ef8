"""The losses of the whole batch, from those of its micro-batches: what is logged is what the plain cell logs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from accum_magic.engine.facts import Part, Scalar
from accum_magic.engine.remember import Named, Remembered, scaled_by
from accum_magic.engine.weights import AnotherGraphError, Walk

_Tree = dict[int, Any]  # by input of a node: the tree below it, or which part begins there


class Recombined:
    """One loss over the micro-batches of a step, weighed as its gradients are (transformers#35204).

    `weights` are those of the gradient where they are known: else the totals are read from each graph.
    """

    __slots__ = ("_known", "_measured", "_ones", "_rows", "_sizes", "_totals", "_tree", "_walk", "fact",
                 "is_doubtful", "looks", "pieces")  # fmt: skip

    def __init__(self, fact: Scalar, sizes: Sequence[int], weights: Sequence[float] | None) -> None:
        self.fact, self._sizes = fact, sizes
        self.is_doubtful = False  # a part was made out of sight, so all of it is taken for a mean
        self.pieces: list[torch.Tensor] = []
        """The loss of each micro-batch, without its graph."""
        self._known = _known_weights(fact, sizes) if weights is None else weights
        self.looks = self._known is None
        """Whether more than its value has to be taken of a micro-batch."""
        self._tree: _Tree | None = None
        self._walk: Walk | None = None
        if self.looks:
            self._rows: list[torch.Tensor] = []  # per micro-batch, what each part adds
            self._totals: list[torch.Tensor] = []
            self._measured = [i for i, part in enumerate(fact.summands) if part.reduction == "measured"]
            self._walk = Walk(fact.summands[i].total_path for i in self._measured)
            self._tree = _tree_of(fact.parts) if fact.parts else None
            self._ones: torch.Tensor | None = None

    @property
    def is_mixed(self) -> bool:
        """Whether its parts are weighed apart."""
        return self._tree is not None

    def take(self, value: torch.Tensor, remembered: Remembered | Named | None) -> None:
        """Take the loss of one micro-batch, while its graph is there."""
        self.pieces.append(value.detach())
        if self._walk is None or self.is_doubtful:
            return
        try:
            self._totals += self._walk.totals(value)
            if self._tree is not None:
                self._take_parts(value, self._tree, remembered)
        except (AnotherGraphError, LookupError):
            self.is_doubtful = True

    def _take_parts(self, value: torch.Tensor, tree: _Tree, remembered: Remembered | Named | None) -> None:
        if self._ones is None:
            self._ones = torch.ones_like(value, requires_grad=False)
        if remembered is None:  # the loss is another than before, which its first micro-batch has told
            raise LookupError
        self._rows += _parts_of(value, self._ones, tree, len(self.fact.parts), remembered)

    def resize(self, count: int, sizes: Sequence[int], weights: Sequence[float] | None) -> None:
        """Keep what the first `count` micro-batches have given; from there on they have other sizes."""
        self._sizes = sizes
        self._known = _known_weights(self.fact, sizes) if weights is None else weights
        del self.pieces[count:]
        if self._walk is not None:
            del self._totals[count * len(self._measured) :], self._rows[count * len(self.fact.parts) :]

    def result(self) -> torch.Tensor:
        """Return the loss of the whole batch."""
        pieces = torch.stack(self.pieces)
        if self._known is not None:
            return _weighed_by_numbers(pieces, self._known)
        shares = self._shares(pieces)
        if self.is_doubtful:
            return _weighed(pieces, shares)
        weights = [self._weights(place, part, shares) for place, part in enumerate(self.fact.summands)]
        if self._tree is None:
            return _weighed(pieces, weights[0])
        rows = torch.stack(self._rows).to(shares.dtype).view(len(pieces), -1)  # (micro-batches, parts)
        parts = torch.stack([_weighed(rows[:, i], weight) for i, weight in enumerate(weights)])
        return (parts.sum() + self._constant(pieces, rows)).to(pieces.dtype).view_as(pieces[0])

    def _shares(self, pieces: torch.Tensor) -> torch.Tensor:
        exact = torch.float32 if pieces.device.type == "mps" else torch.float64
        return torch.tensor(self._sizes, dtype=exact, device=pieces.device) / sum(self._sizes)

    def _weights(self, place: int, part: Part, shares: torch.Tensor) -> torch.Tensor:
        if part.reduction == "sum":
            return torch.ones_like(shares)
        if part.reduction != "measured":
            return shares
        column = self._totals[self._measured.index(place) :: len(self._measured)]
        totals = torch.stack([total.reshape(()) for total in column]).to(shares)
        return totals / totals.sum() * shares**part.power

    def _constant(self, pieces: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return what the loss holds beside its parts: numbers without a graph, `loss - 3`."""
        rest = pieces.reshape(-1).to(rows.dtype) - rows.sum(1)
        shares = torch.tensor(self._sizes, dtype=rest.dtype, device=rest.device)
        is_told = ~rest.isnan()  # one with a mean over nothing in it does not tell
        return torch.where(is_told, rest * shares, 0).sum() / torch.where(is_told, shares, 0).sum()


def _weighed(pieces: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the sum of the pieces; one without weight may be NaN and adds nothing."""
    weights = weights.view(-1, *(1,) * (pieces.ndim - 1))
    return torch.where(weights == 0, torch.zeros_like(pieces), pieces * weights).sum(0).to(pieces.dtype)


def _known_weights(fact: Scalar, sizes: Sequence[int]) -> Sequence[float] | None:
    """Return the weights that need no look at the graphs."""
    if fact.reduction == "sum":
        return [1.0] * len(sizes)
    if fact.reduction in {"measured", "mixed"}:
        return None
    samples = sum(sizes)
    return [k / samples for k in sizes]


def _weighed_by_numbers(pieces: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    if weights[0] * len(weights) == 1.0 and len(set(weights)) == 1:
        return pieces.mean(0)  # one operation; and in float16 their sum may overflow
    if len(set(weights)) == 1:
        return pieces.sum(0) * weights[0]
    return _weighed(pieces, torch.tensor(weights, dtype=pieces.dtype, device=pieces.device))


def _tree_of(parts: Sequence[Part]) -> _Tree:
    tree: _Tree = {}
    for place, part in enumerate(parts):
        below = tree
        for index in part.path[:-1]:
            below = below.setdefault(index, {})
        below[part.path[-1]] = place
    return tree


def _parts_of(
    value: torch.Tensor, ones: torch.Tensor, tree: _Tree, count: int, remembered: Remembered | Named
) -> list[torch.Tensor]:
    """Return what each part adds to a value: the product of its own value and the value's gradient by it.

    The nodes between are called as functions: they add up, so what they hand down are the coefficients.
    """
    found = [ones] * count
    stack: list[tuple[Any, torch.Tensor, _Tree]] = [(value.grad_fn, ones, tree)]
    while stack:
        node, gradient, below = stack.pop()
        handed = node(gradient)
        gradients = handed if isinstance(handed, tuple) else (handed,)
        edges = node.next_functions
        for index, goal in below.items():
            kid = edges[index][0]
            if isinstance(goal, int):
                found[goal] = _added(kid, gradients[index], remembered)
            else:
                stack.append((kid, gradients[index], goal))
    return found


def _added(node: Any, gradient: torch.Tensor, remembered: Remembered | Named) -> torch.Tensor:
    """Return what a node's value adds, or the value that it multiplies by a number."""
    while (value := remembered.value_of(node)) is None:
        below = scaled_by(node)
        if below is None:
            raise LookupError
        handed = node(gradient)
        node, gradient = node.next_functions[below][0], handed[below] if isinstance(handed, tuple) else handed
    added = gradient * value.detach()
    return added if added.ndim == 0 else added.sum()
