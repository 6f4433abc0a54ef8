"""Splitting the batch of a step into micro-batches, and joining what comes out of them.

Containers are walked by `torch.utils._pytree`; dataclasses and mappings it does not know (Hugging
Face's `BatchEncoding`) are registered there when they are first met.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from accum_magic.engine.per_batch import PerBatch
from accum_magic.errors import BatchError


def micro_batch_sizes(samples: int, n: int | None, size: int | None) -> tuple[int, ...]:
    """Return the sizes of the micro-batches, as equal as they can be, larger ones first.

    >>> micro_batch_sizes(10, 3, None)
    (4, 3, 3)
    >>> micro_batch_sizes(10, None, 4)
    (4, 3, 3)
    """
    count = n if n is not None else -(-samples // size)  # type: ignore[operator]
    count = max(1, min(count, samples))
    each, larger = divmod(samples, count)
    return (each + 1,) * larger + (each,) * (count - larger)


def is_batch_tensor(value: object, dim: int) -> bool:
    """Tell whether a value is a tensor or array that has the batch dimension."""
    return (isinstance(value, torch.Tensor) or type(value).__module__ == "numpy") and getattr(value, "ndim", 0) > dim


def flatten(value: object) -> tuple[list[Any], pytree.TreeSpec]:
    """Flatten a container; unknown dataclasses and mappings are registered first."""
    _register_all(value)
    return pytree.tree_flatten(value)


def rows(value: object, dim: int) -> int | None:
    """Return the number of samples in a value, None where nothing in it has a batch dimension.

    Raises:
        BatchError: Tensors inside the value disagree.

    """
    if isinstance(value, torch.Tensor):
        return value.shape[dim] if value.ndim > dim else None
    if isinstance(value, PerBatch):
        return sum(value.sizes)
    leaves = [leaf for leaf in flatten(value)[0] if is_batch_tensor(leaf, dim)]
    counts = {leaf.shape[dim] for leaf in leaves} | {sum(v.sizes) for v in flatten(value)[0] if isinstance(v, PerBatch)}
    if len(counts) > 1:
        named = [(pytree.keystr(path), leaf) for path, leaf in pytree.tree_flatten_with_path(value)[0]]
        raise UnequalRows({key: leaf.shape[dim] for key, leaf in named if is_batch_tensor(leaf, dim)})
    if counts:
        return int(next(iter(counts)))
    return len(value) if _is_plain_sequence(value) else None  # type: ignore[arg-type]


class UnequalRows(BatchError):
    """The tensors of one value have different numbers of rows, here by their keys."""

    def __init__(self, rows_of: Mapping[str, int]) -> None:
        super().__init__(", ".join(f"{key}: {count}" for key, count in rows_of.items()))
        self.keys, self.counts = tuple(rows_of), tuple(rows_of.values())


def split(value: object, sizes: tuple[int, ...], dim: int) -> Sequence[object]:
    """Split a value into micro-batches; what has no batch dimension is handed to each of them whole."""
    if isinstance(value, torch.Tensor):
        return _cut(value, sizes, dim) if value.ndim > dim else [value] * len(sizes)
    leaves, spec = flatten(value)
    if isinstance(value, PerBatch):
        return value.split(sizes)
    samples = sum(sizes)
    if _is_plain_sequence(value) and not any(is_batch_tensor(leaf, dim) for leaf in leaves):
        return _split_sequence(value, sizes) if len(value) == samples else [value] * len(sizes)  # type: ignore[arg-type]
    columns = [_split_leaf(leaf, sizes, dim) for leaf in leaves]
    return [pytree.tree_unflatten([column[i] for column in columns], spec) for i in range(len(sizes))]


def _split_leaf(leaf: Any, sizes: tuple[int, ...], dim: int) -> Sequence[object]:
    if isinstance(leaf, PerBatch):
        return leaf.split(sizes)
    if isinstance(leaf, torch.Tensor) and leaf.ndim > dim:
        return _cut(leaf, sizes, dim)
    if is_batch_tensor(leaf, dim):
        index = (slice(None),) * dim
        return [leaf[(*index, piece)] for piece in _slices(sizes)]
    return [leaf] * len(sizes)


def _cut(tensor: torch.Tensor, sizes: tuple[int, ...], dim: int) -> Sequence[torch.Tensor]:
    return torch.split_with_sizes(tensor, sizes, dim)


def _split_sequence(value: Sequence[object], sizes: tuple[int, ...]) -> list[object]:
    return [value[piece] for piece in _slices(sizes)]


def _slices(sizes: tuple[int, ...]) -> list[slice]:
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]


def _is_plain_sequence(value: object) -> bool:
    return isinstance(value, list | tuple) and not hasattr(value, "_fields")


def _register_all(value: object) -> None:
    """Make the containers of a value known to pytree; only those that are met, so nothing is slowed down."""
    kind = type(value)
    if kind in pytree.SUPPORTED_NODES:
        if isinstance(value, list | tuple):
            for item in value:
                _register_all(item)
        elif isinstance(value, Mapping):
            for item in value.values():
                _register_all(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        pytree.register_dataclass(kind)
    elif isinstance(value, Mapping) and hasattr(value, "__dict__"):
        pytree.register_pytree_node(kind, _flatten_mapping, _unflatten_mapping)


def _flatten_mapping(value: Any) -> tuple[list[Any], Any]:
    keys = tuple(value.keys())
    return [value[k] for k in keys], (type(value), keys, {k: v for k, v in vars(value).items() if k != "data"})


def _unflatten_mapping(leaves: Any, context: Any) -> Any:
    kind, keys, state = context
    made = kind.__new__(kind)
    vars(made).update(state)
    data = dict(zip(keys, leaves, strict=True))
    if issubclass(kind, dict):
        dict.update(made, data)
    else:
        made.data = data
    return made
