"""A forward that only counts: what the losses of each micro-batch divide by, before any of them is weighed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from accum_magic.engine.facts import StepFacts
from accum_magic.engine.undo import Rehearsal
from accum_magic.engine.weights import AnotherGraphError, Walk

PartKey = tuple[int, int]
"""Which root, and which of its parts."""
Totals = Mapping[PartKey, Sequence[float]]


def count_totals(  # noqa: PLR0913, PLR0917 - what a forward pass and the look at it need
    micro_step: Callable[..., Any],
    micro_batches: Iterable[Sequence[Any]],
    facts: StepFacts,
    wanted: Sequence[PartKey],
    sources: Mapping[str, object],
    first: Sequence[torch.Tensor] | None = None,
) -> Totals:
    """Run every micro-batch forward once and read what its losses divide by.

    A gradient that has been added to others cannot be weighed any more, so beside terms with another
    denominator the whole batch's total has to be known before the first backward. Random states and all
    state that a forward changes are put back: the loop that follows draws the same numbers.

    Args:
        micro_step: Forward pass of one micro-batch.
        micro_batches: Its arguments, for each of them.
        facts: What is known of the step.
        wanted: Roots and parts.
        sources: What the forward reads, by name, as for `probe`.
        first: The losses of a micro-batch before these, which has run already.

    Returns:
        The totals of every micro-batch; nothing if the graph is not the one that was measured.

    """
    roots_of = sorted({which for which, _ in wanted})
    order = [[key for key in wanted if key[0] == which] for which in roots_of]
    walks = [Walk(facts.roots[which].summands[i].total_path for _, i in keys)
             for which, keys in zip(roots_of, order, strict=True)]  # fmt: skip
    rows: list[torch.Tensor] = []
    try:
        if first is not None:
            rows.append(_totals([first[which] for which in roots_of], walks))
        with Rehearsal(sources):
            for pieces in micro_batches:
                roots, _ = micro_step(*pieces)
                rows.append(_totals([roots[which] for which in roots_of], walks))
                del roots, _
    except AnotherGraphError:
        return {}
    keys = [key for group in order for key in group]
    columns = torch.stack(rows).T.tolist()
    return dict(zip(keys, columns, strict=True))


def _totals(roots: Sequence[torch.Tensor], walks: Sequence[Walk]) -> torch.Tensor:
    totals = [total for root, walk in zip(roots, walks, strict=True) for total in walk.totals(root)]
    device = roots[0].device
    exact = torch.float32 if device.type == "mps" else torch.float64
    return torch.stack([total.to(device, exact).reshape(()) for total in totals])
