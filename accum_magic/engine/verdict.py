"""From the terms of a loss to the weight of a micro-batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from accum_magic.engine.constants import is_same_tensor
from accum_magic.engine.facts import Scalar
from accum_magic.engine.graph import chain_below, path_to

if TYPE_CHECKING:
    from accum_magic.engine.graph import Pair
    from accum_magic.engine.terms import Context, Flow, Term

DATA = "the loss divides by a number that depends on the data"
MIXED = "terms with different denominators"
PENALTY_BESIDE_SUM = "a term over parameters only stands beside a sum over samples"
PENALTY_SCALED = "a term over parameters only is scaled with the number of samples"
WHILE_UNIGNORED = "a cross entropy stands beside other terms: exact only while no target is ignored or weighted"


def scalar_of(top: Pair, flow: Flow, context: Context) -> Scalar:
    """How the micro-batch values of one scalar, and their gradients, add up to the full batch's."""
    if flow.fault:
        return _unproven(flow.fault)
    if flow.kind == "rows":
        return _unproven("the loss has one value per sample")
    free = {term for term in flow.terms if term.kind == "free"}
    crossed = {term for term in flow.terms if term.kind == "nll"}
    plain = {term for term in flow.terms if term.kind in {"plain", "divided"}}
    plain = {term for term in plain if not _is_smoothing(term, crossed)}
    if any(term.ratio != 1.0 for term in free):
        return _unproven(PENALTY_SCALED)
    if any(term.kind == "divided" for term in plain):
        return _unproven(DATA)
    if crossed and not plain and _share_one_weight(crossed):
        node = next(iter(crossed)).source
        return Scalar("measured", path_to(top, node)) if node is not None else _unproven(DATA)
    ratios = {term.ratio for term in plain}
    for term in crossed:
        ratio = _count_ratio(term, context)
        if ratio is None:
            return _unproven(MIXED)
        ratios |= {ratio}
    found = _of_ratios(ratios, context, has_free=bool(free))
    if not crossed or found.reduction == "unproven":
        return found
    paths = sorted(path_to(top, term.source) for term in crossed if term.source is not None)
    caveats = () if not plain and _label_one_prediction(crossed, context) else (WHILE_UNIGNORED,)
    return Scalar(found.reduction, reasons=caveats, unignored=tuple(paths))


def _unproven(reason: str) -> Scalar:
    return Scalar("unproven", reasons=(reason,))


def _of_ratios(ratios: set[float], context: Context, *, has_free: bool) -> Scalar:
    if not ratios or ratios == {context.growth}:
        return Scalar("mean")
    if ratios == {1.0}:
        return _unproven(PENALTY_BESIDE_SUM) if has_free else Scalar("sum")
    if ratios <= {1.0, context.growth}:
        return _unproven(MIXED)
    return _unproven(DATA)


def _share_one_weight(crossed: set[Term]) -> bool:
    """Whether all terms divide by the same total: those of auxiliary heads with the same targets do."""
    if any(term.ratio != 1.0 or term.source is None for term in crossed):
        return False
    first, *others = [term.source for term in crossed if term.source is not None]
    return all(
        is_same_tensor(first, other, "target")
        and is_same_tensor(first, other, "weight")
        and first.saved("ignore_index") == other.saved("ignore_index")
        for other in others
    )


def _label_one_prediction(crossed: set[Term], context: Context) -> bool:
    """Whether all terms compare the same prediction with one label per sample each, as mixup and cutmix do.

    A label that is to be ignored makes no sense there, unlike a missing label of one task among several.
    """
    sources = [term.source for term in crossed if term.source is not None]
    softmaxes = [_log_softmax_below(pair) for pair in sources]
    logits = {softmax.inputs[0] if softmax is not None else None for softmax in softmaxes}
    has_one_each = all(pair.saved("target")[0].numel() == context.k for pair in sources)
    return has_one_each and len(logits) == 1 and None not in logits


def _is_smoothing(term: Term, crossed: set[Term]) -> bool:
    """Whether a term is the smoothing part of a cross entropy beside it.

    ATen composes ``label_smoothing`` of an NLL node and of a sum over the same log-softmax, divided by the
    number of valid targets (with class weights: by their weights), which is the NLL node's total weight.
    """
    if term.kind != "divided" or term.source is None or term.ratio != 1.0:
        return False
    softmax = _log_softmax_below(term.source)
    divisor = [float(value) for value in term.source.saved("other")]
    return softmax is not None and any(
        other.source is not None
        and _log_softmax_below(other.source) is softmax
        and all(abs(a - b) <= 1e-5 * abs(b) for a, b in zip(divisor, _total_weights(other.source), strict=True))
        for other in crossed
    )


def _log_softmax_below(pair: Pair) -> Pair | None:
    return next((below for below in chain_below(pair) if below.op == "LogSoftmax"), None)


def _total_weights(pair: Pair) -> list[float]:
    return [float(value) for value in pair.saved("total_weight")]


def _count_ratio(term: Term, context: Context) -> float | None:
    """Denominator ratio of an NLL term whose total weight is the plain number of targets."""
    if term.source is None:
        return None
    counts = [float(target.numel()) for target in term.source.saved("target")]
    if _total_weights(term.source) != counts or counts[1] * context.k != counts[0] * (context.k + 1):
        return None
    return next(iter(context.scaled(frozenset({term}), context.growth))).ratio
