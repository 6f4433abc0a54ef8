"""How the batch of a step is split: which names, along which dimension, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from accum_magic.engine.first_samples import copies_of_one, first_samples
from accum_magic.engine.split import UnequalRows, attributes_of, rows, rows_of_attributes, split
from accum_magic.errors import BatchError


@dataclass(slots=True)
class Division:
    """The batch of one `step` call of the rewritten code."""

    line: int
    function: str  # of another cell, in which the step stands; empty for one of the cell itself
    loose: tuple[str, ...]
    fixed: tuple[str, ...]
    dims: Mapping[str, int | None]
    found_dims: dict[str, int] = field(default_factory=dict)  # by shape, where no line of the cell tells
    divided: Mapping[str, int] | None = None  # names that are split, and along what, decided at the first step
    absent: tuple[str, ...] = ()  # names that were None when it was decided
    pairwise: tuple[str, ...] = ()  # divided names that the probe cuts along both of their dimensions

    @property
    def where(self) -> str:
        """The line, and the function it stands in where that is another cell's."""
        return f"line {self.line} of `{self.function}`" if self.function else f"line {self.line}"

    def dim(self, name: str) -> int:
        """Return the batch dimension of a name."""
        return self.dims.get(name) or self.found_dims.get(name, 0)

    def samples(self, batch: Mapping[str, Any]) -> int:
        """Return the number of samples of a step, and decide at the first step which names are split.

        Raises:
            BatchError: Names disagree on it, a name could be the batch or not, or nothing can be split.

        """
        absent = tuple(name for name, value in batch.items() if value is None)
        if self.divided is None or absent != self.absent:  # `weight = None` in some steps says nothing of the others
            self.divided, self.absent = self._decide(batch), absent
        found = {name: count for name in self.divided if (count := self._rows(name, batch[name])) is not None}
        samples = next(iter(found.values()), None)
        if samples is None:
            raise BatchError(self._nothing(batch))
        if len(set(found.values())) > 1:
            raise BatchError(self._unequal(found))
        return samples

    def _rows(self, name: str, value: object) -> int | None:
        if type(value) is torch.Tensor:  # most often
            return rows(value, self.dim(name))
        attributes = attributes_of(value)
        try:
            return rows(value, self.dim(name)) if attributes is None else rows_of_attributes(attributes, self.dim(name))
        except UnequalRows as error:
            counts = " and ".join(f"`{name}{k}` has {c} rows" for k, c in zip(error.keys, error.counts, strict=True))
            message = (
                f"{self.where}: unequal batch sizes: {counts}. If only some of them are the batch, name them: "
                f'%%accumulate 4 --batch "{name}{error.keys[0]}"'
            )
            raise BatchError(message) from None

    def _check_list(self, name: str, value: object) -> None:
        """Refuse a list with one entry per sample (detection's images and targets): it has no batch dimension."""
        if not isinstance(value, list | tuple) or hasattr(value, "_fields") or not value:
            return
        shapes = {tuple(v.shape) for v in value if isinstance(v, torch.Tensor)}
        image_dimensions = 3
        ragged = len(shapes) > 1 and {len(s) for s in shapes} == {image_dimensions}
        if ragged or all(isinstance(v, dict) for v in value):
            message = (
                f"{self.where}: `{name}` is a list with one entry per sample ({len(value)} entries), which "
                "cannot be "
                "split along a dimension. Stack it into one tensor, or run this cell without %%accumulate."
            )
            raise BatchError(message)

    def _decide(self, batch: Mapping[str, Any]) -> dict[str, int]:
        strict = [n for n in batch if n not in self.loose and n not in self.fixed]
        for name in (*strict, *self.loose):
            self._check_list(name, batch[name])
        counts = {n: c for n in strict if (c := self._rows(n, batch[n])) is not None}
        samples = next(iter(counts.values()), None)
        for name in (n for n, dim in self.dims.items() if dim is None and n in batch):
            self.found_dims[name] = self._dim_by_shape(name, batch[name], samples)
        for name in self.fixed:
            self._check_fixed(name, batch[name], samples, next(iter(counts), ""), batch)
        loose = [n for n in self.loose if self._matches(n, batch[n], samples)]
        for name in (*strict, *loose):
            self._check_graph(name, batch[name])
        return {name: self.dim(name) for name in (*strict, *loose)}

    def _dim_by_shape(self, name: str, value: object, samples: int | None) -> int:
        """Return the dimension with as many values as samples; one that the value has not where there is none."""
        shape = getattr(value, "shape", ())
        found = [dim for dim, size in enumerate(shape) if size == samples]
        if len(found) > 1:
            message = (
                f"{self.where}: `{name}` has the shape {tuple(shape)}, and which dimension is the batch of "
                f"{samples} cannot be told. Say it: %%accumulate 4 --dim {name}={found[-1]}, or --dim "
                f"{name}={len(shape)} if it has none."
            )
            raise BatchError(message)
        return found[0] if found else len(shape)

    def _matches(self, name: str, value: object, samples: int | None) -> bool:
        try:
            return samples is not None and rows(value, self.dim(name)) == samples
        except UnequalRows:
            return False

    def _check_fixed(self, name: str, value: object, samples: int | None, main: str, batch: Mapping[str, Any]) -> None:
        if not isinstance(value, torch.Tensor) or value.requires_grad or value.ndim == 0 or value.shape[0] != samples:
            return
        unit = "values" if value.ndim == 1 else "rows"
        main_unit = "values" if getattr(batch[main], "ndim", 2) == 1 else "rows"
        message = (
            f"{self.where}: `{name}` ({value.shape[0]} {unit}) and `{main}` ({samples} {main_unit}) could both be "
            f"the batch.\nSay which: %%accumulate 4 --batch {main}"
        )
        raise BatchError(message)

    def _check_graph(self, name: str, value: object) -> None:
        if isinstance(value, torch.Tensor) and value.grad_fn is not None and value.ndim > self.dim(name):
            message = (
                f"{self.where}: the graph behind `{name}` was built before this step's micro-batches. Compute "
                f"`{name}` in the same cell, between the batch and the loss, or detach it."
            )
            raise BatchError(message)

    def _unequal(self, found: Mapping[str, int]) -> str:
        main, *others = found
        other = next(n for n in others if found[n] != found[main])
        return (
            f"{self.where}: unequal batch sizes: `{main}` has {found[main]} rows and `{other}` has {found[other]}. "
            f"If only one of them is the batch, say so: %%accumulate 4 --batch {main}; if the batch is another "
            f"dimension, name it: --dim {other}=1"
        )

    def _nothing(self, batch: Mapping[str, Any]) -> str:
        kinds = ", ".join(f"`{n}` is a {type(v).__name__}" for n, v in batch.items() if n not in self.fixed)
        return (
            f"{self.where}: found nothing to split: {kinds or 'no batch'}. Name the tensors that hold the batch: "
            "%%accumulate 4 --batch x,y (or an expression, --batch batch.text)"
        )

    def pieces(self, batch: Mapping[str, Any], sizes: tuple[int, ...]) -> list[tuple[Any, ...]]:
        """Return the arguments of the micro step, for each micro-batch."""
        divided, count = self.divided or {}, len(sizes)
        columns = (split(v, sizes, divided[n]) if n in divided else (v,) * count for n, v in batch.items())
        return list(zip(*columns, strict=True))

    def copies(self, batch: Mapping[str, Any], count: int, samples: int) -> dict[str, Any]:
        """Return the batch's first sample, `count` times."""
        return {
            name: copies_of_one(value, count, samples, None if name in self.pairwise else self.dim(name))
            if name in (self.divided or ())
            else value
            for name, value in batch.items()
        }

    def first(self, batch: Mapping[str, Any], count: int, samples: int) -> dict[str, Any]:
        """Return the batch's first samples; of what compares each sample with each, those along both dimensions."""
        return {
            name: first_samples(value, count, samples, None if name in self.pairwise else self.dim(name))
            if name in (self.divided or ())
            else value
            for name, value in batch.items()
        }
