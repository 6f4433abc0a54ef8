"""Values that a step takes by the place in the batch: `EPS[: len(x)]`, `torch.arange(len(loss))`.

On the first samples of a batch such values look as those of the samples do, and each micro-batch would be given
the first of them. Copies of one sample tell: what belongs to the samples is the same for each of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from accum_magic.engine.constants import OPERANDS
from accum_magic.engine.graph import Lockstep, Output, is_equal
from accum_magic.engine.leaves import pair_top

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch.autograd.graph import Node

    from accum_magic.engine.graph import Pair


def taken_by_place(
    order: Iterable[Pair], roots: Sequence[torch.Tensor], copies: Sequence[torch.Tensor], k: int
) -> frozenset[Node]:
    """Return the nodes of the smaller run that have an operand whose rows are those of the batch's places.

    Args:
        order: pairs of nodes on ``k`` and on ``k + 1`` samples, below the roots.
        roots: those of the smaller run.
        copies: roots of a run on ``k`` copies of one sample.
        k: samples of the smaller run.

    """
    steps = Lockstep()
    for mine, theirs in zip(roots, copies, strict=True):
        pair_top(steps, mine, theirs)
    partners = {pair.small: pair.large for pair in steps.order if not pair.differs}
    return frozenset(
        pair.small
        for pair in order
        if not pair.differs and pair.small in partners and _has_placed_operand(pair, partners[pair.small], k)
    )


def _has_placed_operand(pair: Pair, copied: Node, k: int) -> bool:
    found = False
    for name in OPERANDS:
        small, large = pair.saved(name)
        if not isinstance(small, torch.Tensor) or not isinstance(large, torch.Tensor):
            continue
        growing = Output.of(tuple(small.shape), tuple(large.shape)).growing
        rows = getattr(copied, f"_saved_{name}", None)
        if len(growing) == 1 and isinstance(rows, torch.Tensor) and rows.shape == small.shape:
            each, rest = divmod(small.shape[growing[0]], k)
            if not rest and each == large.shape[growing[0]] - small.shape[growing[0]]:
                found |= not _is_alike(rows.detach(), growing[0], k, each)
    return found


def _is_alike(rows: torch.Tensor, dim: int, k: int, each: int) -> bool:
    """Whether the samples agree, in whatever order they follow each other: (k, each), (each, k) or in between."""
    if rows.layout is not torch.strided or rows.numel() == 0:
        return True
    rows = rows.nan_to_num()  # copies have no spread to divide by
    for blocks in (b for b in range(1, each + 1) if each % b == 0):
        apart = rows.reshape(*rows.shape[:dim], blocks, k, each // blocks, *rows.shape[dim + 1 :])
        if is_equal(apart.narrow(dim + 1, 0, k - 1), apart.narrow(dim + 1, 1, k - 1)):
            return True
    return False
