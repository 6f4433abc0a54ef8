"""The targets of a cross entropy where they are a leaf of the batch: their total weight is told before the loop.

A cross entropy divides by the total weight of its valid targets (`ignore_index`, class weights), which
differs between micro-batches (transformers#34191).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from accum_magic.engine.split import flatten

_INT64 = 1 << 63


@dataclass(frozen=True, slots=True)
class View:
    """A leaf's memory as a loss reads it: `y`, `y.view(-1)`, or the column `y[:, t]` of one time step."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dim: int
    """The dimension that the samples lie along."""
    each: int
    """Values along it per sample."""

    @staticmethod
    def of(target: torch.Tensor, leaf: torch.Tensor, dim: int) -> View | None:
        """Find a micro-batch's targets in the memory of a leaf of its batch; None where they are not in it."""
        if target.dtype != leaf.dtype or not target.numel() or leaf.ndim <= dim:
            return None
        if target.untyped_storage().data_ptr() != leaf.untyped_storage().data_ptr():
            return None
        offset = int(target.storage_offset() - leaf.storage_offset())
        return _view(tuple(target.shape), target.stride(), offset, leaf.shape[dim], leaf.stride(dim))

    def on(self, leaf: torch.Tensor, samples: int) -> torch.Tensor:
        """Return the same view of the whole batch."""
        size = (*self.size[: self.dim], self.each * samples, *self.size[self.dim + 1 :])
        if not self.offset and size == leaf.shape and self.stride == leaf.stride():
            return leaf
        return leaf.as_strided(size, self.stride, leaf.storage_offset() + self.offset)


@lru_cache(maxsize=64)  # a loop asks the same in every step
def _view(size: tuple[int, ...], stride: tuple[int, ...], offset: int, samples: int, step: int) -> View | None:
    """Return the view of a leaf whose `samples` lie `step` values apart; None where they do not all have a part."""
    for dim, (count, apart) in enumerate(zip(size, stride, strict=True)):
        each, rest = divmod(count, samples)
        if not rest and apart * each == step:
            return View(size, stride, offset, dim, each)
    return None


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """Where in the batch the targets of a cross entropy lie, and what counts among them."""

    name: str
    leaf: int
    view: View
    ignore_index: int
    class_weight: torch.Tensor | None

    def totals(self, batch: Mapping[str, Any], sizes: Sequence[int]) -> Sequence[float]:
        """Return the total weight of each micro-batch's targets, up to a common factor."""
        target = self.view.on(_leaf(batch, self.name, self.leaf), sum(sizes))
        if self.class_weight is None and int(target.min()) > self.ignore_index:  # a third of the time of `!=` and `all`
            return sizes
        valid = target != self.ignore_index
        if self.class_weight is None:
            if bool(valid.all()):
                return sizes
            weight = valid.to(torch.float64 if target.device.type != "mps" else torch.float32)
        else:
            safe = torch.where(valid, target, torch.zeros_like(target))
            weight = self.class_weight.to(target.device)[safe] * valid
        rows = weight.movedim(self.view.dim, 0).flatten(1).sum(1) if weight.ndim > 1 else weight
        pieces = torch.split_with_sizes(rows, [self.view.each * k for k in sizes])
        return torch.stack([piece.sum() for piece in pieces]).tolist()


def find_targets(
    node: Any, pieces: Mapping[str, Any], batch: Mapping[str, Any], dims: Mapping[str, int]
) -> Targets | None:
    """Find the leaf of the batch that a cross entropy takes its targets from; None where it made its own."""
    target = getattr(node, "_saved_target", None)
    if target is None or target.is_floating_point():
        return None
    ignore = int(node._saved_ignore_index)
    for name, dim in dims.items():
        piece = pieces[name]
        for index, leaf in enumerate((piece,) if isinstance(piece, torch.Tensor) else flatten(piece)[0]):
            view = View.of(target, leaf, dim) if isinstance(leaf, torch.Tensor) else None
            if view is not None and isinstance(_leaf(batch, name, index), torch.Tensor):  # no window's unequal parts
                weight = node._saved_weight
                return Targets(name, index, view, ignore - 2 * _INT64 if ignore >= _INT64 else ignore,
                               None if weight is None else weight.detach())  # fmt: skip
    return None


def _leaf(batch: Mapping[str, Any], name: str, index: int) -> Any:
    value = batch[name]
    return value if isinstance(value, torch.Tensor) else flatten(value)[0][index]
