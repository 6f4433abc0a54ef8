"""From the leaves up: what each value of the graph is made of, and where samples meet."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from accum_magic.engine import reductions as table
from accum_magic.engine.constants import Factor, differing_operands, factor, is_total
from accum_magic.engine.samples import BY_PLACE, is_selection, layout_of
from accum_magic.engine.terms import FREE, PLAIN, Coupling, Flow, Kid, Term, bound, divided, product

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from accum_magic.engine.graph import Output, Pair
    from accum_magic.engine.terms import Context, Terms

CUSTOM = "{} is a custom autograd function: unproven"
PLACED = "{} takes values by their place in the batch, the same in each micro-batch"
DEPENDS = "the graph depends on the number of samples"
DEPENDS_OR_DRAWS = "the graph depends on the number of samples or on random numbers"
TWO_DIMS = "{} compares samples with each other: two of its dimensions grow with the batch"
GOES_BACK = "a value reduced over the batch goes back into single samples ({})"


class _Unproven(Exception):
    """Carries the reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def measure(order: Iterable[Pair], context: Context) -> dict[Pair, Flow]:
    """Work out the flow of every pair, inputs first."""
    flows: dict[Pair, Flow] = {}
    for pair in order:
        kids = [
            Kid(index, edge[0].outputs[edge[1]], flows[edge[0]])
            for index, edge in enumerate(pair.inputs)
            if edge is not None and edge[1] < len(edge[0].outputs)
        ]
        faults = [flows[edge[0]].fault for edge in pair.inputs if edge is not None]
        fault = next(filter(None, faults), "")
        kind = _kind(pair, kids)
        if fault:
            flows[pair] = Flow(kind.kind, kind.terms, fault=fault)
            continue
        try:
            flows[pair] = _flow(pair, kind, kids, context)
        except _Unproven as unproven:
            flows[pair] = Flow(kind.kind, kind.terms, fault=unproven.reason)
    return flows


def _kind(pair: Pair, kids: Sequence[Kid]) -> Flow:
    if any(out.growing for out in pair.outputs):
        return Flow("rows", PLAIN)
    if any(kid.flow.kind != "free" for kid in kids):
        return Flow("batch", PLAIN)
    return Flow("free", FREE)


def _flow(pair: Pair, kind: Flow, kids: Sequence[Kid], context: Context) -> Flow:
    if pair.differs:
        raise _Unproven(DEPENDS if context.is_quiet else DEPENDS_OR_DRAWS)
    if pair.small in context.placed:
        raise _Unproven(PLACED.format(table.words_for(pair.op)))
    if pair.is_leaf:
        return kind
    if pair.is_opaque:
        return _opaque(pair, kind, kids)
    if kind.kind == "rows":
        return _rows(pair, kids, context)
    if kind.kind == "batch":
        return _batch(pair, kids, context)
    return _free(pair, kids, context)


def _opaque(pair: Pair, kind: Flow, kids: Sequence[Kid]) -> Flow:
    if pair.op in table.PASS_THROUGH and len(kids) == 1:
        return kids[0].flow
    if kind.kind == "free" and kids and None not in pair.inputs:
        return kind  # nothing but parameters goes in
    if pair.op in table.BATCH_NORMS:
        return kind
    raise _Unproven(CUSTOM.format(pair.op))


def _rows(pair: Pair, kids: Sequence[Kid], context: Context) -> Flow:
    if any(len(out.growing) > 1 for out in pair.outputs):
        raise _Unproven(Coupling(TWO_DIMS.format(table.words_for(pair.op))))
    # A mask may select as many values in both runs: such rows do not grow and are no rows any more.
    if any(kid.flow.kind == "batch" or (kid.flow.kind == "rows" and not kid.growing) for kid in kids):
        raise _Unproven(Coupling(GOES_BACK.format(table.words_for(pair.op))))
    layout = layout_of(pair, kids, context)
    if layout.fault:
        raise _Unproven(layout.fault)
    if _meets_values_without_graph(pair, kids) and (fault := differing_operands(pair, context)):
        raise _Unproven(fault)
    terms = bound(_terms(pair, kids, context, table.LINEAR)) or PLAIN
    return Flow("rows", terms, layout.blocks, layout.is_ragged)


def _meets_values_without_graph(pair: Pair, kids: Sequence[Kid]) -> bool:
    """Whether the samples enter here, or a sum just below saved nothing of what was added: ``x - t.mean()``."""
    if all(kid.flow.kind == "free" for kid in kids):
        return True
    below = [edge[0] for edge in pair.inputs if edge is not None]
    return any(source.op in {"Add", "Sub", "Rsub"} and None in source.inputs for source in below)


def _free(pair: Pair, kids: Sequence[Kid], context: Context) -> Flow:
    if None in pair.inputs and pair.op not in {"Mul", "Div"}:
        fault = differing_operands(pair, context)
        if fault:
            raise _Unproven(fault)
    return Flow("free", _terms(pair, kids, context, table.LINEAR) or FREE)


def _batch(pair: Pair, kids: Sequence[Kid], context: Context) -> Flow:
    rows = [kid for kid in kids if kid.flow.kind == "rows"]
    if rows and any(kid.flow.kind == "batch" for kid in kids):
        raise _Unproven(Coupling(GOES_BACK.format(table.words_for(pair.op))))
    if rows and is_selection(pair):
        return Flow("rows", rows[0].flow.terms, is_ragged=True)
    if rows:
        return Flow("batch", bound(_reduced(pair, kids, rows, context)))
    return Flow("batch", _terms(pair, kids, context, table.LINEAR_OVER_BATCH))


def _reduced(pair: Pair, kids: Sequence[Kid], rows: Sequence[Kid], context: Context) -> Terms:
    """Terms of a value where the growing dimension vanishes."""
    source = rows[0]
    is_l1 = pair.op in {"Norm", "LinalgVectorNorm"} and 1 in (*pair.saved("ord"), *pair.saved("p"))
    if pair.op in {"Sum", "Nansum"} or is_l1:
        return source.flow.terms
    if pair.op == "Mean":
        return _mean(source, pair.outputs[0], context)
    if pair.op in table.LOSSES:
        return _loss(pair, kids, source, context)
    if pair.op in table.MATMULS:
        return _bilinear(pair, kids, context)
    if pair.op in table.PICKS | table.SPLITS | table.INDEXES:
        raise _Unproven(BY_PLACE.format(pair.op))
    words = table.words_for(pair.op)
    msg = f"{words} over the batch is neither a sum nor a mean over samples"
    raise _Unproven(msg)


def _mean(source: Kid, output: Output, context: Context) -> Terms:
    if source.flow.is_ragged:
        return divided(source.flow.terms, None)
    sizes = [prod(shape) for shape in (source.output.small, source.output.large, output.small, output.large)]
    return context.scaled(source.flow.terms, sizes[1] * sizes[2] / (sizes[0] * sizes[3]))


def _loss(pair: Pair, kids: Sequence[Kid], source: Kid, context: Context) -> Terms:
    _require_unscaled(pair, kids)
    fault = differing_operands(pair, context)
    if fault:
        raise _Unproven(fault)
    if pair.saved("reduction")[0] == 2:  # noqa: PLR2004  at::Reduction::Sum
        return PLAIN
    if pair.op in table.NLL:
        return frozenset({Term(kind="nll", source=pair)})
    return _mean(source, pair.outputs[0], context)


def _terms(pair: Pair, kids: Sequence[Kid], context: Context, linear: frozenset[str]) -> Terms:
    """Terms of a value whose inputs are of its own kind, or of parameters only."""
    if pair.op in {"Mul", "Div"}:
        return _scaled(pair, kids, context)
    if pair.op in table.MATMULS:
        return _bilinear(pair, kids, context)
    if pair.op not in linear:
        _require_linear(pair, kids)
        return frozenset()
    return _union(pair, kids, context)


def _require_linear(pair: Pair, kids: Sequence[Kid]) -> None:
    if any(kid.flow.kind == "batch" for kid in kids):
        msg = f"{table.words_for(pair.op)} of a value summed or averaged over the batch"
        raise _Unproven(msg)
    _require_unscaled(pair, kids)


def _require_unscaled(pair: Pair, kids: Sequence[Kid]) -> None:
    if not all(kid.flow.is_unscaled for kid in kids):
        msg = f"a number that depends on the batch reaches {table.words_for(pair.op)}"
        raise _Unproven(msg)


def _union(pair: Pair, kids: Sequence[Kid], context: Context) -> Terms:
    found: set[Term] = set()
    small, large = pair.saved("alpha")
    for kid in kids:
        is_changed = kid.index == 1 and bool(small) and bool(large) and small != large
        found |= context.scaled(kid.flow.terms, small / large) if is_changed else kid.flow.terms
    return frozenset(found)


def _scaled(pair: Pair, kids: Sequence[Kid], context: Context) -> Terms:
    """Terms of a product or a quotient."""
    divides = pair.op == "Div"
    if len(kids) > 1:
        return _of_two(kids[0].flow, kids[1].flow, context, inverse=divides)
    if divides and kids[0].index == 1:
        _require_linear(pair, kids)
        return frozenset()
    if divides and is_total(pair, context):
        return divided(kids[0].flow.terms, pair)
    name = "other" if kids[0].index == 0 else "self"
    by = factor(pair, name, context, divides=divides, is_reduced=kids[0].flow.kind == "batch")
    if by.fault:
        raise _Unproven(by.fault)
    return _times(kids[0].flow.terms, by, pair, context, divides=divides)


def _times(terms: Terms, by: Factor, pair: Pair, context: Context, *, divides: bool) -> Terms:
    if by.is_data:
        return divided(terms, pair if divides else None)
    return context.scaled(terms, by.ratio if divides else 1 / by.ratio)


def _of_two(left: Flow, right: Flow, context: Context, *, inverse: bool) -> Terms:
    if left.kind == "free" and right.kind != "free" and not inverse:
        left, right = right, left
    if right.kind == "batch":
        raise _Unproven("a ratio of batch terms" if inverse else "a product of batch terms")
    found = product(left, right, context, inverse=inverse)
    if found is None:
        msg = "a product or ratio of values that are scaled by different numbers"
        raise _Unproven(msg)
    return found


def _bilinear(pair: Pair, kids: Sequence[Kid], context: Context) -> Terms:
    places = table.MATMULS[pair.op]
    factors = [kid.flow for kid in kids if kid.index in places]
    addends: set[Term] = set()
    for kid in kids:
        if kid.index not in places:
            addends |= kid.flow.terms
    if len(factors) == 1:
        return factors[0].terms | addends
    return (_of_two(factors[0], factors[1], context, inverse=False) if factors else frozenset()) | addends
