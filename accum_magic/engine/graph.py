"""Two autograd graphs of the same step, on k and on k + 1 samples, walked in lockstep."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import BackwardCFunction

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.autograd.graph import Node

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Output:
    """One output of a forward operation, in both runs."""

    small: Shape
    large: Shape

    growing: tuple[int, ...]
    """The dimensions whose size differs between the runs; all of them when the ranks differ."""

    @classmethod
    def of(cls, small: Shape, large: Shape) -> Output:
        """Compare two shapes."""
        if small == large:
            return cls(small, large, ())
        if len(small) != len(large):
            return cls(small, large, tuple(range(max(len(small), len(large)))))
        return cls(small, large, tuple(i for i, size in enumerate(small) if size != large[i]))


@dataclass(slots=True, eq=False)
class Pair:
    """The same node in both graphs."""

    small: Node
    large: Node
    op: str
    """The forward operation: ``MulBackward0`` is ``Mul``."""
    outputs: tuple[Output, ...]
    is_opaque: bool
    """A Python autograd function, or a node that does not tell its shapes."""
    differs: bool
    """The graphs part here: nothing below is paired."""
    inputs: list[tuple[Pair, int] | None] = field(default_factory=list)
    """Per input the pair and which of its outputs; None for a tensor without a graph."""

    @property
    def is_leaf(self) -> bool:
        """Whether it stands for a tensor that gathers its gradient."""
        return self.op == "AccumulateGrad"

    def saved(self, name: str) -> tuple[Any, Any]:
        """What both nodes saved under a name; None where nothing was."""
        attribute = f"_saved_{name}"
        return getattr(self.small, attribute, None), getattr(self.large, attribute, None)

    def dims(self, *names: str) -> tuple[int, ...]:
        """Saved dimensions, counted from the front of the first output."""
        rank = len(self.outputs[0].small)
        for name in names:
            found = getattr(self.small, f"_saved_{name}", None)
            if found is not None:
                listed = found if isinstance(found, tuple) else (found,)
                return tuple(as_signed(dim) % rank if rank else 0 for dim in listed)
        return ()


def as_signed(number: int) -> int:
    """Autograd shows a negative dimension as an unsigned 64-bit number."""
    return number - 2**64 if number >= 2**63 else number


@cache
def op_of(node_name: str) -> str:
    """Name of the forward operation of a node."""
    return re.sub(r"Backwards?\d*$", "", node_name.removeprefix("torch::autograd::"))


class Lockstep:
    """Pairs of the nodes of two graphs; ``order`` lists inputs before what uses them."""

    def __init__(self) -> None:
        self.order: list[Pair] = []
        self._pairs: dict[Node, Pair] = {}
        self._partners: dict[Node, Node] = {}
        self._seen: set[Pair] = set()

    def add(self, small: Node, large: Node) -> Pair:
        """Pair two nodes and all below them; nodes already paired keep their pair."""
        top = self._pair(small, large)
        stack: list[tuple[Pair, bool]] = [(top, False)]
        seen = self._seen
        while stack:  # no recursion: a graph may be 10^4 nodes deep
            pair, is_done = stack.pop()
            if is_done:
                self.order.append(pair)
                continue
            if pair in seen:
                continue
            seen.add(pair)
            stack.append((pair, True))
            if not pair.differs:
                self._link(pair)
                stack.extend((edge[0], False) for edge in pair.inputs if edge is not None and edge[0] not in seen)
        return top

    def _link(self, pair: Pair) -> None:
        for (small, index), (large, _) in zip(pair.small.next_functions, pair.large.next_functions, strict=True):
            edge = None if small is None or large is None else (self._pair(small, large), index)
            pair.inputs.append(edge)

    def _pair(self, small: Node, large: Node) -> Pair:
        known = self._pairs.get(small)
        if known is not None and known.large is large:
            return known
        pair = _paired(small, large)
        # The same node beside two different partners: the graphs are shared differently.
        if known is not None or self._partners.setdefault(large, small) is not small:
            pair.differs = True
        else:
            self._pairs[small] = pair
        return pair


def _paired(small: Node, large: Node) -> Pair:
    outputs = _outputs(small, large)
    differs = small.name() != large.name() or _edges(small) != _edges(large) or outputs is None
    is_opaque = isinstance(small, BackwardCFunction) or not outputs
    return Pair(small, large, op_of(small.name()), outputs or (), is_opaque, differs)


def _edges(node: Node) -> list[tuple[bool, int]]:
    return [(source is None, index) for source, index in node.next_functions]


def _outputs(small: Node, large: Node) -> tuple[Output, ...] | None:
    """Shapes of all outputs; nothing where a node hides them, None where their number differs."""
    shapes, others = _shapes(small), _shapes(large)
    if len(shapes) != len(others):
        return None
    return tuple(Output.of(mine, theirs) for mine, theirs in zip(shapes, others, strict=True))


def _shapes(node: Node) -> list[Shape]:
    try:
        return [tuple(meta.shape) for meta in getattr(node, "_input_metadata", ())]
    except (RuntimeError, AttributeError):  # nested tensors have no shape to tell
        return []


def path_to(top: Pair, goal: Pair) -> tuple[int, ...]:
    """Indices of inputs that lead from one pair down to another, the shortest way."""
    queue: deque[tuple[Pair, tuple[int, ...]]] = deque([(top, ())])
    seen = {top}
    while queue:
        pair, path = queue.popleft()
        if pair is goal:
            return path
        for index, edge in enumerate(pair.inputs):
            if edge is not None and edge[0] not in seen:
                seen.add(edge[0])
                queue.append((edge[0], (*path, index)))
    msg = f"{goal.op} does not lie below {top.op}"
    raise ValueError(msg)


def chain_below(pair: Pair, limit: int = 8) -> Iterator[Pair]:
    """Follow the first input with a graph downwards, a few steps."""
    for _ in range(limit):
        below = next((edge[0] for edge in pair.inputs if edge is not None), None)
        if below is None:
            return
        yield below
        pair = below


def is_equal(first: torch.Tensor, second: torch.Tensor, tolerance: float = 1e-3) -> bool:
    """Whether two tensors of one shape agree up to what other kernels for other batch sizes may round."""
    if first.is_floating_point() or first.is_complex():
        if first.dtype in {torch.float16, torch.bfloat16}:
            tolerance = 2e-2
        size = float(first.abs().max()) if first.numel() else 0.0
        return torch.allclose(first, second, rtol=tolerance, atol=tolerance * size, equal_nan=True)
    return torch.equal(first, second)


def shares_storage(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether both runs read one tensor: both graphs are alive, so one address is one storage."""
    return first.numel() > 0 and first.data_ptr() == second.data_ptr()
