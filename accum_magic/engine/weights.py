"""What a step's graphs tell: the totals that its losses divide by, its parameters, whether it is the same graph."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from accum_magic.engine.facts import Path

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
