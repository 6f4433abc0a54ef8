"""Measure what a training step averages over, from its autograd graphs on k and on k + 1 samples."""

from __future__ import annotations

import sys
import warnings
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch.utils._python_dispatch import _disable_current_modes

from accum_magic.engine import reductions as table
from accum_magic.engine.facts import Scalar, StepFacts, Unknown
from accum_magic.engine.flow import measure
from accum_magic.engine.graph import Lockstep, Pair
from accum_magic.engine.hooks import hook_reasons
from accum_magic.engine.leaves import leaf_facts, leaves_of, pair_top, root_facts
from accum_magic.engine.places import taken_by_place
from accum_magic.engine.reads import NumberReads
from accum_magic.engine.saved import SavedTensors
from accum_magic.engine.state import Findings, findings, is_same
from accum_magic.engine.terms import Context
from accum_magic.engine.undo import Rehearsal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from accum_magic.engine.facts import Leaf
    from accum_magic.engine.terms import Flow

    Outcome = tuple[Sequence[torch.Tensor], Sequence[object]]

BATCH_NORM = "BatchNorm in training mode ({}) normalises each micro-batch by itself"
RANDOM = "random layers ({}) draw other random numbers than the plain cell (same law)"


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    roots: Sequence[torch.Tensor]
    leaves: list[list[object]]
    saved_bytes: int
    reads: NumberReads


def probe(
    forward: Callable[[int], Outcome],
    k: int,
    sources: Mapping[str, object] | None = None,
    copied: Callable[[], Outcome] | None = None,
    rehearsal: Rehearsal | None = None,
) -> StepFacts:
    """Run a step forward on k and on k + 1 samples and read off how its micro-batches recombine.

    Where the forward has changed some state, it runs on k samples once more, to tell what changes each time.

    Args:
        forward: runs the step on the first ``n`` samples; returns the tensors that ``backward`` is called
            on, and the values that the step leaves. Called twice, for ``k`` and ``k + 1``, or once more.
        k: samples of the smaller run; 2 or more, since a size of 1 broadcasts.
        sources: what the forward reads, by name: its function, models, helpers. Where state may be kept.
        copied: runs the step on ``k`` copies of one sample, which tells what is taken by the place in the batch.
        rehearsal: of the ``sources``, for a caller that asks it afterwards what was called.

    Returns:
        Frozen facts; they hold no tensor, and both graphs are gone.

    Raises:
        whatever ``forward`` raises, after random states, buffers and other state are put back.

    Example::

        >>> import torch
        >>> model, x = torch.nn.Linear(4, 1), torch.ones(8, 4)
        >>> def forward(n):
        ...     out = model(x[:n])
        ...     loss = out.square().mean()
        ...     return (loss,), (out, loss)
        >>> facts = probe(forward, 3)
        >>> facts.roots, facts.exact
        ((Scalar(reduction='mean', total_path=(), power=0, reasons=(), parts=()),), True)
        >>> facts.values[0]
        (Joined(dim=0),)
    """
    with ExitStack() as stack:
        stack.enter_context(eager())
        rehearsal = stack.enter_context(rehearsal or Rehearsal(sources or {}))
        small = _run(forward, k)
        left = _left_behind(forward, small, rehearsal, k)
        rehearsal.rewind()
        large = _run(forward, k + 1)
        rehearsal.rewind()
        is_quiet = not rehearsal.drew and not rehearsal.batch_norms()
        copies = _roots_of(copied) if copied is not None and is_quiet else ()
        rehearsal.rewind()
        context = Context(k, is_quiet, (small.reads, large.reads))
        # the user's own mode (a FLOP counter) would be handed numbers that are kept in tensors as plain ones
        with _disable_current_modes():
            return _facts(small, large, copies, context, rehearsal, left)


def eager() -> AbstractContextManager[object]:
    """Return a context in which compiled functions and modules run as they are written."""
    # Compiled graphs are opaque. Importing dynamo takes a second, and without it nothing is compiled.
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    stack = ExitStack()
    stack.enter_context(torch.compiler.set_stance("force_eager"))
    # `Rehearsal` hooks all modules for the time of the probe; compiled ones advise the user against that.
    stack.enter_context(warnings.catch_warnings())
    warnings.filterwarnings("ignore", "Using `torch.compile")
    return stack


def _run(forward: Callable[[int], Outcome], samples: int) -> _Run:
    with SavedTensors() as saved, NumberReads() as reads:
        roots, values = forward(samples)
    return _Run(tuple(roots), [leaves_of(value) for value in values], saved.now_bytes, reads)


def _left_behind(forward: Callable[[int], Outcome], small: _Run, rehearsal: Rehearsal, k: int) -> Findings:
    """Tell what a forward leaves in modules and lists: a second one, behind the first, changes it again or not."""
    first = rehearsal.state.changes()
    if not first:
        return Findings()
    rehearsal.rewind_random()
    before = [root.detach().clone() for root in small.roots]
    roots, _ = forward(k)
    agree = all(is_same(mine, theirs.detach()) for mine, theirs in zip(before, roots, strict=True))
    return findings(first, rehearsal.state.changes(), losses_agree=agree)


def _roots_of(copied: Callable[[], Outcome]) -> tuple[torch.Tensor, ...]:
    try:
        return tuple(copied()[0])
    except Exception:  # noqa: BLE001 - a step may need samples that differ; then nothing is told
        return ()


def _facts(  # noqa: PLR0913, PLR0917 - all that the runs have told
    small: _Run,
    large: _Run,
    copies: Sequence[torch.Tensor],
    context: Context,
    rehearsal: Rehearsal,
    left: Findings,
) -> StepFacts:
    steps = Lockstep()
    tops = [pair_top(steps, mine, theirs) for mine, theirs in zip(small.roots, large.roots, strict=True)]
    below_roots = len(steps.order)
    if len(copies) == len(small.roots):
        context = replace(context, placed=taken_by_place(steps.order, small.roots, copies, context.k))
    leaf_tops = [
        [pair_top(steps, mine, theirs) for mine, theirs in zip(mine_all, theirs_all, strict=False)]
        for mine_all, theirs_all in zip(small.leaves, large.leaves, strict=True)
    ]
    flows = measure(steps.order, context)
    roots = tuple(root_facts(mine, top, flows, context) for mine, top in zip(small.roots, tops, strict=True))
    values = tuple(
        _value(mine, theirs, leaf_top, flows, context)
        for mine, theirs, leaf_top in zip(small.leaves, large.leaves, leaf_tops, strict=True)
    )
    slope = float(large.saved_bytes - small.saved_bytes)
    reasons = (
        *_norm_reasons(steps.order[:below_roots], rehearsal),
        *_root_reasons(roots),
        *left.reasons,
        *hook_reasons(rehearsal.modules, _leaves(steps.order[:below_roots]), on_values=bool(small.reads.hooks)),
    )
    return StepFacts(
        roots=roots,
        values=values,
        reasons=tuple(dict.fromkeys(reasons)),
        state_reasons=left.reasons,
        notes=(*_notes(rehearsal), *left.notes),
        min_samples=_min_samples(steps.order, rehearsal),
        saved_bytes=(small.saved_bytes - slope * context.k, slope),
        draws=rehearsal.drew,
        batch_norms=rehearsal.holds_batch_norms(),
    )


def _value(
    small: list[object],
    large: list[object],
    tops: list[Pair | None],
    flows: dict[Pair, Flow],
    context: Context,
) -> tuple[Leaf, ...]:
    if len(small) != len(large):
        return tuple(Unknown("how many values it holds depends on the number of samples") for _ in small)
    return tuple(
        leaf_facts(mine, theirs, context, top, flows) for mine, theirs, top in zip(small, large, tops, strict=True)
    )


def _leaves(order: Iterable[Pair]) -> list[torch.Tensor]:
    return [leaf for pair in order if (leaf := getattr(pair.small, "variable", None)) is not None]


def _root_reasons(roots: Iterable[Scalar]) -> list[str]:
    return [reason for root in roots for reason in root.reasons]


def _norm_reasons(order: Iterable[Pair], rehearsal: Rehearsal) -> list[str]:
    # Modules are asked too: a discriminator under no_grad leaves no node.
    names = rehearsal.batch_norms()
    if names:
        return [BATCH_NORM.format(", ".join(names))]
    return [BATCH_NORM.format("functional")] if any(map(_is_coupling_norm, order)) else []


def _min_samples(order: Iterable[Pair], rehearsal: Rehearsal) -> int:
    order = tuple(order)
    squeezes = any(pair.small.name() == "SqueezeBackward0" for pair in order)
    return 2 if squeezes or _norm_reasons(order, rehearsal) else 1


def _is_coupling_norm(pair: Pair) -> bool:
    # An instance norm is a batch norm of one sample with k * C channels.
    return (
        pair.op in table.BATCH_NORMS
        and pair.saved("training")[0] is not False
        and bool(pair.outputs)
        and pair.outputs[0].growing not in {(), (1,)}
    )


def _notes(rehearsal: Rehearsal) -> tuple[str, ...]:
    if not rehearsal.drew:
        return ()
    return (RANDOM.format(", ".join(rehearsal.random_layers()) or "random functions"),)
