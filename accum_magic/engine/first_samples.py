"""The first samples of a batch: what the probe runs a step on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.utils import _pytree as pytree

from accum_magic.engine.split import attributes_of, is_batch_tensor, split, with_attributes


def pairwise_names(batch: Mapping[str, Any], names: Iterable[str], samples: int) -> tuple[str, ...]:
    """Return the names that compare each sample with each, such as `y[:, None] == y`."""
    square = (samples, samples)
    return tuple(name for name in names if tuple(getattr(batch[name], "shape", ())[:2]) == square)


def first_samples(value: Any, count: int, samples: int, dim: int | None) -> Any:
    """Return the first of a value's samples; a batch with fewer of them is repeated.

    `dim` is the batch dimension; None for both of the first two.
    """
    if dim is None:
        index = torch.arange(count, device=value.device) % samples
        return value[index][:, index]
    if count <= samples:
        return split(value, (count, samples - count) if count < samples else (samples,), dim)[0]
    return _repeated(value, count, dim)


def copies_of_one(value: Any, count: int, samples: int, dim: int | None) -> Any:
    """Return a value's first sample, `count` times."""
    if dim is None:
        return value[:1, :1].expand(count, count, *value.shape[2:])
    return _repeated(first_samples(value, 1, samples, dim), count, dim)


def _repeated(value: Any, count: int, dim: int) -> Any:
    if isinstance(value, torch.Tensor):
        index = torch.arange(count, device=value.device) % value.shape[dim]
        return value.index_select(dim, index)
    if is_batch_tensor(value, dim):  # an array of NumPy: a batch that the step itself makes a tensor of
        return value.take([i % value.shape[dim] for i in range(count)], axis=dim)
    attributes = attributes_of(value)
    if attributes is not None:
        return with_attributes(value, {k: _repeated(v, count, dim) for k, v in attributes.items()})
    if isinstance(value, list | tuple) and not any(is_batch_tensor(v, dim) for v in value):
        return [value[i % len(value)] for i in range(count)]
    return pytree.tree_map(lambda leaf: _repeated(leaf, count, dim) if is_batch_tensor(leaf, dim) else leaf, value)
