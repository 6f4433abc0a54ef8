"""What becomes of each value that a step returns."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

import torch
from torch.utils import _pytree as pytree

from accum_magic.engine.facts import Constant, Joined, Scalar, Unknown
from accum_magic.engine.graph import Output, is_equal, shares_storage
from accum_magic.engine.reads import was_read
from accum_magic.engine.verdict import scalar_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from accum_magic.engine.facts import Leaf
    from accum_magic.engine.graph import Lockstep, Pair
    from accum_magic.engine.terms import Context, Flow

_PLAIN_TYPES = (str, bytes, type(None), torch.dtype, torch.device, torch.Size, Enum, slice)
_NO_GRAPH = Unknown("a number without a graph: its reduction cannot be known")


def leaves_of(value: object) -> list[object]:
    """The leaves of a nested value, in the order that `StepFacts.values` follows."""
    return pytree.tree_leaves(value)


def pair_top(steps: Lockstep, small: object, large: object) -> Pair | None:
    """Pair the graphs of two tensors, if both have one."""
    if not isinstance(small, torch.Tensor) or not isinstance(large, torch.Tensor):
        return None
    if small.grad_fn is None or large.grad_fn is None:
        return None
    return steps.add(small.grad_fn, large.grad_fn)


def root_facts(small: torch.Tensor, top: Pair | None, flows: Mapping[Pair, Flow], context: Context) -> Scalar:
    """Facts of a tensor that the user calls ``backward`` on."""
    if top is None:
        is_leaf = small.is_leaf and small.requires_grad
        return Scalar("mean") if is_leaf else Scalar("unproven", reasons=("the loss has no graph",))
    return scalar_of(top, flows, context)


def leaf_facts(small: object, large: object, context: Context, top: Pair | None, flows: Mapping[Pair, Flow]) -> Leaf:
    """Facts of one leaf: ``top`` where it has a graph, ``flows`` of all graphs."""
    if small is large and not isinstance(small, (int, float, complex)):
        return Constant()
    if isinstance(small, torch.Tensor) and isinstance(large, torch.Tensor):
        return _tensor(small, large, context, top, flows)
    if type(small) is not type(large):
        return Unknown("its type depends on the number of samples")
    if isinstance(small, (bool, int, float)) and isinstance(large, (bool, int, float)):
        return _number(small, large, context)
    if isinstance(small, _PLAIN_TYPES) and small == large:
        return Constant()
    return Unknown(f"a {type(small).__name__} that the step builds anew")


def _number(small: float, large: float, context: Context) -> Leaf:
    # Two counts of right answers are often equal. A number is constant only if it was not read off a tensor;
    # a float may have been computed from any number that was.
    read = bool(context.reads[0].numbers) if isinstance(small, float) else was_read((small, large), context.reads)
    is_traced = not context.reads[0].arrays and not read
    return Constant() if small == large and is_traced else _NO_GRAPH


def _tensor(
    small: torch.Tensor, large: torch.Tensor, context: Context, top: Pair | None, flows: Mapping[Pair, Flow]
) -> Leaf:
    flow = None if top is None else flows[top]
    output = Output.of(tuple(small.shape), tuple(large.shape))
    if len(output.small) != len(output.large):
        return Unknown("its number of dimensions depends on the number of samples")
    if output.growing:
        return _joined(small, large, output, context, top, flow)
    if top is not None and flow is not None:
        if small.numel() == 1:
            return scalar_of(top, flows, context)
        if flow.is_ragged:
            return Unknown("the data decide how many rows it has")
        is_free = flow.kind == "free" and flow.is_unscaled and not flow.fault
        return Constant() if is_free else Unknown(flow.fault or "several values that are reduced over the batch")
    if shares_storage(small, large):
        return Constant()
    if small.numel() == 1:
        return _NO_GRAPH
    return Constant() if torch.equal(small, large) else Unknown("it depends on the batch and has no batch dimension")


def _joined(  # noqa: PLR0913, PLR0917 - what both runs tell
    small: torch.Tensor, large: torch.Tensor, output: Output, context: Context, top: Pair | None, flow: Flow | None
) -> Leaf:
    dim = output.growing[0]
    if len(output.growing) > 1:
        return Unknown("several of its dimensions grow with the batch")
    if not context.is_regular(output.small[dim], output.large[dim]):
        return Unknown("its size is no fixed number of rows per sample")
    if flow is not None and (fault := _fault(flow)):
        is_proven = context.is_quiet and top is not None and _is_packed(top) and _is_start(small, large, dim)
        return Joined(dim) if is_proven else Unknown(fault, has_rows=True)
    # Without a graph the order within (k * m) rows is not told: samples first if the common part agrees.
    if flow is None and output.small[dim] > context.k and context.is_quiet and not _is_start(small, large, dim):
        return Unknown("its rows do not follow each other sample by sample")
    return Joined(dim)


def _fault(flow: Flow) -> str:
    if flow.fault:
        return flow.fault
    if flow.is_ragged:
        return "the data decide how many rows it has"
    return "the samples stand in it more than once, one batch after the other" if flow.blocks > 1 else ""


def _is_packed(top: Pair) -> bool:
    """Whether sequences were packed below: sorted by length, stepped through, and sorted back by `nn.LSTM`."""
    # By the nodes of one run: the longest sequence decides how many steps there are, so the graphs part early.
    stack, seen = [top.small], {top.small}
    while stack:
        node = stack.pop()
        if "PackPaddedSequence" in node.name():
            return True
        below = [source for source, _ in node.next_functions if source is not None and source not in seen]
        seen.update(below)
        stack += below
    return False


def _is_start(small: torch.Tensor, large: torch.Tensor, dim: int) -> bool:
    return is_equal(small.detach(), large.detach().narrow(dim, 0, small.shape[dim]))
