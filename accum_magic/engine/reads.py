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
        return result


def was_read(pair: tuple[float, float], reads: tuple[NumberReads, NumberReads]) -> bool:
    """Whether the two runs read this pair of numbers, up to an epsilon, at the same place."""
    both = zip(reads[0].numbers, reads[1].numbers, strict=False)
    return any(all(map(_is_close, pair, found)) for found in both)


def _is_close(value: float, found: float) -> bool:
    return math.isclose(value, found, rel_tol=1e-5)
