"""Rules for values per sample: which operations keep the samples apart."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, NamedTuple

import torch

from accum_magic.engine import reductions as table
from accum_magic.engine.graph import as_signed
from accum_magic.engine.terms import Coupling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from accum_magic.engine.graph import Output, Pair
    from accum_magic.engine.terms import Context, Kid


BY_PLACE = "{} takes samples by their place in the batch"
UNTOLD = 0
"""Blocks of a value whose order of rows nothing has told yet: ``linear(x)`` of a flattened (T, B) input."""


class Layout(NamedTuple):
    """How the samples lie in the growing dimension of an output, or why they are no longer apart."""

    blocks: int = 1
    is_ragged: bool = False
    fault: str = ""


def layout_of(pair: Pair, kids: Sequence[Kid], context: Context) -> Layout:
    """Apply the rule of the operation. At least one output grows, and no input is reduced over the batch."""
    output = next(out for out in pair.outputs if out.growing)
    dim = output.growing[0]
    rows = [kid for kid in kids if kid.flow.kind == "rows"]
    is_ragged = any(kid.flow.is_ragged for kid in rows)
    found = _rule(pair, output, dim, rows, context)
    if found.fault or found.is_ragged:
        return found
    if not context.is_regular(output.small[dim], output.large[dim]):
        if rows and not is_ragged:
            return Layout(fault=BY_PLACE.format(pair.op))
        is_ragged = True
    if pair.op in table.INDEX_WRITES or pair.op == "CopySlices":
        is_ragged = False  # written back into a tensor with a fixed number of values per sample
    if not rows:
        return Layout(1 if output.small[dim] == context.k else UNTOLD, is_ragged)
    return Layout(found.blocks, is_ragged)


def _rule(pair: Pair, output: Output, dim: int, rows: Sequence[Kid], context: Context) -> Layout:
    op = pair.op
    if op in table.VIEWS:
        return _view(output, dim, rows, context)
    if op == "Cat":
        return _cat(pair, output, dim, rows)
    if op == "Repeat":
        return _repeat(pair, dim, rows)
    if op in table.SPLITS:
        return _split(pair, output, dim, rows, context)
    if op in table.INDEXES or op in table.INDEX_WRITES:
        return _index(pair, dim, rows)
    if op in table.SELECTIONS:
        return Layout(is_ragged=True)
    blocks = _common_blocks(rows)
    if blocks is None:
        return Layout(fault=f"{op} pairs samples of different places in the batch")
    return Layout(blocks, fault=_mixing(pair, output, dim, rows))


def _common_blocks(rows: Sequence[Kid]) -> int | None:
    told = {kid.flow.blocks for kid in rows} - {UNTOLD}
    if len(told) > 1:
        return None
    return told.pop() if told else UNTOLD


def _mixing(pair: Pair, output: Output, dim: int, rows: Sequence[Kid]) -> str:
    op, rank = pair.op, len(output.small)
    if op in table.ALONG_DIM:
        return _along(pair, dim)
    trailing = _trailing(pair)
    if trailing:
        mixed = dim >= rank - trailing or any(kid.growing[-1] >= len(kid.output.small) - trailing for kid in rows)
        return f"{op} mixes values along the batch dimension" if mixed else ""
    if op in table.CONVOLUTIONS:
        groups = pair.saved("groups")
        is_grouped = dim == 1 and groups[0] != groups[1]
        return "" if dim == 0 or is_grouped else f"{op} slides along the batch dimension"
    if op in table.MATMULS:
        return _contraction(pair, rows)
    if op in table.RECURRENT:
        return _recurrent(pair)
    if op in table.FIRST_DIM:
        return "" if dim == 0 else f"{op} mixes values along the batch dimension"
    if op in table.AXES | table.PICKS | table.REDUCERS | table.LOSSES | table.ANY_DIM | table.BATCH_NORMS:
        return ""
    if op == "Stack" or table.is_pointwise(op):
        return ""
    return f"{op} is not known to treat samples one by one"


def _along(pair: Pair, dim: int) -> str:
    dims = pair.dims("dim", "dims", "dimension")
    # `roll` without dimensions rolls the flattened tensor.
    return Coupling(f"{table.words_for(pair.op)} runs along the batch dimension") if dim in dims or not dims else ""


def _trailing(pair: Pair) -> int:
    if pair.op in table.LAYER_NORMS:
        shape = pair.saved("normalized_shape")[0]
        return len(shape) if shape is not None else 1
    if pair.op == "ConstantPadNd":
        pads = pair.saved("pad")[0]
        return max((i // 2 + 1 for i, pad in enumerate(pads) if as_signed(pad)), default=0)
    return table.trailing_dims(pair.op)


def _contraction(pair: Pair, rows: Sequence[Kid]) -> str:
    left, right = table.MATMULS[pair.op]
    for kid in rows:
        rank = len(kid.output.small)
        # `linear` keeps its weight as (out, in): both operands are summed along their last dimension.
        is_last = kid.index == left or pair.op == "Linear" or rank == 1
        summed = {left: rank - 1, right: rank - 1 if is_last else rank - 2}.get(kid.index)
        if summed in kid.growing:
            return Coupling(f"{table.words_for(pair.op)} sums over the batch and hands the sum back to single samples")
    return ""


def _recurrent(pair: Pair) -> str:
    output = pair.outputs[0]
    if len(output.small) < 3:  # noqa: PLR2004  packed: (values of all samples, features)
        return ""
    is_batch_first = pair.op != "MkldnnRnnLayer" and bool(pair.saved("batch_first")[0])
    return (
        ""
        if output.growing == (0 if is_batch_first else 1,)
        else f"{table.words_for(pair.op)} runs along the batch dimension"
    )


def _view(output: Output, dim: int, rows: Sequence[Kid], context: Context) -> Layout:
    if not rows or rows[0].flow.is_ragged:
        return Layout()
    source = rows[0]
    # In flat order the samples change after `outer` repeats; the new shape must cut at the same places.
    # `x.view(T, B)` of a (B, T) tensor does not: its columns hold values of several samples.
    before = prod(output.small[:dim])
    per_sample = output.small[dim] // context.k
    if source.flow.blocks == UNTOLD:
        return Layout(1 if per_sample == 1 else UNTOLD)
    outer = prod(source.output.small[: source.growing[0]]) * source.flow.blocks
    blocks = outer // before if before and outer % before == 0 else 0
    if blocks == 0 or per_sample % blocks:
        return Layout(fault="a view or reshape puts values of different samples into one row")
    return Layout(blocks)


def _cat(pair: Pair, output: Output, dim: int, rows: Sequence[Kid]) -> Layout:
    blocks = _common_blocks(rows)
    if dim not in pair.dims("dim") or not rows:
        return Layout(fault=_CAT_MIXES) if blocks is None else Layout(blocks)
    # Inputs without a graph are not told; they take the room that is left, in blocks of the same size.
    sizes = {kid.output.small[dim] // max(kid.flow.blocks, 1) for kid in rows}
    block = sizes.pop()
    if sizes or output.small[dim] % block or any(kid.growing != (dim,) for kid in rows):
        return Layout(fault=_CAT_MIXES)
    return Layout(output.small[dim] // block, any(kid.flow.is_ragged for kid in rows))


_CAT_MIXES = "Cat joins samples with values that are no samples of the same batch"


def _repeat(pair: Pair, dim: int, rows: Sequence[Kid]) -> Layout:
    if not rows:
        return Layout()
    repeats = pair.saved("repeats")[0]
    return Layout(rows[0].flow.blocks * repeats[dim])


def _split(pair: Pair, output: Output, dim: int, rows: Sequence[Kid], context: Context) -> Layout:
    if not rows:
        return Layout()
    source = rows[0]
    size, blocks = source.output.small[dim], source.flow.blocks
    if dim not in pair.dims("dim") or size == output.small[dim]:
        return Layout(blocks)
    # A cut after a whole batch tells that untold rows lie batch after batch: `out[:n], out[n:]`.
    block = size // blocks if blocks != UNTOLD else context.k
    starts = [int(as_signed(start or 0)) for start in pair.saved("start")]
    steps = {step for step in pair.saved("step") if step is not None}
    is_cut_between = all(out.small[dim] % block == 0 for out in pair.outputs) and starts[0] % block == 0
    if source.flow.is_ragged or not is_cut_between or steps - {1}:
        return Layout(fault=BY_PLACE.format(pair.op))
    return Layout(output.small[dim] // block)


def _index(pair: Pair, dim: int, rows: Sequence[Kid]) -> Layout:
    if not rows:
        return Layout()  # a lookup in parameters: each sample reads its own entries
    is_write = pair.op in table.INDEX_WRITES
    along = dim if is_write else rows[0].growing[0]
    orders = [_order(indices, along) for indices in pair.saved("indices")]
    if "mixed" in orders:
        return Layout(fault=BY_PLACE.format(pair.op))
    blocks = next((kid.flow.blocks for kid in rows if kid.index == 0), 1)
    return Layout(blocks, is_ragged="some" in orders and not is_write)


def _order(indices: Sequence[torch.Tensor | None], dim: int) -> str:
    """Which samples are taken: all in order, some in order (a mask), or mixed."""
    position = 0
    for index in indices:
        width = index.dim() if index is not None and index.dtype in {torch.bool, torch.uint8} else 1
        if position <= dim < position + width:
            return _order_of(index)
        position += width
    return "all"


def _order_of(index: torch.Tensor | None) -> str:
    if index is None:
        return "all"
    if index.dtype in {torch.bool, torch.uint8}:
        return "some"
    flat = index.flatten()
    if torch.equal(flat, torch.arange(flat.numel(), device=flat.device, dtype=flat.dtype)):
        return "all"
    return "some" if bool((flat.diff() >= 0).all()) else "mixed"


def is_selection(pair: Pair) -> bool:
    """Whether the data decide how many values come out, so that an equal size in both runs is chance."""
    if pair.op in table.SELECTIONS:
        return True
    if pair.op not in table.INDEXES:
        return False
    indices = pair.saved("indices")[0] or ()
    return any(index is not None and index.dtype in {torch.bool, torch.uint8} for index in indices)
