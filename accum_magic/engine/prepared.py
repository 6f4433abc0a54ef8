"""What all steps of a site have in common: which parts of its losses are measured, and the ways to their totals.

Worked out once from what the probe has found, since it takes longer than to follow it. Nothing of a batch is kept,
neither its sizes, nor where its targets lie, nor what they weigh: a cell may change them all from step to step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from accum_magic.engine.counting import PartKey
from accum_magic.engine.facts import StepFacts
from accum_magic.engine.targets import Targets, find_targets
from accum_magic.engine.weights import Walk


@dataclass(frozen=True, slots=True)
class _Measured:
    """The measured parts of one loss."""

    which: int
    keys: tuple[PartKey, ...]
    walk: Walk
    """To the nodes that hold their totals."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """The measured parts of a step's losses."""

    facts: StepFacts
    needed: frozenset[PartKey]
    """Those whose totals have to be known before the first backward: of all but a loss that has one and is alone."""
    _losses: tuple[_Measured, ...]

    @classmethod
    def of(cls, facts: StepFacts) -> Prepared:
        """Work out what the facts say of measured parts."""
        losses: list[_Measured] = []
        needed: set[PartKey] = set()
        for which, fact in enumerate(facts.roots):
            measured = [(i, part) for i, part in enumerate(fact.summands) if part.reduction == "measured"]
            keys = tuple((which, i) for i, _ in measured)
            if keys:
                losses.append(_Measured(which, keys, Walk(part.total_path for _, part in measured)))
            if fact.parts or len(facts.roots) > 1:
                needed.update(keys)
        return cls(facts, frozenset(needed), tuple(losses))

    @property
    def is_measured(self) -> bool:
        """Whether there are such parts."""
        return bool(self._losses)

    def __contains__(self, key: PartKey) -> bool:
        return any(key in loss.keys for loss in self._losses)

    def targets(
        self,
        roots: Sequence[torch.Tensor],
        pieces: Mapping[str, Any],
        batch: Mapping[str, Any],
        dims: Mapping[str, int],
    ) -> dict[PartKey, Targets]:
        """Find the targets of the parts in a batch, from the graph of a micro-batch.

        Raises:
            AnotherGraphError: The graph is not the one that was probed.

        """
        found: dict[PartKey, Targets] = {}
        for loss in self._losses:
            for key, node in zip(loss.keys, loss.walk.nodes(roots[loss.which]), strict=True):
                targets = find_targets(node, pieces, batch, dims)
                if targets is not None:
                    found[key] = targets
        return found
