"""Splitting the batch of a step into micro-batches, and joining what comes out of them.

Containers are walked by `torch.utils._pytree`; dataclasses and mappings it does not know (Hugging
Face's `BatchEncoding`) are registered there when they are first met.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch.utils import _pytree as pytree

from accum_magic.engine.per_batch import PerBatch
from accum_magic.errors import BatchError


@lru_cache(maxsize=64)  # a loop asks the same in every step
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


def cut(samples: int, most: int, least: int = 1) -> tuple[int, ...]:
    """Return micro-batches of `most` samples at most, as equal as can be; but of no fewer than `least`.

    >>> cut(7, 3)
    (3, 2, 2)
    >>> cut(7, 2, 2)
    (3, 2, 2)
    """
    return micro_batch_sizes(samples, max(1, min(-(-samples // most), samples // least)), None)


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


def attributes_of(value: object) -> dict[str, Any] | None:
    """Return the attributes with tensors of a plain object that holds a batch (torchtext's); None for all else.

    An object whose tensors require gradients is a model, and what PyTorch or pytree know is no plain object.
    """
    kind = type(value)
    own = None if kind is torch.Tensor else getattr(value, "__dict__", None)
    if not isinstance(own, dict) or kind in pytree.SUPPORTED_NODES or dataclasses.is_dataclass(kind):
        return None
    if isinstance(value, torch.Tensor | torch.nn.Module | Mapping | PerBatch | type) or callable(value):
        return None
    found = {name: part for name, part in own.items() if any(is_batch_tensor(leaf, 0) for leaf in flatten(part)[0])}
    leaves = pytree.tree_leaves(found)
    return None if any(isinstance(leaf, torch.Tensor) and leaf.requires_grad for leaf in leaves) else found or None


def with_attributes(value: Any, made: Mapping[str, object]) -> Any:
    """Return a shallow copy of a plain object with some attributes replaced; no `__init__` runs."""
    copied = copy.copy(value)
    vars(copied).update(made)
    return copied


def rows_of_attributes(attributes: Mapping[str, Any], dim: int) -> int | None:
    """Return the number of samples in the attributes of a plain object.

    Raises:
        BatchError: They disagree.

    """
    counts: dict[str, int] = {}
    for name, value in attributes.items():
        try:
            count = rows(value, dim)
        except UnequalRows as error:
            raise UnequalRows({f".{name}{k}": c for k, c in zip(error.keys, error.counts, strict=True)}) from None
        if count is not None:
            counts[f".{name}"] = count
    if len(set(counts.values())) > 1:
        raise UnequalRows(counts)
    return next(iter(counts.values()), None)


class UnequalRows(BatchError):
    """The tensors of one value have different numbers of rows, here by their keys."""

    def __init__(self, rows_of: Mapping[str, int]) -> None:
        super().__init__(", ".join(f"{key}: {count}" for key, count in rows_of.items()))
        self.keys, self.counts = tuple(rows_of), tuple(rows_of.values())


def split(value: object, sizes: tuple[int, ...], dim: int) -> Sequence[object]:
    """Split a value into micro-batches; what has no batch dimension is handed to each of them whole."""
    if isinstance(value, torch.Tensor):
        return _cut(value, sizes, dim) if value.ndim > dim else [value] * len(sizes)
    attributes = attributes_of(value)
    if attributes is not None:
        columns = {name: split(part, sizes, dim) for name, part in attributes.items()}
        return [with_attributes(value, {k: c[i] for k, c in columns.items()}) for i in range(len(sizes))]
    leaves, spec = flatten(value)
    if isinstance(value, PerBatch):
        return value.split(sizes)
    samples = sum(sizes)
    if _is_plain_sequence(value) and not any(is_batch_tensor(leaf, dim) for leaf in leaves):
        return _split_sequence(value, sizes) if len(value) == samples else [value] * len(sizes)  # type: ignore[arg-type]
    parts = [_split_leaf(leaf, sizes, dim) for leaf in leaves]
    return [pytree.tree_unflatten([part[i] for part in parts], spec) for i in range(len(sizes))]


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
