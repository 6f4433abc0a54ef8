"""What a step's graphs tell: the totals that its losses divide by, its parameters, whether it is the same graph."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from accum_magic.engine.facts import Path

_Leaf: Any = torch._C._functions.AccumulateGrad  # type: ignore[attr-defined]  # adds to a leaf's gradient
_LOOKED_AT = 32  # nodes of a loss that tell it from another


class AnotherGraphError(Exception):
    """The graph is not the one that was measured."""


def node_at(root: torch.Tensor, path: Path) -> Any:
    """Return the graph node that a path leads to."""
    node: Any = root.grad_fn
    for index in path:
        node = node.next_functions[index][0]
    return node


class Walk:
    """The way to several nodes of a loss, each step of it gone once: over time steps there are many."""

    def __init__(self, paths: Iterable[Path]) -> None:
        places: dict[Path, int] = {(): 0}
        self._steps: list[tuple[int, int]] = []  # from which node on the way, to which input of it
        self._goals: list[int] = []
        for path in paths:
            for length in range(1, len(path) + 1):
                if path[:length] not in places:
                    places[path[:length]] = len(places)
                    self._steps.append((places[path[: length - 1]], path[length - 1]))
            self._goals.append(places[path])

    def nodes(self, root: torch.Tensor) -> list[Any]:
        """Return the nodes that the paths lead to.

        Raises:
            AnotherGraphError: They lead nowhere.

        """
        on_the_way: list[Any] = [root.grad_fn]
        try:
            for source, index in self._steps:
                on_the_way.append(on_the_way[source].next_functions[index][0])
        except (AttributeError, IndexError) as error:
            raise AnotherGraphError from error
        return [on_the_way[goal] for goal in self._goals]

    def totals(self, root: torch.Tensor) -> list[torch.Tensor]:
        """Return the totals that the nodes hold.

        Raises:
            AnotherGraphError: They are others, and hold none.

        """
        try:
            return [total_at(node) for node in self.nodes(root)]
        except AttributeError as error:
            raise AnotherGraphError from error


def total_at(node: Any) -> torch.Tensor:
    """Return what a node divides by: the weight of a cross entropy's valid targets, or the divisor of a quotient."""
    total = getattr(node, "_saved_total_weight", None)
    return (node._saved_other if total is None else total).detach()  # type: ignore[no-any-return]


def look_at(roots: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], tuple[object, ...]]:
    """Return the leaves that a backward accumulates into, and a signature by which another graph is told from this.

    It tells how many leaves there are, whether each batch norm is in training mode, and what the single numbers behind
    the losses are made by.
    """
    parameters: list[torch.Tensor] = []
    marks: list[object] = []
    nodes = _nodes(roots, parameters)
    norms = {kind for kind in set(map(type, nodes)) if "BatchNorm" in kind.__name__}
    if norms:
        marks += [getattr(node, "_saved_training", None) for node in nodes if type(node) in norms]
    for root in roots:
        marks += _made_by(root)
    return parameters, (len(parameters), *marks)


def parameters_of(roots: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return the leaves that a backward from `roots` will accumulate gradients into."""
    parameters: list[torch.Tensor] = []
    _nodes(roots, parameters)
    return parameters


def _nodes(roots: Sequence[torch.Tensor], parameters: list[torch.Tensor]) -> list[Any]:
    """Return the nodes that a backward runs, each once, without those of the leaves: these go to `parameters`."""
    stack: list[Any] = [root.grad_fn for root in roots if root.grad_fn is not None]
    parameters += [root for root in roots if root.grad_fn is None and root.requires_grad]
    nodes, seen = [], set(stack)
    while stack:
        node = stack.pop()
        nodes.append(node)
        for following, _ in node.next_functions:
            if following is None or following in seen:
                continue
            seen.add(following)
            if type(following) is _Leaf:
                parameters.append(following.variable)
            else:
                stack.append(following)
    return nodes


def _made_by(root: torch.Tensor) -> list[object]:
    """Return what the single numbers behind a loss are made by: another loss on another step shows here."""
    made: list[object] = []
    stack: list[Any] = [root.grad_fn]
    for _ in range(_LOOKED_AT):
        if not stack:
            break
        node = stack.pop()
        if node is not None:
            made += node.name(), getattr(node, "_saved_reduction", None)
            stack += [n for n, _ in node.next_functions if n is not None and _is_number(n)]
    return made


def _is_number(node: Any) -> bool:
    outputs: Sequence[Any] = getattr(node, "_input_metadata", ())
    return len(outputs) == 1 and math.prod(outputs[0].shape) == 1
