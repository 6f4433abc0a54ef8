"""What a value of the graph is made of, as far as weights of micro-batches need to know."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch.autograd.graph import Node

    from accum_magic.engine.graph import Output, Pair
    from accum_magic.engine.reads import NumberReads

ROUNDING = 1e-7
"""Two ratios this close are one: sizes are exact, and so are Python numbers."""


class Coupling(str):
    """A reason that is a proof: samples meet here. Other reasons tell of what could not be proven."""

    __slots__ = ()


TermKind = Literal["plain", "free", "nll", "divided"]


@dataclass(frozen=True, slots=True)
class Term:
    """One summand of a value.

    ``ratio`` is its denominator on k + 1 samples over that on k: (k + 1) / k for a mean, 1 for a sum.
    """

    ratio: float = 1.0
    kind: TermKind = "plain"
    """free: of parameters only; nll: divided by the total weight of ``source``; divided: by its data."""
    source: Pair | None = None


Terms = frozenset[Term]
PLAIN: Terms = frozenset({Term()})
FREE: Terms = frozenset({Term(kind="free")})


@dataclass(frozen=True, slots=True)
class Flow:
    """What is known about the outputs of one pair."""

    kind: Literal["free", "rows", "batch"]
    """free: of parameters only; rows: one or more values per sample; batch: the samples are summed up."""
    terms: Terms
    blocks: int = 1
    """rows: how often all samples follow each other within the growing dimension (2 after ``cat([a, b])``)."""
    is_ragged: bool = False
    """rows: the data decide how many values a sample has, so that the size is no count of samples."""
    fault: str = ""
    """Why nothing is proven from here on upwards."""

    @property
    def is_unscaled(self) -> bool:
        """Whether no number that changes with the batch is a factor of it."""
        return all(term.ratio == 1.0 and term.kind in {"plain", "free"} for term in self.terms)


@dataclass(frozen=True, slots=True)
class Kid:
    """One input of a pair: which output of which flow."""

    index: int
    output: Output
    flow: Flow

    @property
    def growing(self) -> tuple[int, ...]:
        """Growing dimensions of this input."""
        return self.output.growing


@dataclass(frozen=True, slots=True)
class Context:
    """What rules may ask about the two runs."""

    k: int
    is_quiet: bool
    """No random numbers, no batch statistics: equal samples must give equal values in both runs."""
    reads: tuple[NumberReads, NumberReads]
    placed: frozenset[Node] = frozenset()
    """Nodes of the smaller run with an operand that is taken by the place in the batch."""

    @property
    def growth(self) -> float:
        """The ratio of the two batch sizes."""
        return (self.k + 1) / self.k

    def is_regular(self, small: int, large: int) -> bool:
        """Whether a size is a fixed number per sample."""
        return large * self.k == small * (self.k + 1)

    def scaled(self, terms: Terms, ratio: float) -> Terms:
        """The terms with their denominators multiplied."""
        return frozenset(replace(term, ratio=self._snapped(term.ratio * ratio)) for term in terms)

    def _snapped(self, ratio: float) -> float:
        # `sum() / (len(x) + 1e-8)` is a mean as far as float32 can tell.
        return next((exact for exact in (1.0, self.growth) if abs(ratio - exact) < ROUNDING), ratio)


def divided(terms: Terms, source: Pair | None) -> Terms:
    """The terms over a number that depends on the data."""
    return frozenset(Term(term.ratio, "divided", source if term.kind == "plain" else None) for term in terms)


def bound(terms: Terms) -> Terms:
    """Terms of parameters only that became part of a value per sample."""
    return frozenset(replace(term, kind="plain") if term.kind == "free" else term for term in terms)


def product(left: Flow, right: Flow, context: Context, *, inverse: bool = False) -> Terms | None:
    """Terms of a product (or quotient) of two values, None where they cannot be told."""
    if not left.is_unscaled and not right.is_unscaled and (len(left.terms) > 1 or len(right.terms) > 1):
        return None
    if any(term.kind in {"nll", "divided"} for term in right.terms):
        return None if inverse or not left.is_unscaled else right.terms
    ratios = {term.ratio for term in right.terms}
    if inverse and len(ratios) > 1:
        return None
    both_free = left.kind == right.kind == "free"
    base = left.terms if left.kind != "free" or both_free else bound(left.terms)
    found: set[Term] = set()
    for ratio in ratios:
        found |= context.scaled(base, 1 / ratio if inverse else ratio)
    return frozenset(found)
