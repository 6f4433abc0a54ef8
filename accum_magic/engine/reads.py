"""Which numbers a forward reads off its tensors, and whether it hangs hooks on them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_NUMBERS = {torch.Tensor.item, torch.Tensor.__float__, torch.Tensor.__int__, torch.Tensor.__index__}
_HOOKS = {torch.Tensor.register_hook, torch.Tensor.register_post_accumulate_grad_hook}
_SUMS = {torch.Tensor.sum, torch.sum, torch.Tensor.count_nonzero, torch.count_nonzero}
_CASTS = {
    torch.Tensor.to, torch.Tensor.type, torch.Tensor.type_as, torch.Tensor.float, torch.Tensor.double,
    torch.Tensor.half, torch.Tensor.bfloat16, torch.Tensor.long, torch.Tensor.int, torch.Tensor.clone,
    torch.Tensor.detach, torch.clone,
}  # fmt: skip
_ARRAYS = {torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.__array__}


class NumberReads(TorchFunctionMode):
    """Record every number that the block reads with ``item()``, ``int()``, ``float()`` and the like.

    The graph shows ``/ mask.sum().item()`` as a plain number; on full masks it even grows as the batch
    does. Only the reading tells that it came from the data.
    """

    def __init__(self) -> None:
        super().__init__()
        self.numbers: list[float] = []
        self.arrays = 0
        """How many whole arrays were read: any number may have come from them."""
        self.hooks = 0
        """How many hooks were hung on tensors."""
        self.totals: list[tuple[torch.Tensor, torch.Tensor]] = []
        """Sums of all values of a tensor without a graph, and what was summed up; casts of a sum are sums again."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call through, noting numbers on the way."""
        result = func(*args, **(kwargs or {}))
        if func in _NUMBERS and isinstance(result, (int, float)):
            self.numbers.append(float(result))
        elif func in _ARRAYS:
            self.arrays += 1
        elif func in _HOOKS:
            self.hooks += 1
        elif func in _SUMS or func in _CASTS:
            self._note_total(func, args[0] if args else None, result)
        return result

    def _note_total(self, func: object, source: object, result: object) -> None:
        if not isinstance(result, torch.Tensor) or not isinstance(source, torch.Tensor):
            return
        if result.numel() != 1 or source.requires_grad:
            return
        if func in _SUMS:
            self.totals.append((result, source))
        elif (place := self.place_of(source)) is not None:
            self.totals.append((result, self.totals[place][1]))

    def place_of(self, total: torch.Tensor) -> int | None:
        """Return which of the totals a tensor is."""
        # each is kept, so one address is one tensor
        return next((i for i, (known, _) in enumerate(self.totals) if known.data_ptr() == total.data_ptr()), None)


def was_read(pair: tuple[float, float], reads: tuple[NumberReads, NumberReads]) -> bool:
    """Whether the two runs read this pair of numbers, up to an epsilon, at the same place."""
    both = zip(reads[0].numbers, reads[1].numbers, strict=False)
    return any(all(map(_is_close, pair, found)) for found in both)


def _is_close(value: float, found: float) -> bool:
    return math.isclose(value, found, rel_tol=1e-5)
