"""What the probe found out about one training step: frozen values, no tensor among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Reduction = Literal["mean", "sum", "measured", "mixed", "unproven"]
Path = tuple[int, ...]
"""Indices into ``next_functions``, from the ``grad_fn`` of a scalar downwards."""


@dataclass(frozen=True, slots=True)
class Part:
    """A summand of a scalar, whose micro-batches have a weight of their own.

    ``mean``: micro-batch i of k_i samples counts k_i / B. ``sum``: it counts 1. ``measured``: it counts
    w_i / sum(w), where w is what the node at ``total_path`` divides by. ``power``: on top of that it counts
    (k_i / B) ** power, as ``cross_entropy(...) * len(x)`` does with a power of -1.
    """

    reduction: Reduction
    path: Path = ()
    """Where the summand begins: the last index is the input of the sum that it enters by."""
    total_path: Path = ()
    """measured: the node that holds the total, the ``_saved_total_weight`` of an NLL or the divisor of a quotient."""
    power: int = 0
    has_rows: bool = False
    """It has a value per sample: the parts are added before the samples are."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """A one-element tensor with a graph: a backward root, or a loss that is read later.

    The reductions of a `Part`; ``mixed``: a sum of several ``parts``, each with its own.
    """

    reduction: Reduction
    total_path: Path = ()
    """measured: the node that holds the total weight."""
    power: int = 0
    reasons: tuple[str, ...] = ()
    """unproven: why."""
    parts: tuple[Part, ...] = ()
    """mixed: its summands; one that enters by several ways stands there once for each."""

    @property
    def summands(self) -> tuple[Part, ...]:
        """All parts: of a scalar with one reduction, itself."""
        return self.parts or (Part(self.reduction, (), self.total_path, self.power),)


@dataclass(frozen=True, slots=True)
class Joined:
    """A tensor whose dimension ``dim`` grew with the batch: pieces are concatenated there."""

    dim: int


@dataclass(frozen=True, slots=True)
class Constant:
    """The same in every micro-batch, and not computed from the batch."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Cannot be recombined from its micro-batches."""

    reason: str
    has_rows: bool = False
    """It has a row per sample, only not in an order or by a computation that the pieces could give again."""


Leaf = Scalar | Joined | Constant | Unknown


@dataclass(frozen=True, slots=True)
class StepFacts:
    """All that rules, verdict, joining and weights may read about a step."""

    roots: tuple[Scalar, ...]
    """One per tensor the user calls ``backward`` on."""
    values: tuple[tuple[Leaf, ...], ...]
    """Per returned value, per leaf in the order of ``torch.utils._pytree.tree_flatten``."""
    reasons: tuple[str, ...]
    """Why the gradients can only be approximate; what is wrong with a *value* stands in its own leaf."""
    state_reasons: tuple[str, ...]
    """Those of the reasons that tell of state which a forward pass changes."""
    notes: tuple[str, ...]
    """What the user should know though the verdict stands."""
    min_samples: int
    """Samples that a micro-batch must have at least: one sample has no batch statistics, and `squeeze()` drops it."""
    saved_bytes: tuple[float, float]
    """(a, b): a forward on k samples keeps about a + b * k bytes for its backward."""
    draws: bool = False
    """The forward pass draws random numbers."""
    batch_norms: bool = False
    """BatchNorm layers lie within the modules that were called, in whatever mode, and no compiled graph hides them."""

    @property
    def unproven(self) -> tuple[str, ...]:
        """Why a loss is no mean or sum over samples; empty if all are."""
        reasons = (reason for root in self.roots if root.reduction == "unproven" for reason in root.reasons)
        return tuple(dict.fromkeys(reasons))

    @property
    def exact(self) -> bool:
        """Whether accumulation gives the full batch's gradients up to rounding."""
        return not self.reasons
