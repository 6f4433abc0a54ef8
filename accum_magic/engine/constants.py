"""Operands without a graph: numbers, masks and weights, told by comparing the two runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from accum_magic.engine.graph import is_equal, shares_storage
from accum_magic.engine.reads import was_read

if TYPE_CHECKING:
    from accum_magic.engine.graph import Pair
    from accum_magic.engine.terms import Context

STATISTIC = "a value computed over the whole batch without a graph scales single samples"

SCALES_SUM = "values without a graph that may come from the batch scale a sum or mean over it"

# Where operations keep an operand that has no graph.
OPERANDS = ("self", "other", "mat1", "mat2", "vec", "input", "target", "weight", "pos_weight", "result")
_LARGEST_COMPARED = 4096


@dataclass(frozen=True, slots=True)
class Factor:
    """A constant operand in both runs."""

    ratio: float = 1.0
    """Its value on k + 1 samples over that on k."""
    is_data: bool = False
    """Computed from the data: equal or proportional values are chance."""
    fault: str = ""


def factor(pair: Pair, name: str, context: Context, *, divides: bool, is_reduced: bool) -> Factor:
    """What a multiplication or division by the operand saved under ``name`` does to a denominator.

    ``is_reduced``: what is multiplied or divided is a sum over the batch already.
    """
    small, large = pair.saved(name)
    if small is None or large is None:
        return Factor()
    if isinstance(small, torch.Tensor):
        if small.numel() != 1 or large.numel() != 1:
            if is_reduced and not shares_storage(small, large):
                return Factor(fault=SCALES_SUM)  # equal by chance, as the experts' loads of a few samples are
            return Factor(fault=differing_rows(small, large, context))
        if shares_storage(small, large):
            return Factor()
        is_fresh = not _is_wrapped(small)
        small, large = small.item(), large.item()
    else:
        is_fresh = False
    found = _number(small, large, context, is_fresh=is_fresh)
    # As a factor, a tensor that is equal in both runs is a coefficient. As a divisor of samples it is a
    # temperature unless it is a whole number; as a divisor of a sum it is a total, equal by chance: the
    # class weights of valid targets, where the added sample has none.
    is_whole = not isinstance(small, complex) and float(small).is_integer()
    is_total = divides and small == large and (is_reduced or is_whole)
    return Factor(found.ratio, found.is_data and (small != large or is_total))


def _number(small: Any, large: Any, context: Context, *, is_fresh: bool) -> Factor:
    if isinstance(small, complex) or small == 0 or large == 0:
        return Factor(is_data=True)
    comes_from_data = is_fresh or was_read((float(small), float(large)), context.reads)
    return Factor(large / small, is_data=comes_from_data)


def _is_wrapped(tensor: torch.Tensor) -> bool:
    # A Python number inside a tensor gives way to any tensor in type promotion, a 0-dim tensor does not.
    probe = torch.tensor(1, dtype=torch.float16 if tensor.is_floating_point() else torch.int8)
    return tensor.dim() == 0 and torch.result_type(tensor, probe) != tensor.dtype


def is_total(pair: Pair, context: Context) -> bool:
    """Whether a quotient's divisor is a sum over the samples of the batch, such as the number of valid tokens.

    Proven by the way it was made: a clamp or an epsilon on top of it adds nothing up over micro-batches.
    """
    small, large = pair.saved("other")
    if not isinstance(small, torch.Tensor) or not isinstance(large, torch.Tensor):
        return False
    places = [reads.place_of(total) for reads, total in zip(context.reads, (small, large), strict=True)]
    if None in places or places[0] != places[1]:
        return False
    place = places[0] or 0
    mine, theirs = (reads.totals[place][1] for reads in context.reads)
    growing = [i for i, size in enumerate(mine.shape) if size != theirs.shape[i]] if mine.ndim == theirs.ndim else []
    if len(growing) != 1 or not context.is_regular(mine.shape[growing[0]], theirs.shape[growing[0]]):
        return False
    # Weights of both signs may add up to nothing though there is something to weigh.
    is_positive = bool((mine >= 0).all() and (theirs >= 0).all())
    return is_positive and not differing_rows(mine, theirs, replace(context, is_quiet=True))


def differing_rows(small: torch.Tensor, large: torch.Tensor, context: Context) -> str:
    """Why two runs disagree about one sample: the first row of both must be the same; empty if it is."""
    if not context.is_quiet or small.dim() != large.dim() or shares_storage(small, large):
        return ""
    growing = [i for i in range(small.dim()) if small.shape[i] != large.shape[i]]
    if len(growing) > 1 or small.numel() == 0 or small.layout is not torch.strided:
        return ""
    if growing:
        small, large = small.select(growing[0], 0), large.select(growing[0], 0)
    if small.shape != large.shape:
        return ""
    first, second = (tensor.detach().reshape(-1)[:_LARGEST_COMPARED] for tensor in (small, large))
    return "" if is_equal(first, second) else STATISTIC


def differing_operands(pair: Pair, context: Context) -> str:
    """Why an operation on values without a graph is no operation per sample; empty if nothing shows it."""
    if not context.is_quiet:
        return ""
    for name in OPERANDS:
        small, large = pair.saved(name)
        if isinstance(small, torch.Tensor) and isinstance(large, torch.Tensor):
            fault = differing_rows(small, large, context)
            if fault:
                return fault
    return ""


def is_same_tensor(first: Pair, second: Pair, name: str) -> bool:
    """Whether two nodes of one graph saved the same tensor under a name; that two are equal may be chance."""
    return all(
        mine is theirs or (mine is not None and theirs is not None and _is_same(mine, theirs))
        for mine, theirs in zip(first.saved(name), second.saved(name), strict=True)
    )


def _is_same(first: torch.Tensor, second: torch.Tensor) -> bool:
    return first.shape == second.shape and first.stride() == second.stride() and shares_storage(first, second)
