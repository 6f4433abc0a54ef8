"""What the probe found out about one training step: frozen values, no tensor among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Reduction = Literal["mean", "sum", "measured", "unproven"]


@dataclass(frozen=True, slots=True)
class Scalar:
    """A one-element tensor with a graph: a backward root, or a loss that is read later.

    ``mean``: micro-batch i of k_i samples counts k_i / B. ``sum``: it counts 1. ``measured``: it counts
    w_i / sum(w), where w is ``_saved_total_weight`` of the node reached from ``.grad_fn`` along ``path``.
    """

    reduction: Reduction
    path: tuple[int, ...] = ()
    """measured: indices into ``next_functions`` down to the node that holds the total weight."""
    reasons: tuple[str, ...] = ()
    """unproven: why. mean or sum: under which condition it holds, where there is one."""
    unignored: tuple[tuple[int, ...], ...] = ()
    """mean or sum: paths of the NLL nodes whose total weight was taken for the plain number of targets."""


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
    batch_norms: bool = False
    """BatchNorm layers lie within the modules that were called, in whatever mode, and no compiled graph hides them."""

    def kept_bytes(self, samples: int) -> float:
        """Return about how many bytes a forward on some samples keeps for its backward."""
        constant, each = self.saved_bytes
        return constant + each * samples

    @property
    def unproven(self) -> tuple[str, ...]:
        """Why a loss is no mean or sum over samples; empty if all are."""
        reasons = (reason for root in self.roots if root.reduction == "unproven" for reason in root.reasons)
        return tuple(dict.fromkeys(reasons))

    @property
    def exact(self) -> bool:
        """Whether accumulation gives the full batch's gradients up to rounding."""
        return not self.reasons
