"""`--window`: a loader whose batches are N batches of the user's loader, put together leaf by leaf."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch.utils import _pytree as pytree

from accum_magic.engine.per_batch import PerBatch
from accum_magic.engine.split import attributes_of, flatten, is_batch_tensor, with_attributes

_REMEMBERED = 8  # windows whose borders are known: a step's own, and those of loaders that it reads in between
_BORDERS: deque[tuple[int, ...]] = deque(maxlen=_REMEMBERED)


class Window:
    """A view of a loader as one with batches N times larger, without the memory of them on the device.

    Everything else is asked of the loader itself, but `batch_size`, which is N times larger as well.
    """

    def __init__(self, loader: Any, n: int, dims: int | tuple[int, ...] = 0) -> None:
        self._loader, self._n, self._dims = loader, n, dims
        self._drops = getattr(loader, "drop_last", False) is True

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self._loader)
        while group := list(islice(batches, self._n)):
            if len(group) < self._n and self._drops:
                return
            yield self._joined(group)

    def __next__(self) -> Any:
        return next(iter(self))  # an iterator in the place of a loader goes on where it is

    def __len__(self) -> int:
        batches = len(self._loader)
        return batches // self._n if self._drops else -(-batches // self._n)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._loader, name)
        return value * self._n if name == "batch_size" and isinstance(value, int) else value

    def _joined(self, group: Sequence[Any]) -> Any:
        dims = self._dims if isinstance(self._dims, tuple) else (self._dims,)
        sizes = tuple(_samples(batch, dims) for batch in group)
        _BORDERS.append(sizes)
        if isinstance(self._dims, tuple) and isinstance(group[0], list | tuple):
            parts = [_join(column, sizes, dim) for column, dim in zip(zip(*group, strict=True), dims, strict=True)]
            return type(group[0])(parts)
        return _join(group, sizes, dims[0])


def window(loader: Any, n: int, *, dims: int | tuple[int, ...] = 0) -> Window:
    """Return a loader's batches, `n` at a time put together; the rewritten cell calls this.

    Args:
        loader: Anything that yields batches; an iterator goes on where it is.
        n: Batches per window; the last window may have fewer.
        dims: Batch dimension of the values, one for each of a tuple's or one for all.

    >>> import torch
    >>> [len(x) for x in window(torch.arange(10).split(3), 2)]
    [6, 4]
    """
    return Window(loader, n, dims)


def borders(samples: int) -> tuple[int, ...] | None:
    """Return how many samples each loader batch of the last window with so many samples has; None where none had."""
    return next((sizes for sizes in reversed(_BORDERS) if sum(sizes) == samples), None)


def _samples(batch: Any, dims: Sequence[int]) -> int:
    """Count the samples of one loader batch: the size of its first tensor."""
    parts = batch if len(dims) > 1 else [batch]
    for part, dim in zip(parts, dims, strict=True):
        for leaf in flatten(attributes_of(part) or part)[0]:
            if is_batch_tensor(leaf, dim):
                return int(leaf.shape[dim])
    return len(batch) if isinstance(batch, list | tuple) else 1


def _join(group: Sequence[Any], sizes: tuple[int, ...], dim: int) -> Any:
    """Put one value of several batches together."""
    first = group[0]
    if is_batch_tensor(first, dim):
        return _joined_leaf(group, sizes, dim)
    if isinstance(first, list | tuple) and not hasattr(first, "_fields") and _holds_samples(group, sizes):
        return type(first)(item for batch in group for item in batch)
    if not flatten(first)[1].is_leaf():
        return _joined_container(group, sizes, dim)
    if attributes_of(first) is not None:
        return with_attributes(first, {k: _join([vars(b)[k] for b in group], sizes, dim) for k in vars(first)})
    is_same = all(type(one) is type(first) and bool(torch.as_tensor(one == first).all()) for one in group)
    return first if is_same else PerBatch(group, sizes, dim)


def _holds_samples(group: Sequence[Any], sizes: tuple[int, ...]) -> bool:
    """Whether lists have one entry per sample, such as the texts of a batch."""
    has_parts = any(isinstance(entry, Iterable) and not isinstance(entry, str) for batch in group for entry in batch)
    return not has_parts and [len(batch) for batch in group] == list(sizes)


def _joined_container(group: Sequence[Any], sizes: tuple[int, ...], dim: int) -> Any:
    flat = [_parts(batch) for batch in group]
    columns = zip(*(parts for parts, _ in flat), strict=True)
    return pytree.tree_unflatten([_join(column, sizes, dim) for column in columns], flat[0][1])


def _parts(value: Any) -> tuple[list[Any], pytree.TreeSpec]:
    """Take a container apart by one level."""
    return pytree.tree_flatten(value, is_leaf=lambda part: part is not value)


def _joined_leaf(group: Sequence[Any], sizes: tuple[int, ...], dim: int) -> Any:
    shapes = {(*leaf.shape[:dim], *leaf.shape[dim + 1 :]) for leaf in group}
    if len(shapes) > 1:
        return PerBatch(group, sizes, dim)  # dynamic padding: each loader batch has a length of its own
    if isinstance(group[0], torch.Tensor):
        return torch.cat(list(group), dim)
    import numpy as np

    return np.concatenate(list(group), dim)
