"""A value of a window's loader batches that cannot be put together: it stays one per loader batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from accum_magic.errors import BatchError

_MOVES = frozenset(
    {"to", "cuda", "cpu", "float", "double", "half", "bfloat16", "long", "int", "bool", "type", "contiguous", "clone",
     "detach", "pin_memory"}
)  # fmt: skip


class PerBatch:
    """One value per loader batch: device moves and dtype casts reach each of them, nothing else reads them whole."""

    def __init__(self, parts: Sequence[Any], sizes: tuple[int, ...], dim: int = 0) -> None:
        self.parts, self.sizes, self.dim = tuple(parts), sizes, dim

    def __getattr__(self, name: str) -> Callable[..., PerBatch]:
        if name.startswith("__"):
            raise AttributeError(name)
        if name not in _MOVES:
            self._complain()
        return lambda *a, **k: PerBatch([getattr(part, name)(*a, **k) for part in self.parts], self.sizes, self.dim)

    def _complain(self, *_args: object, **_kwargs: object) -> NoReturn:
        shapes = " and ".join(dict.fromkeys(str(tuple(getattr(p, "shape", ()))) or repr(p) for p in self.parts))
        message = (
            f"--window: loader batches of the shapes {shapes} (dynamic padding) cannot be put together, and this cell "
            "reads them as a whole outside of the forward pass. Read them inside the forward pass only, or pad all "
            "batches to one length."
        )
        raise BatchError(message)

    __getitem__ = __iter__ = __len__ = __float__ = __int__ = __bool__ = __array__ = _complain
    __add__ = __sub__ = __mul__ = __truediv__ = __matmul__ = __radd__ = __rsub__ = __rmul__ = __eq__ = _complain
    __pow__ = __lt__ = __le__ = __gt__ = __ge__ = __ne__ = __neg__ = __rtruediv__ = __invert__ = _complain
    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def __torch_function__(cls, _func: object, _types: object, args: Any = (), kwargs: Any = None) -> NoReturn:
        """Complain where a function of PyTorch is given the value as a whole."""
        found = next(a for a in (*args, *(kwargs or {}).values(), None) if isinstance(a, cls))
        found._complain()

    def split(self, sizes: tuple[int, ...]) -> Sequence[Any]:
        """Return the part of each micro-batch; loader batches may be cut, but none is put together with another.

        Raises:
            BatchError: A micro-batch reaches over the border of loader batches.

        """
        if sizes == self.sizes:
            return self.parts
        if len(sizes) <= 2 and sizes[0] <= self.sizes[0] and sum(sizes) == sum(self.sizes):  # noqa: PLR2004 - the probe's
            return [self._cut(0, sizes[0], 0), *[self] * (len(sizes) - 1)]
        pieces, left = [], list(sizes)
        for place, samples in enumerate(self.sizes):
            start = 0
            while start < samples and left:
                pieces.append(self._cut(place, left[0], start))
                start += left.pop(0)
            if start != samples:
                self._complain()
        return pieces

    def _cut(self, place: int, count: int, start: int) -> Any:
        """Return some samples of a loader batch's value; one that is not per sample is that of all of them."""
        part, samples = self.parts[place], self.sizes[place]
        if isinstance(part, list | tuple) and len(part) == samples:
            return part[start : start + count]
        if getattr(part, "ndim", 0) <= self.dim:
            return part
        return part[(slice(None),) * self.dim + (slice(start, start + count),)]
