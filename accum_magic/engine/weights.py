"""The weight of each micro-batch in the gradient: a mean's share, one for a sum, a measured total weight.

A cross entropy divides by the total weight of its valid targets (`ignore_index`, class weights), which
differs between micro-batches (transformers#34191). Where those targets are a leaf of the batch the
totals are counted before the loop; where they are made inside the model, every micro-batch's total is
read from its graph, and the gradients are rescaled once at the end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from accum_magic.engine.facts import Scalar
from accum_magic.engine.split import flatten

_INT64 = 1 << 63
_LOOKED_AT = 32  # nodes of a loss that tell it from another


@dataclass(frozen=True, slots=True)
class Targets:
    """Where in the batch the targets of a cross entropy lie, and what counts among them."""

    name: str
    leaf: int
    ignore_index: int
    class_weight: torch.Tensor | None

    def totals(self, batch: Mapping[str, Any], sizes: Sequence[int], dim: int) -> Sequence[float]:
        """Return the total weight of each micro-batch's targets, up to a common factor."""
        if self.all_count(batch):
            return sizes
        target = self._of(batch)
        valid = target != self.ignore_index
        if self.class_weight is None:
            weight = valid.to(torch.float64 if target.device.type != "mps" else torch.float32)
        else:
            safe = torch.where(valid, target, torch.zeros_like(target))
            weight = self.class_weight.to(target.device)[safe] * valid
        rows = weight.movedim(dim, 0).flatten(1).sum(1) if weight.ndim > 1 else weight
        return [float(piece.sum()) for piece in torch.split_with_sizes(rows, list(sizes))]

    def all_count(self, batch: Mapping[str, Any]) -> bool:
        """Whether every target counts the same, so that the total weight is their number."""
        return self.class_weight is None and not bool((self._of(batch) == self.ignore_index).any())

    def _of(self, batch: Mapping[str, Any]) -> torch.Tensor:
        value = batch[self.name]
        return value if isinstance(value, torch.Tensor) else flatten(value)[0][self.leaf]


def node_at(root: torch.Tensor, path: Sequence[int]) -> Any:
    """Return the graph node that a path leads to."""
    node: Any = root.grad_fn
    for index in path:
        node = node.next_functions[index][0]
    return node


class Walk:
    """The way to the cross entropies of a loss, each step of it gone once: over time steps there are many."""

    def __init__(self, paths: Iterable[tuple[int, ...]]) -> None:
        places: dict[tuple[int, ...], int] = {(): 0}
        self._steps: list[tuple[int, int]] = []  # from which node on the way, to which input of it
        self._goals: list[int] = []
        for path in paths:
            for length in range(1, len(path) + 1):
                if path[:length] not in places:
                    places[path[:length]] = len(places)
                    self._steps.append((places[path[: length - 1]], path[length - 1]))
            self._goals.append(places[path])

    def total_weights(self, root: torch.Tensor) -> list[torch.Tensor]:
        """Return what the nodes of one micro-batch's graph divide by; nothing if its graph is another one."""
        on_the_way: list[Any] = [root.grad_fn]
        try:
            for source, index in self._steps:
                on_the_way.append(on_the_way[source].next_functions[index][0])
            return [on_the_way[goal]._saved_total_weight for goal in self._goals]
        except (AttributeError, IndexError):
            return []


def total_weight(root: torch.Tensor, fact: Scalar) -> torch.Tensor:
    """Return the total weight of the targets behind a measured loss; no synchronisation."""
    return node_at(root, fact.path)._saved_total_weight.detach()  # type: ignore[no-any-return]


def find_targets(node: Any, pieces: dict[str, Any]) -> Targets | None:
    """Find the leaf of a micro-batch that a cross entropy takes as its targets; None where it made its own."""
    target = getattr(node, "_saved_target", None)
    if target is None or target.is_floating_point():
        return None
    ignore = int(node._saved_ignore_index)
    for name, piece in pieces.items():
        leaves = (piece,) if isinstance(piece, torch.Tensor) else flatten(piece)[0]
        for index, leaf in enumerate(leaves):
            if isinstance(leaf, torch.Tensor) and _same_memory(leaf, target):
                weight = node._saved_weight
                return Targets(name, index, ignore - 2 * _INT64 if ignore >= _INT64 else ignore,
                               None if weight is None else weight.detach())  # fmt: skip
    return None


def _same_memory(left: torch.Tensor, right: torch.Tensor) -> bool:
    return (
        left.data_ptr() == right.data_ptr()
        and left.numel() == right.numel()
        and left.dtype == right.dtype
        and left.is_contiguous() == right.is_contiguous()
    )


def scalar_tree(root: torch.Tensor) -> Iterator[object]:
    """Yield what the single numbers behind a loss are made by: another loss on another step shows here."""
    stack: list[Any] = [root.grad_fn]
    for _ in range(_LOOKED_AT):
        if not stack:
            return
        node = stack.pop()
        if node is None:
            continue
        yield node.name()
        yield getattr(node, "_saved_reduction", None)
        stack += [n for n, _ in node.next_functions if n is not None and _is_number(n)]


def _is_number(node: Any) -> bool:
    outputs: Sequence[Any] = getattr(node, "_input_metadata", ())
    return len(outputs) == 1 and math.prod(outputs[0].shape) == 1


def look_at(roots: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], tuple[object, ...]]:
    """Return the leaves that a backward accumulates into, and a signature by which another graph is told from this."""
    norms: list[object] = []
    parameters = list(parameters_of(roots, norms))
    return parameters, (len(parameters), *norms, *(part for root in roots for part in scalar_tree(root)))


def parameters_of(roots: Sequence[torch.Tensor], norms: list[object] | None = None) -> Iterator[torch.Tensor]:
    """Yield the leaves that a backward from `roots` will accumulate gradients into.

    With `norms`, note there whether each batch norm on the way is in training mode.
    """
    stack = [root.grad_fn for root in roots if root.grad_fn is not None]
    yield from (root for root in roots if root.grad_fn is None and root.requires_grad)
    seen = set(stack)
    while stack:
        node: Any = stack.pop()
        variable = getattr(node, "variable", None)
        if variable is not None:
            yield variable
        elif norms is not None and "BatchNorm" in node.name():
            norms.append(getattr(node, "_saved_training", None))
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                stack.append(following)
