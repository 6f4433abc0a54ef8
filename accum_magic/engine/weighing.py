"""How much each micro-batch of one step counts, in the gradient and in the losses that are read later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from accum_magic.engine.facts import Scalar, StepFacts
from accum_magic.engine.site import Site
from accum_magic.engine.weights import Walk, total_weight


class Nothing:
    """In place of a gradient: the micro-batch adds nothing, so there is nothing to back-propagate."""


class Weighing:
    """The weights of one step's micro-batches.

    Shares of the samples for means, ones for sums; for cross entropies the share of the total weight of
    valid targets, counted beforehand where the batch holds them, else read from each graph.
    """

    def __init__(self, site: Site, facts: StepFacts, batch: Mapping[str, Any], sizes: tuple[int, ...]) -> None:
        self.facts = facts
        self.samples = sum(sizes)
        self.sizes = sizes
        self.shares = [k / self.samples for k in sizes]
        self.reads_totals = False
        self._totals: list[torch.Tensor] = []
        self._expected: torch.Tensor | None = None
        self._made: dict[tuple[float, int], torch.Tensor | None] = {}
        self._walks = {which: Walk(fact.unignored) for which, fact in enumerate(facts.roots) if fact.unignored}
        self._counted: list[list[torch.Tensor]] = []
        self._weights = [self._of_root(which, fact, site, batch) for which, fact in enumerate(facts.roots)]

    def _of_root(self, which: int, fact: Scalar, site: Site, batch: Mapping[str, Any]) -> Sequence[float] | None:
        """Return the weights of a loss; None where they are read from the graphs."""
        if fact.reduction == "sum":
            return [1.0] * len(self.sizes)
        if fact.reduction != "measured":
            return self.shares
        targets = site.targets.get(which)
        if targets is None:
            self.reads_totals = True
            return None
        totals = targets.totals(batch, self.sizes, site.dim(targets.name))
        whole = sum(totals)
        return [t / whole for t in totals] if whole else self.shares  # 0 / 0 is the plain cell's NaN

    def gradient(self, which: int, index: int, root: torch.Tensor) -> torch.Tensor | Nothing | None:
        """Return what a loss's backward starts from; None stands for one."""
        if which in self._walks:
            self._counted.append(self._walks[which].total_weights(root))
        weights = self._weights[which]
        if weights is None:
            return self._read_total(which, index, root)
        weight = weights[index]
        if weight == 1.0:
            return None
        if weight == 0.0:
            return Nothing()  # no valid target: its loss is NaN, and NaN survives a multiplication by zero
        key = (weight, which)
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = torch.full_like(root, weight, requires_grad=False)
        return made

    def _read_total(self, which: int, index: int, root: torch.Tensor) -> torch.Tensor:
        """Weigh by the total weight over what the first micro-batch lets expect of the whole; no synchronisation."""
        total = total_weight(root, self.facts.roots[which])
        self._totals.append(total)
        if index == 0 or self._expected is None:
            self._expected = torch.clamp(total * (self.samples / self.sizes[0]), min=1.0)
        return (total / self._expected).to(root.dtype).expand(root.shape)

    def rescaling(self) -> torch.Tensor | None:
        """Return the factor that puts gradients weighed by expected totals right; None where nothing was expected."""
        if self._expected is None:
            return None
        return self._expected / torch.stack(self._totals).sum()

    def doubt(self) -> torch.Tensor | None:
        """Return whether targets did not count by their number, as the weights take it; no synchronisation.

        A cross entropy beside other terms is weighed by samples: right if each micro-batch's total weight is in
        proportion to its samples.
        """
        found: torch.Tensor | None = None
        each = len(self._walks)
        for which in range(each):
            rows = self._counted[which::each]
            if not all(rows):
                return torch.tensor(True)  # noqa: FBT003 - a micro-batch of another graph
            totals = torch.stack([total for row in rows for total in row]).view(len(rows), -1)
            differs = self._out_of_proportion(totals).any()
            found = differs if found is None else found | differs.to(found.device)
        return found

    def _out_of_proportion(self, totals: torch.Tensor) -> torch.Tensor:
        if len(set(self.sizes)) == 1:
            return totals != totals[0]
        exact = totals if totals.device.type == "mps" else totals.double()
        sizes = torch.tensor(self.sizes, device=totals.device).unsqueeze(1)
        return exact * self.sizes[0] != exact[0] * sizes

    def of_value(self, fact: Scalar | None) -> Sequence[float]:
        """Return the weights by which a value of the micro-batches makes up the whole batch's."""
        if fact is None or fact.reduction != "measured":
            return self.shares
        which = next((i for i, root in enumerate(self.facts.roots) if root.reduction == "measured"), None)
        if which is None:
            return self.shares
        counted = self._weights[which]
        if counted is not None:
            return counted
        stacked = torch.stack(self._totals)
        return (stacked / stacked.sum()).tolist()
