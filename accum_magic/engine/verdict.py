"""From the terms of a loss to the weights of its micro-batches, for the whole or summand by summand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from accum_magic.engine import reductions as table
from accum_magic.engine.denominators import Denominator, Denominators, UnprovenError
from accum_magic.engine.facts import Part, Scalar
from accum_magic.engine.graph import path_to
from accum_magic.engine.terms import bound

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from accum_magic.engine.facts import Path
    from accum_magic.engine.graph import Pair
    from accum_magic.engine.terms import Context, Flow, Terms

MIXED = "terms with different denominators cannot be told apart at {}"
MANY = "more than {} terms with different denominators"
MOST_PARTS = 1024


def scalar_of(top: Pair, flows: Mapping[Pair, Flow], context: Context) -> Scalar:
    """How the micro-batch values of one scalar, and their gradients, add up to the full batch's."""
    flow = flows[top]
    if flow.fault:
        return _unproven(flow.fault)
    if flow.kind == "rows":
        return _unproven("the loss has one value per sample")
    try:
        denominators = Denominators(flow.terms, context)
        found = denominators.of(flow.terms)
        if len(found) > 1:
            return Scalar("mixed", parts=tuple(_Split(flows, denominators).parts(top)))
    except UnprovenError as unproven:
        return _unproven(str(unproven))
    (only,) = found
    source = denominators.own_source(flow.terms, only)
    return Scalar(only.reduction, () if source is None else path_to(top, source), only.power)


def _unproven(reason: str) -> Scalar:
    return Scalar("unproven", reasons=(reason,))


class _Split:
    """Takes a loss apart, from the top down, until each part has one denominator."""

    def __init__(self, flows: Mapping[Pair, Flow], denominators: Denominators) -> None:
        self._flows, self._denominators = flows, denominators
        self._known: dict[tuple[Pair, int], Denominator] = {}

    def parts(self, top: Pair) -> Iterator[Part]:
        """Yield the parts of a scalar whose terms have several denominators."""
        found = 0
        stack: list[tuple[Pair, Path, float]] = [(top, (), 1.0)]
        while stack:  # no recursion: a loss may be added up over a thousand time steps
            pair, path, ratio = stack.pop()
            if not _is_divisible(pair):
                raise UnprovenError(MIXED.format(table.words_for(pair.op)))
            for index, (kid, terms, below) in self._inputs(pair, ratio):
                denominators = self._denominators.of(terms, below)
                if len(denominators) > 1:
                    stack.append((kid, (*path, index), below))
                    continue
                found += 1
                if found > MOST_PARTS:
                    raise UnprovenError(MANY.format(MOST_PARTS))
                (denominator,) = denominators
                yield self._part(pair, kid, (*path, index), terms, denominator)

    def _inputs(self, pair: Pair, ratio: float) -> Iterator[tuple[int, tuple[Pair, Terms, float]]]:
        """Yield per input its pair, its terms, and what all above it multiplies their denominators by."""
        flow = self._flows[pair]
        edges = [(index, edge[0]) for index, edge in enumerate(pair.inputs) if edge is not None]
        for index, kid in edges:
            terms = self._flows[kid].terms
            if flow.kind == "rows":
                terms = bound(terms)
            scale = _lowest(flow.terms) / _lowest(terms) if len(edges) == 1 else 1.0
            yield index, (kid, terms, ratio * scale)

    def _part(self, pair: Pair, kid: Pair, path: Path, terms: Terms, denominator: Denominator) -> Part:
        if self._known.setdefault((pair, path[-1]), denominator) != denominator:
            # `m / len(x) + m`: one node, and its gradient arrives by both ways at once
            raise UnprovenError(MIXED.format(table.words_for(pair.op)))
        source = self._denominators.own_source(terms, denominator)
        total_path = () if source is None else (*path, *path_to(kid, source))
        has_rows = any(out.small != out.large for out in kid.outputs)
        return Part(denominator.reduction, path, total_path, denominator.power, has_rows=has_rows)


def _lowest(terms: Terms) -> float:
    return min(term.ratio for term in terms)


def _is_divisible(pair: Pair) -> bool:
    """Whether a node adds up its inputs, so that the gradient of each can be weighed apart."""
    if pair.is_opaque or len(pair.outputs) != 1:
        return False
    inputs = [index for index, edge in enumerate(pair.inputs) if edge is not None]
    if pair.op in {"Mul", "Div"} or pair.op in table.MATMULS:
        # A learnable factor of a mixed sum needs the values of its parts, each with its own weight.
        return len(inputs) == 1 and (pair.op != "Div" or inputs == [0])
    small, large = pair.saved("alpha")
    return pair.op in table.ADDERS and small == large
