"""Which weight each term of a loss asks for: that of a mean, of a sum, or of a total that its own node tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from accum_magic.engine.constants import is_same_tensor, is_total
from accum_magic.engine.graph import chain_below

if TYPE_CHECKING:
    from collections.abc import Iterable

    from accum_magic.engine.facts import Reduction
    from accum_magic.engine.graph import Pair
    from accum_magic.engine.terms import Context, Term, Terms

DATA = "the loss divides by a number that depends on the data"
PENALTY_SCALED = "a term over parameters only is scaled with the number of samples"

_POWERS = (0, 1, -1, 2, -2)
_CLOSE = 1e-6


class UnprovenError(Exception):
    """Carries the reason."""


@dataclass(frozen=True, slots=True)
class Denominator:
    """What the micro-batches of a term are weighed by, as `facts.Part` says."""

    reduction: Reduction
    power: int = 0
    source: Pair | None = None
    """measured: the node that tells the total; of several that divide by the same, one."""


_MEAN = Denominator("mean")
_SUM = Denominator("sum")
_FREE = Denominator("unproven")  # any weights that sum to one


class Denominators:
    """The denominators of a loss's terms; those that divide by the same total share one."""

    def __init__(self, terms: Terms, context: Context) -> None:
        self._context = context
        self._totals: dict[Pair, Pair] = {}
        crossed = {term.source for term in terms if term.kind == "nll" and term.source is not None}
        for source in crossed:
            known = set(self._totals.values())
            self._totals[source] = next((other for other in known if _is_same_total(source, other)), source)
        quotients = {term.source for term in terms if term.kind == "divided" and term.source is not None}
        for source in quotients:
            self._totals[source] = self._total_of_quotient(source, crossed)

    def _total_of_quotient(self, source: Pair, crossed: Iterable[Pair]) -> Pair:
        smoothed = next((nll for nll in crossed if _smooths(source, nll)), None)
        if smoothed is not None:
            return self._totals[smoothed]
        if not is_total(source, self._context):
            raise UnprovenError(DATA)
        known = [other for other in self._totals.values() if other.op == "Div"]
        return next((other for other in known if is_same_tensor(other, source, "other")), source)

    def of(self, terms: Terms, ratio: float = 1.0) -> frozenset[Denominator]:
        """Return the denominators of some of the terms, where all above them multiplies theirs by `ratio`.

        Raises:
            UnprovenError: No weights of micro-batches are known that give the whole batch's.

        """
        found = {self._of_term(term, ratio) for term in terms}
        others = found - {_FREE}
        if _FREE not in found:
            return frozenset(others)
        # A term over parameters only goes along with weights that sum to one.
        is_carried = len(others) == 1 and next(iter(others)).reduction != "sum" and not next(iter(others)).power
        return frozenset(others if is_carried else others | {_MEAN})

    def _of_term(self, term: Term, ratio: float) -> Denominator:
        power = self._power(term.ratio * ratio)
        if term.kind == "free":
            if power != 0:
                raise UnprovenError(PENALTY_SCALED)
            return _FREE
        if term.kind == "plain" and power in {0, 1}:
            return _MEAN if power else _SUM
        if term.kind == "plain" or term.source is None or power is None:
            raise UnprovenError(DATA)
        return Denominator("measured", power, self._totals[term.source])

    def own_source(self, terms: Terms, wanted: Denominator) -> Pair | None:
        """Return the node among some terms that tells a denominator's total; a cross entropy's before a quotient's."""
        sources = [(term.kind != "nll", term.source) for term in terms if term.source is not None]
        of_it = [(rank, source) for rank, source in sources if self._totals[source] is wanted.source]
        return min(of_it, key=lambda found: found[0])[1] if of_it else None

    def _power(self, ratio: float) -> int | None:
        """Return how often the number of samples is in a denominator."""
        growth = self._context.growth
        return next((power for power in _POWERS if abs(ratio - growth**power) < _CLOSE), None)


def _is_same_total(first: Pair, second: Pair) -> bool:
    """Whether two cross entropies divide by the same total: those of auxiliary heads with the same targets do."""
    return (
        is_same_tensor(first, second, "target")
        and is_same_tensor(first, second, "weight")
        and first.saved("ignore_index") == second.saved("ignore_index")
    )


def _smooths(quotient: Pair, nll: Pair) -> bool:
    """Whether a quotient is the smoothing part of a cross entropy.

    ATen composes ``label_smoothing`` of an NLL node and of a sum over the same log-softmax, divided by the
    number of valid targets (with class weights: by their weights), which is the NLL node's total weight.
    """
    softmax = _log_softmax_below(quotient)
    divisors = [float(value) for value in quotient.saved("other")]
    totals = [float(value) for value in nll.saved("total_weight")]
    return (
        softmax is not None
        and _log_softmax_below(nll) is softmax
        and all(abs(a - b) <= 1e-5 * abs(b) for a, b in zip(divisors, totals, strict=True))
    )


def _log_softmax_below(pair: Pair) -> Pair | None:
    return next((below for below in chain_below(pair) if below.op == "LogSoftmax"), None)
